//! One connected trace: the gateway's span, the decision, the engine's.

use anyhow::{Context as _, Result, ensure};
use tests::otlp_sink::Span;

use crate::host::Host;
use crate::stage::{SOON, Stage};

const PROCESS: &str = "envoy.service.ext_proc.v3.ExternalProcessor/Process";
/// Of the picker and of the engine.
const OURS: [&str; 3] = [PROCESS, "kthena.schedule", "llm_request"];

/// # Errors
/// When there is none, or it falls into parts.
pub(crate) async fn tell<H: Host>(stage: &mut Stage<H>) -> Result<()> {
    stage.wait_until_picked().await?;
    let decision = stage.picked(&stage.ask().await?).await?;
    let id = decision["traceId"].as_str().context("a decision that was traced")?;
    let of_gateway = |span: &&Span| span.trace_id == id && !OURS.contains(&span.name.as_str());
    stage
        .sink
        .wait_for(SOON, |spans| {
            let has = |name: &&str| spans.iter().any(|span| span.trace_id == id && span.name == **name);
            // The gateway tells its root last, when the request has ended.
            let root = spans.iter().filter(of_gateway).any(|span| span.parent_id.is_empty());
            (OURS.iter().all(has) && root).then_some(())
        })
        .await?;
    let tree = stage.sink.tree(id);
    let shown = tree.waterfall(60);
    tests::progress::say(&shown);
    ensure!(tree.roots() == 1, "a trace in parts:\n{shown}");
    let find = |name: &str| tree.rows().iter().map(|(_, span)| span).find(|span| span.name == name);
    for name in OURS {
        let mut span = find(name).context(name)?;
        while let Some(parent) = tree.parent(span) {
            span = parent;
        }
        ensure!(of_gateway(&span), "{name} does not hang below the gateway's span:\n{shown}");
    }
    let process = find(PROCESS).context(PROCESS)?;
    ensure!(tree.parent(find("kthena.schedule").context("a decision")?) == Some(process), "{shown}");
    Ok(())
}
