//! `kthena doctor`, the program: silent on what is right, beside a running picker and a running Envoy too.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tests::checkout;
use tests::command_line::{Said, kthena};
use tests::config_dir::ConfigDir;
use tests::engine::{Engine, EngineConfig};
use tests::poll;
use tests::scratch::Scratch;
use tests::shapes::{GatewayConfig, Pool, ai_gateway, envoy_gateway, istio, plain, standalone};

use crate::running::{DEADLINE, Running};

async fn doctor(words: &[&str]) -> Result<Said> {
    kthena([&["doctor"], words].concat()).await
}

fn path(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path that is text")?.to_owned())
}

/// Each finding as `severity check object`.
fn findings(said: Said, code: i32) -> Result<Vec<String>> {
    let report: Value = serde_json::from_str(&said.says(code, &[]))?;
    let text = |finding: &Value, field: &str| finding[field].as_str().unwrap_or_default().to_owned();
    let one = |finding: &Value| ["severity", "check", "object"].map(|field| text(finding, field)).join(" ");
    Ok(report["findings"].as_array().context("a list")?.iter().map(one).collect())
}

/// What it says of an Envoy's configuration.
async fn of_envoy(config: &GatewayConfig, code: i32) -> Result<Vec<String>> {
    let scratch = Scratch::new("doctor")?;
    let file = scratch.file("envoy.json");
    std::fs::write(&file, config.json().to_string())?;
    findings(doctor(&["--envoy", &path(&file)?, "-o", "json"]).await?, code)
}

#[tokio::test]
async fn nothing_is_found_in_any_folder_of_the_examples() -> Result<()> {
    let mut folders = 0;
    for entry in std::fs::read_dir(checkout::path("gateway-api-examples"))? {
        let folder = entry?.path();
        if folder.is_dir() {
            folders += 1;
            let found = findings(doctor(&["--config-dir", &path(&folder)?, "-o", "json"]).await?, 0)?;
            assert_eq!(found, [""; 0], "{}", folder.display());
        }
    }
    assert!(folders >= 12, "{folders} folders");
    Ok(())
}

#[tokio::test]
async fn nothing_is_found_in_our_own_envoys_configuration() -> Result<()> {
    let file = path(&standalone::path())?;
    doctor(&["--envoy", &file]).await?.says(0, &["checks found nothing"]);
    Ok(())
}

#[tokio::test]
async fn no_gateways_envoy_has_an_error_and_failing_open_in_full_duplex_is_a_warning() -> Result<()> {
    let (one, other, picker) = ("127.0.0.2:8000".parse()?, "127.0.0.3:8000".parse()?, "127.0.0.1:9002".parse()?);
    let pools = [Pool::new("llama", &[one], picker), Pool::new("qwen", &[other], picker)];
    let silent = [
        envoy_gateway::config(&pools, envoy_gateway::Body::FullDuplex),
        envoy_gateway::config(&pools, envoy_gateway::Body::Buffered),
        ai_gateway::config(&pools, ai_gateway::Body::Duplex),
        ai_gateway::config(&pools, ai_gateway::Body::Buffered),
        istio::config(&pools, false),
        standalone::config(&pools[0])?,
    ];
    let plain = plain::Body::VISIBLE.map(|body| plain::config(&pools[0], body));
    let step = |config: GatewayConfig| plain::name_models_first(config, one, plain::Body::FullDuplex);
    let stepped = [step(plain::config(&pools[0], plain::Body::FullDuplex)), step(istio::config(&pools, false))];
    for config in silent.iter().chain(&plain).chain(&stepped) {
        assert_eq!(of_envoy(config, 0).await?, [""; 0], "{}", config.json());
    }
    // The picker's host is fixed here; the real Istio has it from the slices, and so knows when it is gone.
    let open = of_envoy(&istio::config(&pools[..1], true), 0).await?;
    let wanted = "warning fail-open-in-vain Envoy listener http, filter envoy.filters.http.ext_proc";
    assert_eq!(open, [wanted]);
    Ok(())
}

#[tokio::test]
async fn a_running_envoy_is_asked_and_its_mistakes_are_told_with_what_to_write() -> Result<()> {
    let pool = Pool::new("llama", &["127.0.0.1:1".parse()?], "127.0.0.1:1".parse()?);
    let envoy = plain::config(&pool, plain::Body::FullDuplex).start().await?;
    let admin = format!("http://{}", envoy.admin_address());
    doctor(&["--envoy", &admin]).await?.says(0, &["checks found nothing"]);

    let hidden = plain::config(&pool, plain::Body::None).vary(|config| {
        config.ext_proc()["message_timeout"] = "0.2s".into();
        config.ext_proc()["metadata_options"] = json!({});
        config.ext_proc()["failure_mode_allow"] = true.into();
    });
    let envoy = hidden.start().await?;
    let admin = format!("http://{}", envoy.admin_address());
    let filter = "Envoy listener http, filter envoy.filters.http.ext_proc";
    let found = findings(doctor(&["--envoy", &admin, "-o", "json"]).await?, 1)?;
    let wanted = [
        format!("error body-hidden {filter}"),
        format!("error message-timeout-short {filter}"),
        format!("warning served-endpoint-lost {filter}"),
        "error steering-header-kept Envoy listener http".to_owned(),
    ];
    assert_eq!(found, wanted);
    let words = ["request_body_mode: FULL_DUPLEX_STREAMED", "fix: ", "remove: x-gateway-destination-endpoint"];
    doctor(&["--envoy", &admin]).await?.says(1, &words);
    let skipped = ["--skip", "body-hidden", "--skip", "message-timeout-short", "--skip", "steering-header-kept"];
    let words = [&["--envoy", admin.as_str()][..], &skipped].concat();
    doctor(&words).await?.says(0, &["1 warning", "it was to be skipped (--skip)"]);
    Ok(())
}

