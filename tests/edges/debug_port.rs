//! The debug port of a running picker: what it read from files, its fleet, and dry runs.

use anyhow::{Context as _, Result};
use proto::picker_v1::explain_client::ExplainClient;
use proto::picker_v1::{DecisionRecord, DryRunRequest, Scorer, WhatIf};
use serde_json::{Value, json};
use tests::client;
use tests::config_dir::ConfigDir;
use tonic::transport::{Channel, Endpoint};

use crate::running::Running;

const ONE: &str = "127.0.0.1:1";
const TWO: &str = "127.0.0.2:1";

/// Two endpoints of the pool `llama`, which serves `tiny` also as `alias`.
async fn running() -> Result<Running> {
    let config = ConfigDir::new()?;
    config.pool("llama", &[ONE.parse()?, TWO.parse()?])?;
    config.model_server("server", "llama", 1, Some("tiny"))?;
    config.model_route("route", "alias", &["adapter"], "server")?;
    let running = Running::start(config, &[]).await?;
    running.until_ready(200).await?;
    Ok(running)
}

async fn json(running: &Running, path: &str) -> Result<(u16, Value)> {
    let reply = client::get(running.addresses.debug, path).await?;
    Ok((reply.status, reply.json()?))
}

async fn explain(running: &Running) -> Result<ExplainClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{}", running.addresses.debug))?;
    Ok(ExplainClient::new(endpoint.connect().await?))
}

fn question(model: &str) -> DryRunRequest {
    let prompt = "a prompt that fills some blocks ".repeat(40);
    DryRunRequest {
        body: json!({"model": model, "prompt": prompt}).to_string().into_bytes(),
        path: "/v1/completions".to_owned(),
        ..DryRunRequest::default()
    }
}

async fn dry_run(client: &mut ExplainClient<Channel>, asked: DryRunRequest) -> Result<DecisionRecord> {
    Ok(client.dry_run(asked).await?.into_inner())
}

#[tokio::test]
async fn a_dry_run_decides_and_leaves_nothing_behind() -> Result<()> {
    let running = running().await?;
    let mut client = explain(&running).await?;
    for _ in 0..5 {
        let record = dry_run(&mut client, question("alias")).await?;
        assert!(record.dry_run && record.refusal.is_none(), "{record:?}");
        assert_eq!((&*record.pool, &*record.model, &*record.target_model), ("default/llama", "alias", "tiny"));
        assert_eq!((&*record.route, &*record.model_server), ("default/route", "default/server"));
        let mut addresses: Vec<&str> = record.candidates.iter().map(|candidate| &*candidate.address).collect();
        addresses.sort_unstable();
        assert_eq!(addresses, [ONE, TWO]);
        let first = record.candidates.iter().find(|candidate| candidate.rank == Some(0)).context("a first")?;
        assert_eq!(first.address, record.endpoint);
        assert!(record.scorers.iter().any(|scorer| scorer.name == "prefix-cache"));
        // Counted and learned, the second would find the first.
        assert!(record.blocks > 10, "{}", record.blocks);
        assert!(record.candidates.iter().all(|candidate| (candidate.in_flight, candidate.matched_blocks) == (0, 0)));
    }
    let (_, fleet) = json(&running, "/debug/fleet").await?;
    let endpoints = fleet["endpoints"].as_array().context("endpoints")?;
    assert!(endpoints.iter().all(|endpoint| endpoint["inFlight"] == 0 && endpoint["uncachedTokens"] == 0), "{fleet:#}");
    assert_eq!(json(&running, "/debug/decisions").await?.1, json!({"decisions": []}));
    let metrics = client::get(running.addresses.metrics, "/metrics").await?.text();
    let counted: Vec<&str> =
        metrics.lines().filter(|line| line.starts_with("kthena_router_decisions_total{")).collect();
    assert_eq!(counted.len(), 2, "one for each endpoint: {counted:?}");
    assert!(counted.iter().all(|line| line.ends_with(" 0")), "{counted:?}");
    Ok(())
}

