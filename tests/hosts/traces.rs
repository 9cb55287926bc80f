//! One connected trace: the gateway's span, the decision, the engine's.

use anyhow::{Context as _, Result, ensure};
use tests::otlp_sink::TraceTree;
use tests::poll;
use tests::progress::say;

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
    let has = |tree: &TraceTree, name: &str| tree.rows().iter().any(|(_, span)| span.name == name);
    // Each tells its spans in its own time.
    let whole = poll::until("one whole trace", SOON, async || {
        let tree = stage.sink.tree(id);
        (OURS.iter().all(|name| has(&tree, name)) && tree.roots() == 1).then_some(tree)
    });
    let tree = whole.await.with_context(|| format!("a trace in parts:\n{}", stage.sink.tree(id).waterfall(60)))?;
    let shown = tree.waterfall(60);
    say(&shown);
    let find = |name: &str| tree.rows().iter().map(|(_, span)| span).find(|span| span.name == name);
    for name in OURS {
        let mut span = find(name).context(name)?;
        while let Some(parent) = tree.parent(span) {
            span = parent;
        }
        ensure!(!OURS.contains(&span.name.as_str()), "{name} does not hang below the gateway's span:\n{shown}");
    }
    let process = find(PROCESS).context(PROCESS)?;
    ensure!(tree.parent(find("kthena.schedule").context("a decision")?) == Some(process), "{shown}");
    Ok(())
}
