//! The scenarios of the guide: each folder's manifests as they are, with traffic.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tests::client::Reply;
use tests::engine::EngineConfig;
use tests::poll;
use tests::progress::say;

use crate::host::Host;
use crate::scenario::{Ask, Scenario};
use crate::stage::{SOON, Stage};

/// What is asked of each kind; by chance alone no wrong route would look right for so long.
const REQUESTS: usize = 20;
/// Long prompts, each of which a prefill engine computes.
const PAIRED: u64 = 20;
/// Of these a tenth goes to the canary, give or take: fewer than 10 or more than 80 come by chance less than once in a
/// million times.
const WEIGHED: usize = 400;
const CANARY_SHARE: std::ops::RangeInclusive<usize> = 10..=80;

/// # Errors
/// When a request does not go where the folder's guide says.
pub(crate) async fn tell<H: Host>(stage: &mut Stage<H>) -> Result<()> {
    if !H::SCENARIOS {
        say("  not told on this host");
        return Ok(());
    }
    let mut scenario = Scenario::start(stage).await?;
    let told = all(&mut scenario).await;
    scenario.end(told).await
}

async fn all<H: Host>(scenario: &mut Scenario<'_, H>) -> Result<()> {
    two_pools(scenario).await.context("two-pools")?;
    scenario.clear().await?;
    model_names(scenario).await.context("model-name-routing")?;
    scenario.clear().await?;
    adapters(scenario).await.context("lora")?;
    scenario.clear().await?;
    if H::SHARES_BY_WEIGHT {
        canary(scenario).await.context("canary-by-weight")?;
        scenario.clear().await?;
    }
    pairs(scenario).await.context("prefill-decode")
}

/// Two engines for each of the two models, which the others do not have.
async fn two_models<H: Host>(scenario: &mut Scenario<'_, H>) -> Result<()> {
    for model in ["chat", "code"] {
        for number in 0..2 {
            let labels = json!({"app": format!("vllm-{model}")});
            scenario.add_engine(&format!("{model}-{number}"), Some(labels), EngineConfig::instant(model)).await?;
        }
    }
    scenario.apply_example("two-pools/pools.yaml").await
}

async fn two_pools<H: Host>(scenario: &mut Scenario<'_, H>) -> Result<()> {
    two_models(scenario).await?;
    scenario.apply_example("two-pools/route.yaml").await?;
    for (model, host) in [("chat", "chat.example.com"), ("code", "code.example.com")] {
        let ask = Ask::model(model).header("host", host);
        scenario.wait_for(&ask, model).await?;
        scenario.all_by(&ask, REQUESTS, model).await?;
    }
    say("  two-pools: one picker, each host name's requests by its own pool");
    Ok(())
}

async fn model_names<H: Host>(scenario: &mut Scenario<'_, H>) -> Result<()> {
    two_models(scenario).await?;
    scenario.name_models_first().await?;
    scenario.apply_example("model-name-routing/route.yaml").await?;
    for model in ["chat", "code"] {
        let ask = Ask::model(model);
        scenario.wait_for(&ask, model).await?;
        scenario.all_by(&ask, REQUESTS, model).await?;
        // More than Envoy and the step hold of a body at a time.
        let long = ask.prompt(&format!("{model} {}", "and so on ".repeat(40_000)));
        scenario.all_by(&long, 2, model).await.context("a prompt of 400 kB")?;
        let forged = Ask::model(model).header("x-gateway-model-name", "chat");
        scenario.all_by(&forged, 2, model).await?;
    }
    let unknown = scenario.send(&Ask::model("nobody")).await?;
    ensure!(unknown.status == 404, "an unknown model: {} {}", unknown.status, unknown.text());
    say("  model-name-routing: each model's requests by its own pool, an unknown one 404");
    Ok(())
}