#[tokio::test]
async fn a_dry_run_obeys_the_subset_and_explains_a_refusal() -> Result<()> {
    let running = running().await?;
    let mut client = explain(&running).await?;
    let asked = DryRunRequest { subset: vec!["127.0.0.2".to_owned()], ..question("alias") };
    let record = dry_run(&mut client, asked).await?;
    assert_eq!(record.endpoint, TWO);
    let removed = record.candidates.iter().find(|candidate| candidate.address == ONE).context("the other")?;
    assert_eq!((&*removed.removed_by, removed.rank), ("subset", None));

    let refused = dry_run(&mut client, question("unheard-of")).await?;
    let refusal = refused.refusal.context("a refusal")?;
    assert_eq!((&*refusal.code, refusal.status), ("model_not_found", 404));
    assert_eq!(refused.endpoint, "");

    let wrong = DryRunRequest { subset: vec!["nobody".to_owned()], ..question("alias") };
    let error = client.dry_run(wrong).await.err().context("an error")?;
    assert!(error.message().contains("`subset` must hold ip:port or ip, not `nobody`"), "{error}");
    let wrong = DryRunRequest { pool: "default/qwen".to_owned(), ..question("alias") };
    let error = client.dry_run(wrong).await.err().context("an error")?;
    assert!(error.message().contains("known: default/llama"), "{error}");
    Ok(())
}

#[tokio::test]
async fn the_configuration_is_shown_by_kinds_and_one_by_one() -> Result<()> {
    let running = running().await?;
    let (_, pods) = json(&running, "/debug/config_dump/pods").await?;
    let names: Vec<&Value> = pods["pods"].as_array().context("pods")?.iter().map(|pod| &pod["name"]).collect();
    assert_eq!(names, ["llama-0", "llama-1"]);
    let one = "/debug/config_dump/namespaces/default";
    let (status, pod) = json(&running, &format!("{one}/pods/llama-1")).await?;
    assert_eq!((status, &pod["name"], &pod["namespace"]), (200, &json!("llama-1"), &json!("default")));
    assert_eq!((&pod["podInfo"]["podIP"], &pod["podInfo"]["labels"]), (&json!("127.0.0.2"), &json!({"app": "llama"})));
    assert_eq!((&pod["engine"], &pod["modelServers"]), (&json!("vLLM"), &json!(["default/server"])));

    let (_, server) = json(&running, &format!("{one}/modelservers/server")).await?;
    assert_eq!(server["associatedPods"], json!(["default/llama-0", "default/llama-1"]));
    assert_eq!((&server["spec"]["model"], &server["spec"]["inferenceEngine"]), (&json!("tiny"), &json!("vLLM")));
    let (_, servers) = json(&running, "/debug/config_dump/modelservers").await?;
    assert_eq!(servers, json!({"modelservers": [server]}));

    let (_, route) = json(&running, &format!("{one}/modelroutes/route")).await?;
    assert_eq!((&route["spec"]["modelName"], &route["spec"]["loraAdapters"]), (&json!("alias"), &json!(["adapter"])));
    let (_, routes) = json(&running, "/debug/config_dump/modelroutes").await?;
    assert_eq!(routes, json!({"modelroutes": [route]}));

    let (_, pool) = json(&running, &format!("{one}/inferencepools/llama")).await?;
    assert_eq!(pool["spec"]["selector"]["matchLabels"], json!({"app": "llama"}));
    let (_, status) = json(&running, "/debug/config_dump").await?;
    assert_eq!(status["lastError"], Value::Null);
    assert!(status["loadedAt"].is_string(), "{status}");
    Ok(())
}

