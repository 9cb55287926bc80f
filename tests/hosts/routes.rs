//! What a Kthena user has, a ModelRoute and ModelServers, carries traffic: the operator makes pools and an HTTPRoute of
//! it, the step before the route says the model, the gateway chooses the pool and the picker the endpoint.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::engine::EngineConfig;
use tests::poll;
use tests::progress::say;

use crate::host::Host;
use crate::objects::Objects;
use crate::scenario::{Ask, Scenario};
use crate::stage::{SOON, Stage};

/// Of the ModelServers.
const SMALL: &str = "Qwen/Qwen2.5-7B-Instruct";
const LARGE: &str = "Qwen/Qwen2.5-72B-Instruct";
/// What is asked of each kind; by chance alone no wrong route would look right for so long.
const REQUESTS: usize = 20;
/// Of these a tenth goes to the lighter one, give or take: fewer than 10 or more than 80 come by chance less than once
/// in a million times.
const WEIGHED: usize = 400;
const LIGHT_SHARE: std::ops::RangeInclusive<usize> = 10..=80;

const KTHENA: &str = "networking.serving.volcano.sh/v1alpha1";

/// # Errors
/// When a request goes where it should not, or a status does not tell the truth.
pub(crate) async fn tell<H: Host>(stage: &mut Stage<H>) -> Result<()> {
    if !H::SCENARIOS {
        say("  not told on this host");
        return Ok(());
    }
    let mut scenario = Scenario::start(stage).await?;
    let told = story(&mut scenario).await;
    scenario.end(told).await
}

