//! Leader election: one replica writes. A Lease (coordination.k8s.io/v1) says which.
//!
//! As in Kubernetes' own components, a lease that another holds is taken over when it was not renewed for its whole
//! duration *as seen from here*: clocks are not compared. A leader that cannot renew in time stops writing before
//! anybody may take over. (The library for leases trusts the other's clock, and keeps a leader that cannot reach the
//! API server in the belief that it still leads.)

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

/// The Lease's name: Kthena's, so that the two never write at the same time.
pub const NAME: &str = "lease.kthena.controller-manager";

/// How long a lease holds unless it is renewed.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for this long stops.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two tries.
const RETRY: Duration = Duration::from_secs(2);
/// The longest that one call may take.
const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// Until when this process surely leads. A process that was stopped for a while and goes on must not write before it
/// has found out that another leads now.
#[derive(Clone, Debug, Default)]
pub struct Fence(Arc<Mutex<Option<Instant>>>);

impl Fence {
    /// Whether this process leads now. Without an election it always does.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.0.lock().is_none_or(|until| Instant::now() < until)
    }
}

/// A candidate, later perhaps the leader.
pub struct Candidate {
    api: Api<Lease>,
    identity: String,
    fence: Fence,
    /// The other's lease as last seen, and since when it has been so.
    seen: Option<(String, Instant)>,
}

impl Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Candidate").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Leadership was lost: the process must end.
#[derive(Debug, thiserror::Error)]
#[error("leadership is lost, {0}: this process ends, so that only one replica writes")]
pub struct Lost(String);

impl Candidate {
    /// A candidate for the lease in `namespace`.
    #[must_use]
    pub fn new(client: Client, namespace: &str, identity: String) -> Self {
        let fence = Fence(Arc::new(Mutex::new(Some(Instant::now()))));
        Self { api: Api::namespaced(client, namespace), identity, fence, seen: None }
    }

    /// Holds while this candidate surely leads.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// Waits until this candidate leads.
    pub async fn elected(&mut self) {
        loop {
            match timeout(CALL_DEADLINE, self.try_once()).await {
                Ok(Ok(true)) => return,
                Ok(Ok(false)) => {}
                // Somebody else was faster.
                Ok(Err(kube::Error::Api(status))) if status.code == 409 => {}
                Ok(Err(error)) => warn!(%error, lease = NAME, "The lease cannot be read or written; tried again."),
                Err(_) => warn!(lease = NAME, "The API server does not answer; tried again."),
            }
            sleep(RETRY).await;
        }
    }

    /// Renews until that fails.
    pub async fn hold(&mut self) -> Lost {
        let mut renewed = Instant::now();
        loop {
            sleep(RETRY).await;
            let left = RENEW_DEADLINE.saturating_sub(renewed.elapsed());
            let start = Instant::now();
            let why = match timeout(left.min(CALL_DEADLINE), self.try_once()).await {
                Ok(Ok(true)) => {
                    renewed = start;
                    continue;
                }
                Ok(Ok(false)) => return Lost("another replica holds the lease".to_owned()),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the API server does not answer".to_owned(),
            };
            if renewed.elapsed() + RETRY >= RENEW_DEADLINE {
                return Lost(format!("the lease could not be renewed for {RENEW_DEADLINE:?}: {why}"));
            }
        }
    }

    /// Gives the lease up, so that another need not wait.
    pub async fn release(self) {
        let given_up = timeout(CALL_DEADLINE, async {
            let mut lease = self.api.get(NAME).await?;
            if holder(&lease) == Some(self.identity.as_str()) {
                let spec = lease.spec.get_or_insert_default();
                spec.holder_identity = Some(String::new());
                spec.lease_duration_seconds = Some(1);
                spec.renew_time = Some(MicroTime(jiff::Timestamp::now()));
                self.api.replace(NAME, &PostParams::default(), &lease).await?;
            }
            Ok::<(), kube::Error>(())
        });
        match given_up.await {
            Ok(Ok(())) => info!(lease = NAME, "The lease is released."),
            Ok(Err(error)) => warn!(%error, "The lease was not released; it ends by itself."),
            Err(_) => warn!("The lease was not released; it ends by itself."),
        }
    }

    /// Takes or renews the lease if that is right. Returns whether it is ours.
    async fn try_once(&mut self) -> kube::Result<bool> {
        let start = Instant::now();
        let ours = self.take().await?;
        if ours {
            *self.fence.0.lock() = Some(start + RENEW_DEADLINE);
        }
        Ok(ours)
    }

    async fn take(&mut self) -> kube::Result<bool> {
        let now = MicroTime(jiff::Timestamp::now());
        let Some(mut lease) = self.api.get_opt(NAME).await? else {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            let spec = LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            };
            let lease = Lease { metadata, spec: Some(spec) };
            self.api.create(&PostParams::default(), &lease).await?;
            return Ok(true);
        };
        let ours = holder(&lease) == Some(self.identity.as_str());
        if !ours && !self.is_over(&lease, Instant::now()) {
            return Ok(false);
        }
        let spec = lease.spec.get_or_insert_default();
        if !ours {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        spec.renew_time = Some(now);
        // With its resource version: of two that try, one gets a conflict.
        self.api.replace(NAME, &PostParams::default(), &lease).await?;
        Ok(true)
    }

    /// Whether another's lease is free, or was not renewed for its duration since it was first seen like this.
    fn is_over(&mut self, lease: &Lease, now: Instant) -> bool {
        if holder(lease).is_none() {
            return true;
        }
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => {
                self.seen = Some((version, now));
                now
            }
        };
        let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds).unwrap_or(0);
        now.duration_since(since) >= Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).max(RETRY)
    }
}

fn holder(lease: &Lease) -> Option<&str> {
    lease.spec.as_ref()?.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_was_frozen_beyond_its_lease_does_not_write_when_it_goes_on() {
        assert!(Fence::default().holds(), "without an election");
        let now = Instant::now();
        let until = |until| Fence(Arc::new(Mutex::new(Some(until))));
        assert!(until(now + RENEW_DEADLINE).holds());
        assert!(!until(now).holds());
    }
}