#[tokio::test]
async fn an_object_that_is_not_there_is_a_404_that_names_its_kind() -> Result<()> {
    let running = running().await?;
    let kinds = "no such kind: modelroutes, modelservers, pods or inferencepools";
    for (path, error) in [
        ("namespaces/default/pods/llama-9", "Pod not found"),
        ("namespaces/other/pods/llama-0", "Pod not found"),
        ("namespaces/default/modelservers/route", "ModelServer not found"),
        ("namespaces/default/modelroutes/server", "ModelRoute not found"),
        ("namespaces/default/inferencepools/qwen", "InferencePool not found"),
        ("namespaces/default/gateways/llama", kinds),
        ("gateways", kinds),
    ] {
        let answer = json(&running, &format!("/debug/config_dump/{path}")).await?;
        assert_eq!(answer, (404, json!({"error": error})), "{path}");
    }
    Ok(())
}

#[tokio::test]
async fn the_fleet_lists_endpoints_and_pools() -> Result<()> {
    let running = running().await?;
    let (_, fleet) = json(&running, "/debug/fleet").await?;
    assert_eq!(fleet["pools"], json!([{"name": "default/llama", "endpoints": 2, "ready": 2}]));
    let endpoint = |name: &str, address: &str| {
        json!({
            "pool": "default/llama",
            "role": null,
            "name": format!("default/{name}"),
            "address": address,
            "ready": true,
            "engine": "vLLM",
            "inFlight": 0,
            "uncachedTokens": 0,
        })
    };
    // Nobody listens there, so there are no gauges.
    assert_eq!(fleet["endpoints"], json!([endpoint("llama-0", ONE), endpoint("llama-1", TWO)]));
    assert_eq!(fleet["known"], true);
    Ok(())
}

/// A dry run after a change.
async fn tried(running: &Running, what_if: WhatIf) -> Result<DecisionRecord> {
    let asked = DryRunRequest { what_if: Some(what_if), ..question("alias") };
    dry_run(&mut explain(running).await?, asked).await
}

#[tokio::test]
async fn a_dry_run_tries_a_drained_endpoint_and_another_weight_and_changes_nothing() -> Result<()> {
    let running = running().await?;
    for (drained, left) in [(ONE, TWO), (TWO, ONE)] {
        let record = tried(&running, WhatIf { drained: vec![drained.to_owned()], ..WhatIf::default() }).await?;
        assert_eq!(record.endpoint, left);
        let removed =
            record.candidates.iter().find(|candidate| candidate.address == drained).context("it is listed")?;
        assert_eq!(removed.removed_by, "ready");
    }
    let both = vec![ONE.to_owned(), TWO.to_owned()];
    let refused = tried(&running, WhatIf { drained: both, ..WhatIf::default() }).await?;
    assert_eq!(refused.refusal.context("nobody is left")?.status, 503);

    let weights = vec![Scorer { name: "gpu-usage".to_owned(), weight: 7.0 }];
    let record = tried(&running, WhatIf { weights, ..WhatIf::default() }).await?;
    let weight = |record: &DecisionRecord| record.scorers.iter().find(|it| it.name == "gpu-usage").map(|it| it.weight);
    assert_eq!(weight(&record), Some(7.0));
    let now = dry_run(&mut explain(&running).await?, question("alias")).await?;
    assert_eq!(weight(&now), Some(1.0));
    assert!(now.candidates.iter().all(|candidate| candidate.removed_by.is_empty()), "{now:?}");
    Ok(())
}

#[tokio::test]
async fn a_change_that_cannot_be_tried_is_refused_with_what_there_is() -> Result<()> {
    let running = running().await?;
    let scorer =
        |name: &str| WhatIf { weights: vec![Scorer { name: name.to_owned(), weight: 1.0 }], ..WhatIf::default() };
    let drained = |address: &str| WhatIf { drained: vec![address.to_owned()], ..WhatIf::default() };
    for (what_if, words) in [
        (scorer("gpu"), "there are least-request, gpu-usage"),
        (drained("127.0.0.9:1"), ONE),
        (drained("pod-1"), "ip:port"),
    ] {
        let error = tried(&running, what_if).await.err().context("an error")?.to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
    Ok(())
}