async fn story<H: Host>(scenario: &mut Scenario<'_, H>) -> Result<()> {
    scenario.name_models_first().await?;
    let adapted = |model: &str| EngineConfig::instant(model).adapters(&["legal"]);
    scenario.add_engine("small-0", Some(json!({"app": "assistant-7b"})), adapted(SMALL)).await?;
    for role in ["prefill", "decode"] {
        let labels = json!({
            "modelserving.volcano.sh/name": "assistant-72b", "modelserving.volcano.sh/role": role,
            "modelserving.volcano.sh/group-name": "assistant-72b-0",
        });
        scenario.add_engine(&format!("large-{role}-0"), Some(labels), adapted(LARGE)).await?;
    }
    // Between two models no gateway shares as Kthena's router does.
    let given = Objects::example("modelroute-from-kthena/given.yaml")?;
    let shared = "        - {modelServerName: assistant-72b, weight: 5}\n";
    ensure!(given.contains(shared), "given.yaml no longer shares requests between two models");
    scenario.apply(given.replace(shared, "")).await?;
    scenario.apply(coder().to_string()).await?;

    let (all, premium) = (Ask::model("assistant"), Ask::model("assistant").header("x-tier", "premium"));
    scenario.wait_for(&all, "small").await?;
    scenario.wait_for(&premium, "large-decode").await?;
    let said = wait_status(scenario, "assistant", "AcceptedByGateways", "True/Accepted").await?;
    say(&format!("  ModelRoute assistant: {said}"));

    scenario.all_by(&premium, REQUESTS, "large-decode").await?;
    let asked = String::from_utf8(last_body(scenario, "large-decode-0")?)?;
    ensure!(asked.contains(LARGE), "the engine was asked for another name: {asked}");
    say(&format!("  a header's rule: {REQUESTS} of {REQUESTS} by the large model"));

    let adapter = Ask::model("legal");
    scenario.all_by(&adapter.clone().header("x-tier", "premium"), REQUESTS, "large-decode").await?;
    let asked = String::from_utf8(last_body(scenario, "large-decode-0")?)?;
    ensure!(asked.contains(r#""model":"legal""#), "an adapter keeps its name: {asked}");
    scenario.all_by(&all, REQUESTS, "small").await?;
    scenario.all_by(&adapter, REQUESTS, "small").await?;
    say("  an adapter's requests: by its base model's pool, under its own name");

    let coder = Ask::model("coder");
    scenario.wait_for(&coder, "small").await?;
    scenario.all_by(&coder, REQUESTS, "small").await?;
    scenario.all_by(&coder.clone().completion(), REQUESTS, "large-decode").await?;
    say("  a path's rule: completions by the large model, chats by the small one");

    if H::SHARES_BY_WEIGHT {
        weights(scenario).await?;
    }

    // Who writes the header that routes go by is not believed.
    let forged = Ask::model("nobody").header("x-gateway-model-name", "assistant");
    for stranger in [Ask::model("nobody"), forged] {
        let reply = scenario.send(&stranger).await?;
        ensure!(reply.status == 404, "{stranger:?} got {}: {}", reply.status, reply.text());
    }
    say("  a model that no route names: 404");

    let none = scenario.engine("large-prefill-0")?.received_count();
    ensure!(none == 0, "the gateway sent {none} requests to a prefill pod");
    withdrawn(scenario, &coder).await
}

/// Two ModelServers of the same model by weight: the gateway draws, and what the picker says holds for the heavier.
async fn weights<H: Host>(scenario: &mut Scenario<'_, H>) -> Result<()> {
    let next = json!({
        "apiVersion": KTHENA, "kind": "ModelServer", "metadata": {"name": "next", "namespace": "default"},
        "spec": {
            "model": SMALL, "inferenceEngine": "vLLM", "workloadSelector": {"matchLabels": {"app": "next"}},
            "workloadPort": {"port": 8000},
        },
    });
    let targets = json!([{"modelServerName": "assistant-7b", "weight": 90}, {"modelServerName": "next", "weight": 10}]);
    let weighed = json!({
        "apiVersion": KTHENA, "kind": "ModelRoute", "metadata": {"name": "weighed", "namespace": "default"},
        "spec": {"modelName": "weighed", "parentRefs": [{"name": "inference"}], "rules": [{"targetModels": targets}]},
    });
    scenario.add_engine("next-0", Some(json!({"app": "next"})), EngineConfig::instant(SMALL)).await?;
    scenario.add_engine("small-1", Some(json!({"app": "assistant-7b"})), EngineConfig::instant(SMALL)).await?;
    scenario.apply(format!("{next}\n---\n{weighed}")).await?;
    let ask = Ask::model("weighed");
    scenario.wait_for(&ask, "next").await?;
    scenario.wait_for(&ask, "small-1").await?;
    let mut light = 0;
    for _ in 0..WEIGHED {
        let reply = scenario.send(&ask).await?;
        if scenario.pod(&reply)?.starts_with("next") {
            light += 1;
        } else {
            scenario.picked(&reply).await?;
        }
    }
    ensure!(LIGHT_SHARE.contains(&light), "{light} of {WEIGHED} went to the ModelServer whose weight is 10 of 100");
    say(&format!(
        "  weights 90 and 10: {} and {light} of {WEIGHED}, all of the former where the picker said",
        WEIGHED - light
    ));
    Ok(())
}

/// Two ModelServers by path.
fn coder() -> Value {
    json!({
        "apiVersion": KTHENA, "kind": "ModelRoute", "metadata": {"name": "coder", "namespace": "default"},
        "spec": {
            "modelName": "coder",
            "parentRefs": [{"name": "inference"}],
            "rules": [
                {
                    "modelMatch": {"uri": {"prefix": "/v1/completions"}},
                    "targetModels": [{"modelServerName": "assistant-72b"}],
                },
                {"targetModels": [{"modelServerName": "assistant-7b"}]},
            ],
        },
    })
}

/// A ModelRoute that leads nowhere says what the gateway says; one that is deleted takes its HTTPRoute with it.
async fn withdrawn<H: Host>(scenario: &Scenario<'_, H>, other: &Ask) -> Result<()> {
    let objects = &scenario.stage.objects;
    let elsewhere = json!({"spec": {"parentRefs": [{"name": "inference", "sectionName": "no-listener"}]}});
    objects.merge(KTHENA, "ModelRoute", "coder", &elsewhere).await?;
    let said = wait_status(scenario, "coder", "AcceptedByGateways", "False/RefusedByGateway").await?;
    say(&format!("  a listener that is not there: {said}"));
    let back = json!({"spec": {"parentRefs": [{"name": "inference"}]}});
    objects.merge(KTHENA, "ModelRoute", "coder", &back).await?;
    wait_status(scenario, "coder", "AcceptedByGateways", "True/Accepted").await?;

    let route =
        json!({"apiVersion": KTHENA, "kind": "ModelRoute", "metadata": {"name": "assistant", "namespace": "default"}});
    objects.delete(&route.to_string()).await?;
    poll::until("the end of the HTTPRoute", SOON, async || {
        let found = objects.get("gateway.networking.k8s.io/v1", "HTTPRoute", "assistant").await;
        found.ok()?.is_none().then_some(())
    })
    .await?;
    scenario.wait_for_status(&Ask::model("assistant"), 404).await?;
    scenario.wait_for(other, "small").await?;
    say("  a ModelRoute that is deleted: its HTTPRoute goes, and its names are unknown");
    Ok(())
}

/// Waits until a condition of a ModelRoute is so, and returns its message.
async fn wait_status<H: Host>(scenario: &Scenario<'_, H>, name: &str, kind: &str, wanted: &str) -> Result<String> {
    let mut last = Value::Null;
    let what = format!("ModelRoute {name}: {kind}={wanted}");
    let found = poll::until(&what, SOON, async || {
        let route = scenario.stage.objects.get(KTHENA, "ModelRoute", name).await.ok()??;
        last = route["status"]["conditions"].clone();
        let found = last.as_array()?.iter().find(|condition| condition["type"] == kind)?;
        let said = format!("{}/{}", found["status"].as_str()?, found["reason"].as_str()?);
        (said == wanted).then(|| found["message"].as_str().unwrap_or_default().to_owned())
    });
    found.await.with_context(|| format!("the conditions are {last:#}"))
}

fn last_body<H: Host>(scenario: &Scenario<'_, H>, pod: &str) -> Result<Vec<u8>> {
    let received = scenario.engine(pod)?.received().pop().context("a request")?;
    Ok(received.body.context("a small body")?.to_vec())
}
