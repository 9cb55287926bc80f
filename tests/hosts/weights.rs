//! Two pools share a route by weight, and each request meets the picker of its pool alone.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::picker::Picker;
use tests::poll;
use tests::progress::say;

use crate::host::Host;
use crate::stage::{MODEL, SOON, Stage};

const SECOND: &str = "mistral";
/// Of so many, the second pool gets a quarter; further off than this it is once in ten thousand times.
const REQUESTS: usize = 120;
const EXPECTED: std::ops::RangeInclusive<usize> = 12..=50;

fn manifests() -> String {
    let pool = json!({
        "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool",
        "metadata": {"name": SECOND, "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": SECOND}}, "targetPorts": [{"number": 8000}],
            "endpointPickerRef": {"name": "mistral-epp", "port": {"number": 9002}},
        },
    });
    // No `appProtocol`: Envoy speaks TLS to it.
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "mistral-epp", "namespace": "default"},
        "spec": {"selector": {"app": "mistral-epp"}, "ports": [{"name": "grpc", "port": 9002, "targetPort": 9002}]},
    });
    format!("{pool}\n---\n{service}")
}

/// The route's backends, by weight.
fn backends(weights: &[(&str, u32)]) -> Value {
    let backend = |(name, weight): &(&str, u32)| json!({"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name, "weight": weight});
    json!({"spec": {"rules": [{
        "matches": [{"path": {"type": "PathPrefix", "value": "/v1"}}],
        "timeouts": {"request": "0s"},
        "backendRefs": weights.iter().map(backend).collect::<Vec<_>>(),
    }]}})
}

/// # Errors
/// When the weights are not kept, or a request meets another picker or two.
pub(crate) async fn tell<H: Host>(stage: &mut Stage<H>) -> Result<()> {
    if !H::PICKER_OF_EACH_SHARE {
        say("  not told on this host");
        return Ok(());
    }
    stage.wait_until_picked().await?;
    let (engine, picker) = stage.second_pool(SECOND, &manifests()).await?;
    let route = "gateway.networking.k8s.io/v1";
    stage.objects.merge(route, "HTTPRoute", MODEL, &backends(&[(MODEL, 3), (SECOND, 1)])).await?;
    // Some answers are refused while Envoy changes from one cluster to two.
    poll::until("answers of both pools alone", SOON, async || {
        let mut by_second = 0;
        for _ in 0..24 {
            let reply = stage.ask().await.ok().filter(|reply| reply.status == 200)?;
            by_second += usize::from(reply.engine()? == engine.address());
        }
        (by_second > 0).then_some(())
    })
    .await?;

    let (mut ids, mut by_second) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..REQUESTS {
        let reply = stage.ask().await?;
        ensure!(reply.status == 200, "status {}: {}", reply.status, reply.text());
        let id = reply.request_id().context("an answer without a request id")?;
        if reply.engine() == Some(engine.address()) {
            by_second.insert(id.clone());
        }
        ids.insert(id);
    }
    ensure!(EXPECTED.contains(&by_second.len()), "{} of {REQUESTS} by the second pool", by_second.len());
    let second = decided(&[&picker], &ids, by_second.len()).await?;
    ensure!(second == by_second, "the second picker decided {} requests", second.len());
    let first: Vec<&Picker> = stage.pickers().collect();
    let first = decided(&first, &ids, REQUESTS - by_second.len()).await?;
    ensure!(first.is_disjoint(&second), "requests met both pickers");
    say(&format!("  {} of {REQUESTS} by the second pool, weight 1 of 4; each request met one picker", by_second.len()));

    stage.objects.merge(route, "HTTPRoute", MODEL, &backends(&[(MODEL, 1)])).await?;
    poll::until("answers of the first pool alone", SOON, async || {
        for _ in 0..16 {
            stage.picked(&stage.ask().await.ok()?).await.ok()?;
        }
        Some(())
    })
    .await
}

/// Those of `ids` that these pickers decided; waits until there are as many.
async fn decided(pickers: &[&Picker], ids: &BTreeSet<String>, count: usize) -> Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    poll::until(&format!("{count} decisions"), SOON, async || {
        found.clear();
        for picker in pickers {
            let all = picker.decisions(2 * REQUESTS).await.ok()?;
            let theirs = all.iter().filter_map(|one| one["requestId"].as_str()).filter(|id| ids.contains(*id));
            found.extend(theirs.map(str::to_owned));
        }
        (found.len() >= count).then_some(())
    })
    .await
    .with_context(|| format!("{} were decided", found.len()))?;
    Ok(found)
}