#[tokio::test]
async fn a_running_picker_tells_of_engines_that_are_silent_and_of_models_that_they_do_not_have() -> Result<()> {
    let engine = Engine::start(EngineConfig::instant("llama")).await?;
    let config = ConfigDir::new()?;
    config.pool("llama", &[engine.address()])?;
    config.model_server("llama", "llama", engine.address().port(), Some("org/llama"))?;
    let running = Running::start(config, &[]).await?;
    running.until_ready(200).await?;
    poll::until("what the engine says of itself", DEADLINE, async || {
        let fleet: Value = serde_json::from_str(&running.debug("/debug/fleet").await.ok()?).ok()?;
        fleet["endpoints"][0]["models"].is_array().then_some(())
    })
    .await?;
    let picker = running.addresses.debug.to_string();
    let folder = path(running.config.path())?;
    let found = findings(doctor(&["--picker", &picker, "--config-dir", &folder, "-o", "json"]).await?, 1)?;
    assert_eq!(found, ["error model-not-served ModelServer default/llama"]);

    // Nobody listens there.
    let silent = Running::ready(&[]).await?;
    let picker = silent.addresses.debug.to_string();
    let words = ["engine-metrics-silent", "127.0.0.1:1", "no Envoy configuration (--envoy) was given"];
    doctor(&["--picker", &picker]).await?.says(1, &words);
    std::fs::write(silent.config.path().join("broken.yaml"), "kind: Pod\nmetadata: [")?;
    poll::until("a picker that keeps its last good configuration", DEADLINE, async || {
        let status: Value = serde_json::from_str(&silent.debug("/debug/config_dump").await.ok()?).ok()?;
        status["lastError"].is_string().then_some(())
    })
    .await?;
    let folder = path(silent.config.path())?;
    let words = ["configuration-refused", "unreadable", "broken.yaml"];
    doctor(&["--picker", &picker, "--config-dir", &folder]).await?.says(1, &words);
    Ok(())
}

#[tokio::test]
async fn manifests_are_mended_by_what_is_printed() -> Result<()> {
    let config = ConfigDir::new()?;
    let labels = |role: &str| json!({"app": "llama", "role": role});
    let pod = |role: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": role, "labels": labels(role)}, "status": {"podIP": "10.0.0.1"}});
    let pool = json!({
        "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool", "metadata": {"name": "llama"},
        "spec": {
            "selector": {"matchLabels": {"app": "llama"}}, "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": "llama-epp", "port": {"number": 9002}},
        },
    });
    let server = json!({
        "apiVersion": "networking.serving.volcano.sh/v1alpha1", "kind": "ModelServer", "metadata": {"name": "llama"},
        "spec": {"inferenceEngine": "vLLM", "workloadPort": {"port": 8000}, "workloadSelector": {
            "matchLabels": {"app": "llama"},
            "pdGroup": {"groupKey": "group", "prefillLabels": {"role": "prefill"}, "decodeLabels": {"role": "decode"}},
        }},
    });
    config.write("rest.yaml", &[server, pod("prefill"), pod("decode")])?;
    config.write("pool.yaml", &[pool])?;
    let folder = path(config.path())?;
    let said = doctor(&["--config-dir", &folder, "-o", "json"]).await?;
    let report: Value = serde_json::from_str(&said.out)?;
    assert_eq!(report["findings"][0]["check"], "selector-matches-prefill", "{report}");
    config.write("pool.yaml", &[report["findings"][0]["manifest"].clone()])?;
    doctor(&["--config-dir", &folder]).await?.says(0, &["checks found nothing"]);
    Ok(())
}

#[tokio::test]
async fn what_is_not_there_is_said_and_wrong_usage_is_another_code() -> Result<()> {
    doctor(&["--config-dir", "/nowhere"]).await?.says(1, &["unreadable", "folder /nowhere"]);
    doctor(&["--envoy", "/nowhere.yaml"]).await?.says(1, &["unreadable", "Envoy configuration /nowhere.yaml"]);
    doctor(&["--picker", "127.0.0.1:1"]).await?.says(1, &["unreadable", "port-forward"]);
    doctor(&["--kubeconfig", "/nowhere/config"]).await?.says(1, &["unreadable", "cluster", "--kubeconfig"]);
    doctor(&["--skip", "everything"]).await?.says(2, &["body-hidden"]);
    doctor(&["--list"]).await?.says(0, &["CHECK", "selector-matches-nothing   a pool or a ModelServer selects no pod"]);
    Ok(())
}