async fn adapters<H: Host>(scenario: &mut Scenario<'_, H>) -> Result<()> {
    let config = EngineConfig::instant("meta-llama/Llama-3.1-8B-Instruct").adapters(&["sql", "legal"]);
    for pod in ["adapted-0", "adapted-1"] {
        scenario.add_engine(pod, Some(json!({"app": "llama-8b"})), config.clone()).await?;
    }
    scenario.name_models_first().await?;
    scenario.apply_example("lora/model.yaml").await?;
    for (model, told) in [("llama-8b", "meta-llama/Llama-3.1-8B-Instruct"), ("sql", "sql"), ("legal", "legal")] {
        let ask = Ask::model(model);
        scenario.wait_for(&ask, "adapted").await?;
        scenario.all_by(&ask, REQUESTS, "adapted").await?;
        let reply = scenario.send(&ask).await?;
        let received = scenario.engine(scenario.pod(&reply)?)?.received().pop().context("a request")?;
        let body = String::from_utf8(received.body.context("a small body")?.to_vec())?;
        ensure!(body.contains(&format!(r#""model":"{told}""#)), "{model} is asked for as {body}");
    }
    let unlisted = scenario.send(&Ask::model("poems")).await?;
    ensure!(unlisted.status == 404, "an adapter that is not listed: {} {}", unlisted.status, unlisted.text());
    say("  lora: adapters by their base model's pool under their own names, an unlisted one 404");
    Ok(())
}

async fn canary<H: Host>(scenario: &mut Scenario<'_, H>) -> Result<()> {
    for (pod, version) in [("stable-0", "stable"), ("stable-1", "stable"), ("canary-0", "canary")] {
        let labels = json!({"app": format!("llama-{version}")});
        scenario.add_engine(pod, Some(labels), EngineConfig::instant("llama")).await?;
    }
    scenario.apply_example("canary-by-weight/pools.yaml").await?;
    scenario.apply_example("canary-by-weight/route.yaml").await?;
    let (any, willing) = (Ask::model("llama"), Ask::model("llama").header("x-canary", "true"));
    scenario.wait_for(&any, "stable-1").await?;
    scenario.wait_for(&willing, "canary").await?;
    scenario.all_by(&willing, REQUESTS, "canary").await?;
    let mut canary = 0;
    for _ in 0..WEIGHED {
        let reply = scenario.send(&any).await?;
        if scenario.pod(&reply)?.starts_with("canary") {
            canary += 1;
        } else {
            scenario.picked(&reply).await?;
        }
    }
    ensure!(CANARY_SHARE.contains(&canary), "{canary} of {WEIGHED} went to the canary, whose weight is 10 of 100");
    say(&format!("  canary-by-weight: {canary} of {WEIGHED} by the canary, and all that ask for it"));
    Ok(())
}

/// Gateway, decision, prefill call and both engines tell one trace.
async fn one_trace<H: Host>(scenario: &Scenario<'_, H>, reply: &Reply) -> Result<()> {
    let decision = scenario.picked(reply).await?;
    let id = decision["traceId"].as_str().context("a decision that was traced")?;
    let sink = &scenario.stage.sink;
    let whole = poll::until("one whole trace", SOON, async || {
        let tree = sink.tree(id);
        let count = |name: &str| tree.rows().iter().filter(|(_, span)| span.name == name).count();
        (tree.roots() == 1 && count("prefill") == 1 && count("llm_request") == 2).then_some(tree)
    });
    let tree = whole.await.with_context(|| format!("a trace in parts:\n{}", sink.tree(id).waterfall(60)))?;
    let above = |name: &str| {
        let spans = tree.rows().iter().map(|(_, span)| span).filter(|span| span.name == name);
        spans.filter_map(|span| Some(tree.parent(span)?.name.clone())).collect::<Vec<_>>()
    };
    let (prefill, engines) = (above("prefill"), above("llm_request"));
    ensure!(
        prefill.iter().all(|parent| parent.ends_with("ExternalProcessor/Process"))
            && engines.iter().filter(|parent| *parent == "prefill").count() == 1,
        "the prefill call hangs below {prefill:?}, the engines below {engines:?}:\n{}",
        tree.waterfall(60)
    );
    Ok(())
}

/// The operator makes the pods of the ModelServing, and here is who runs them.
async fn pairs<H: Host>(scenario: &mut Scenario<'_, H>) -> Result<()> {
    const OF_IT: &str = "modelserving.volcano.sh/name=assistant";
    for file in ["model-serving", "model-server", "route"] {
        scenario.apply_example(&format!("prefill-decode/{file}.yaml")).await?;
    }
    let pods = poll::until("six pods of the ModelServing", SOON, async || {
        let pods = scenario.stage.objects.pods_with(OF_IT).await.ok()?;
        (pods.len() == 6).then_some(pods)
    });
    let mut names: Vec<String> = pods.await?.into_iter().filter_map(|pod| pod.metadata.name).collect();
    names.sort();
    for name in &names {
        scenario.add_engine(name, None, EngineConfig::instant("Qwen/Qwen2.5-72B-Instruct")).await?;
    }
    let ask = Ask::model("Qwen/Qwen2.5-72B-Instruct");
    scenario.wait_for(&ask, "assistant").await?;
    for turn in 0..PAIRED {
        let long = ask.clone().prompt(&format!("{turn} {}", "tell me everything about it ".repeat(200)));
        let reply = scenario.send(&long).await?;
        let pod = scenario.pod(&reply)?;
        ensure!(pod.contains("decode"), "{pod} answered");
        if turn + 1 == PAIRED {
            one_trace(scenario, &reply).await?;
        }
    }
    let moved = names.iter().map(|name| Ok(scenario.engine(name)?.transfers())).collect::<Result<Vec<_>>>()?;
    let kept: u64 = moved.iter().map(|one| one.kept).sum();
    let taken: u64 = moved.iter().map(|one| one.fetched).sum();
    let altered: u64 = moved.iter().map(|one| one.altered).sum();
    ensure!(
        (kept, taken, altered) == (PAIRED, PAIRED, 0),
        "of {PAIRED} prompts {kept} were computed by prefill engines, {taken} were fetched, {altered} were altered"
    );
    say(&format!(
        "  prefill-decode: {PAIRED} of {PAIRED} long prompts by a prefill engine first, without a sidecar; one trace"
    ));
    Ok(())
}
