//! The harness itself: what the other tests stand on.

use std::time::Duration;

use serde_json::json;
use tests::client::{self, Client};
use tests::engine::{Engine, EngineConfig, Fault};
use tests::envoy::Envoy;
use tests::poll;
use tests::process::{Program, Signal};

const SOON: Duration = Duration::from_secs(5);

/// Whether a process with this id exists and has not ended.
fn alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[tokio::test]
async fn a_dropped_process_is_dead() {
    let sleeper = Program::new("sleep", "sleep").args(["1000"]).start().unwrap();
    let pid = sleeper.pid().to_string();
    assert!(alive(&pid));
    drop(sleeper);
    poll::until("its end", SOON, async || (!alive(&pid)).then_some(())).await.unwrap();
}

/// The parent is this very test in a process of its own; `SIGKILL` gives it no last word.
#[tokio::test]
async fn a_process_dies_with_a_parent_that_is_killed() {
    const AS_PARENT: &str = "as-the-parent";
    if std::env::args().any(|arg| arg == AS_PARENT) {
        let sleeper = Program::new("sleep", "sleep").args(["1000"]).start().unwrap();
        println!("\nsleeper {}", sleeper.pid());
        sleeper.exit_code(Duration::from_secs(1000)).await.unwrap();
    }
    let parent = Program::new("a parent", std::env::current_exe().unwrap())
        .args(["harness::a_process_dies_with_a_parent_that_is_killed", AS_PARENT, "--nocapture"])
        .start()
        .unwrap();
    let sleeper = |line: &str| line.strip_prefix("sleeper ").map(ToOwned::to_owned);
    let sleeper = parent.find_line("the sleeper's number", SOON, sleeper).await.unwrap();
    assert!(alive(&sleeper));
    parent.signal(Signal::Kill).unwrap();
    poll::until("its end", SOON, async || (!alive(&sleeper)).then_some(())).await.unwrap();
}

#[tokio::test]
async fn signals_reach_the_program_and_its_exit_code_is_seen() {
    let script = "trap 'echo polite; exit 7' TERM; echo ready; while :; do sleep 0.01; done";
    let program = Program::new("a program", "sh").args(["-c", script]).start().unwrap();
    program.find_line("ready", SOON, |line| (line == "ready").then_some(())).await.unwrap();
    program.signal(Signal::Term).unwrap();
    assert_eq!(program.exit_code(SOON).await.unwrap(), 7);
    assert_eq!(program.output(), ["ready", "polite"]);
    assert!(program.signal(Signal::Term).is_err());
}

#[tokio::test]
async fn envoy_starts_with_a_configuration_and_tells_about_itself() {
    let engine = Engine::start(EngineConfig::instant("m")).await.unwrap();
    let config = json!({"static_resources": {
        "listeners": [{
            "name": "http",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
            "filter_chains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "stat_prefix": "http",
                    "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
                        {"match": {"prefix": "/"}, "route": {"cluster": "engine"}},
                    ]}]},
                    "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
                        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                    }}],
                },
            }]}],
        }],
        "clusters": [{
            "name": "engine",
            "load_assignment": {"cluster_name": "engine", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
                "socket_address": {"address": engine.address().ip(), "port_value": engine.address().port()},
            }}}]}]},
        }],
    }});
    let envoy = Envoy::start(config).await.unwrap();
    let reply = Client::new(envoy.address()).chat("m", &[("user", "hello")]).send().await.unwrap();
    assert_eq!((reply.status, reply.engine()), (200, Some(engine.address())));
    assert_eq!(envoy.stats("^http.http.downstream_rq_2xx$").await.unwrap()["http.http.downstream_rq_2xx"], 1);
    assert!(envoy.config_dump().await.unwrap()["configs"].is_array());
}

#[tokio::test]
async fn envoy_says_what_is_wrong_with_a_configuration() {
    let error = Envoy::start(json!({"static_resources": {"no_such_field": 1}})).await.unwrap_err();
    assert!(format!("{error:#}").contains("no_such_field"), "{error:#}");
}

#[tokio::test]
async fn an_engine_streams_words_then_usage_then_done() {
    let engine = Engine::start(EngineConfig::instant("m")).await.unwrap();
    let client = Client::new(engine.address());
    let prompt = "the same long system prompt, again and again, until it fills some blocks of the cache";
    let ask = || client.chat("m", &[("system", prompt)]).stream(true).max_tokens(3);
    let cold = ask().send().await.unwrap();
    assert!(cold.text().ends_with("data: [DONE]\n\n"), "{}", cold.text());
    let words: Vec<_> = cold
        .events()
        .iter()
        .filter_map(|event| Some(event["choices"][0]["delta"]["content"].as_str()?.to_owned()))
        .collect();
    assert_eq!(words, ["word0 ", "word1 ", "word2 "]);
    assert_eq!(cold.usage().unwrap()["completion_tokens"], 3);
    assert_eq!(cold.usage().unwrap()["prompt_tokens_details"]["cached_tokens"], 0);
    let warm = client.chat("m", &[("system", prompt)]).max_tokens(3).send().await.unwrap();
    assert_eq!(warm.json().unwrap()["choices"][0]["message"]["content"], "word0 word1 word2 ");
    assert_eq!(warm.usage().unwrap()["prompt_tokens_details"]["cached_tokens"], 16);
    assert_eq!(engine.prefix_tokens(), (48, 16));
}

