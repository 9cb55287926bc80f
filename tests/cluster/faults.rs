//! An API server that refuses, forgets to answer, or is slow; and more than one operator.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;
use tests::cluster::operator::Operator;
use tests::cluster::proxy::{Call, Fault};
use tests::poll;

use crate::stage::{SOON, Stage, role, spec};

/// Spoils the first attempt at each write.
fn first_time(fault: Fault) -> impl Fn(&Call) -> Fault + Send + Sync {
    let seen = Mutex::new(BTreeSet::new());
    move |call| {
        let fresh = call.counts() && seen.lock().insert((call.verb, call.resource.clone(), call.name.clone()));
        if fresh { fault } else { Fault::None }
    }
}

/// Creates, scales and rolls out; every pod is created exactly once for each reason that there is.
async fn everything_works_in_spite_of(label: &str, fault: Fault) -> Result<()> {
    let stage = Stage::new(label).await?;
    stage.proxy.spoil(first_time(fault));
    stage.create("llm", spec(2, &[role("prefill", 1, 1)])).await?;
    stage.wait_done("llm").await?;
    stage.change("llm", json!({"spec": {"replicas": 3}})).await?;
    stage.wait_done("llm").await?;
    stage.proxy.spoil(first_time(fault));
    stage.set_image("llm", 0, "engine:2").await?;
    stage.wait_done("llm").await?;
    let mut created: Vec<String> = stage
        .proxy
        .writes(0)
        .into_iter()
        .filter(|call| call.verb == "create" && call.resource == "pods" && call.status == Some(201))
        .map(|call| call.name)
        .collect();
    created.sort();
    let all: Vec<String> = (0..3)
        .flat_map(|group| (0..2).flat_map(move |number| vec![format!("llm-{group}-prefill-0-{number}"); 2]))
        .collect();
    assert_eq!(created, all);
    Ok(())
}

#[tokio::test]
async fn conflicts() -> Result<()> {
    everything_works_in_spite_of("conflicts", Fault::Answer(409)).await
}

#[tokio::test]
async fn too_many_requests() -> Result<()> {
    everything_works_in_spite_of("throttled", Fault::Answer(429)).await
}

#[tokio::test]
async fn server_errors() -> Result<()> {
    everything_works_in_spite_of("errors", Fault::Answer(500)).await
}

#[tokio::test]
async fn lost_answers() -> Result<()> {
    everything_works_in_spite_of("lost-answers", Fault::LoseAnswer).await
}

#[tokio::test]
async fn a_write_that_is_never_answered_is_given_up_and_made_again() -> Result<()> {
    let stage = Stage::new("hangs").await?;
    let hung = Mutex::new(false);
    stage.proxy.spoil(move |call| {
        let mut hung = hung.lock();
        if call.verb == "create" && call.resource == "pods" && !*hung {
            *hung = true;
            return Fault::Hang;
        }
        Fault::None
    });
    stage.create("llm", spec(1, &[role("prefill", 1, 1)])).await?;
    stage.wait_done("llm").await
}

/// The holder of the operators' lease.
async fn leader(stage: &Stage) -> Option<String> {
    let lease = stage.namespace.api::<Lease>().get_opt("lease.kthena.controller-manager").await.ok()??;
    lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
}

#[tokio::test]
async fn of_two_operators_one_writes_and_the_other_takes_over() -> Result<()> {
    let stage = Stage::without_operator("leaders").await?;
    let start =
        async |host: &str| stage.operator_options().flag("--leader-elect", true).env("HOSTNAME", host).start().await;
    let mut operators = vec![("one", start("one").await?), ("two", start("two").await?)];
    stage.create("llm", spec(2, &[role("prefill", 1, 1)])).await?;
    stage.wait_done("llm").await?;
    let first = leader(&stage).await.context("a leader")?;
    // Killed: it cannot release its lease, which has to run out.
    operators.retain(|(host, _)| !first.starts_with(host));
    assert_eq!(operators.len(), 1, "the leader {first} is one of them");
    stage.change("llm", json!({"spec": {"replicas": 3}})).await?;
    stage.wait_done("llm").await?;
    assert_ne!(leader(&stage).await, Some(first));
    let writes = stage.proxy.writes(0);
    let created = writes.iter().filter(|call| call.verb == "create" && call.resource == "pods");
    assert_eq!(created.map(|call| call.status).collect::<Vec<_>>(), [Some(201); 6]);
    Ok(())
}

#[tokio::test]
async fn an_operator_whose_lease_is_taken_ends() -> Result<()> {
    let stage = Stage::without_operator("usurped").await?;
    let operator: Operator = stage.operator_options().flag("--leader-elect", true).start().await?;
    poll::until("a leader", SOON, async || leader(&stage).await).await?;
    let leases = stage.namespace.api::<Lease>();
    let usurped = json!({"spec": {"holderIdentity": "usurper", "leaseDurationSeconds": 3600}});
    let lease = leases.list(&ListParams::default()).await?.items.pop().and_then(|lease| lease.metadata.name);
    leases.patch(&lease.context("a lease")?, &PatchParams::default(), &Patch::Merge(usurped)).await?;
    let code = operator.process().exit_code(Duration::from_secs(40)).await?;
    assert_ne!(code, 0, "{}", operator.log());
    Ok(())
}