#[tokio::test]
async fn an_engine_queues_what_does_not_fit_into_its_batch() {
    let mut config = EngineConfig::timed("m", 1.0);
    config.timing.max_running = 1;
    config.timing.token_interval = Duration::from_secs(1000);
    let engine = Engine::start(config).await.unwrap();
    let client = Client::new(engine.address());
    let first = client.chat("m", &[]).stream(true).call().start().await.unwrap();
    let second = tokio::spawn(client.complete("m", "x").send());
    poll::until("one running, one waiting", SOON, async || (engine.load() == (1, 1)).then_some(())).await.unwrap();
    let metrics = client.get("/metrics").send().await.unwrap().text();
    for gauge in ["running", "waiting"] {
        let line = format!("vllm:num_requests_{gauge}{{engine=\"0\",model_name=\"m\"}} 1.0\n");
        assert!(metrics.contains(&line), "no {line} in {metrics}");
    }
    second.abort();
    drop(first);
    poll::until("nothing left of clients that went away", SOON, async || (engine.load() == (0, 0)).then_some(()))
        .await
        .unwrap();
}

#[tokio::test]
async fn an_engine_misbehaves_on_demand_and_only_then() {
    let mut engine = Engine::start(EngineConfig::instant("m")).await.unwrap();
    let client = Client::new(engine.address());
    let ask = || client.chat("m", &[("user", "x")]).stream(true);
    engine.set_fault(Fault::Status(500));
    assert_eq!(ask().send().await.unwrap().status, 500);
    engine.set_fault(Fault::ResetAfter(2));
    assert!(ask().send().await.is_err(), "the answer breaks off");
    engine.set_fault(Fault::MetricsStatus(503));
    assert_eq!(client.get("/metrics").send().await.unwrap().status, 503);
    let slow = r#"{"slow": {"secs": 0, "nanos": 50000000}}"#;
    let set = client.request(http::Method::PUT, "/sim/fault").header("content-type", "application/json").body(slow);
    assert_eq!(set.send().await.unwrap().status, 204);
    assert!(ask().send().await.unwrap().headers_after >= Duration::from_millis(50));
    engine.set_fault(None);
    assert_eq!(ask().send().await.unwrap().status, 200);
    engine.kill().await;
    assert!(client::get(engine.address(), "/health").await.is_err());
    engine.revive().await.unwrap();
    assert_eq!(client::get(engine.address(), "/health").await.unwrap().status, 200);
}

#[tokio::test]
async fn engines_hand_blocks_over_once_and_count_what_must_not_be() {
    let mut config = EngineConfig::instant("m");
    config.kv_lease = Duration::from_millis(50);
    let engines = Engine::start_many([EngineConfig::instant("m"), EngineConfig::instant("m"), config]).await.unwrap();
    let [prefill, decode, forgetful] = &engines[..] else { unreachable!("three were started") };
    let ask = |engine: &Engine, params: String| {
        let body = format!(r#"{{"model": "m", "prompt": "a prompt of some tokens", "kv_transfer_params": {params}}}"#);
        Client::new(engine.address()).post("/v1/completions", body).send()
    };
    let keep = async |engine: &Engine| {
        let reply = ask(engine, r#"{"do_remote_decode": true}"#.to_owned()).await.unwrap().text();
        reply.split_once(r#""kv_transfer_params":"#).unwrap().1.strip_suffix('}').unwrap().to_owned()
    };
    let params = keep(prefill).await;
    assert_eq!(ask(decode, params.clone()).await.unwrap().status, 200);
    assert_eq!(ask(decode, params).await.unwrap().status, 500);
    let altered = keep(prefill).await.replace("1234567890.10", "1234567890.1");
    assert_eq!(ask(decode, altered).await.unwrap().status, 200);
    let (given, taken) = (prefill.transfers(), decode.transfers());
    assert_eq!((given.kept, given.fetched, given.used_twice, given.altered), (2, 2, 1, 1), "{given:?}");
    assert_eq!((taken.received, taken.sources.first()), (2, Some(&prefill.address())), "{taken:?}");

    let params = keep(forgetful).await;
    poll::until("the end of the lease", SOON, async || (forgetful.transfers().expired == 1).then_some(()))
        .await
        .unwrap();
    assert_eq!(ask(decode, params).await.unwrap().status, 500);
}

#[tokio::test]
async fn engines_of_one_pool_share_a_port_and_know_their_models() {
    let configs = [EngineConfig::instant("m").adapters(&["a"]), EngineConfig::instant("m")];
    let engines = Engine::start_many(configs).await.unwrap();
    assert_eq!(engines[0].address().port(), engines[1].address().port());
    assert_ne!(engines[0].address().ip(), engines[1].address().ip());
    let adapter = |engine: &Engine| Client::new(engine.address()).chat("a", &[("user", "x")]).send();
    assert_eq!(adapter(&engines[0]).await.unwrap().status, 200);
    assert_eq!(adapter(&engines[1]).await.unwrap().status, 404);
    let models = client::get(engines[0].address(), "/v1/models").await.unwrap().json().unwrap();
    assert_eq!(models["data"][1]["parent"], "m");
    let metrics = client::get(engines[0].address(), "/metrics").await.unwrap().text();
    assert!(metrics.contains("vllm:lora_requests_info{max_lora=\"4\""), "{metrics}");
}
