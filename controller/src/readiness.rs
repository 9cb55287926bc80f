//! What must be there before the operator is of use: until then `/readyz` says what is missing.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::watch;

/// What is waited for, and why it is not there yet. Reached once, it stays reached.
#[derive(Debug)]
pub struct Readiness {
    missing: Mutex<BTreeMap<&'static str, String>>,
    ready: watch::Sender<bool>,
}

impl Readiness {
    /// Waits for all of these.
    #[must_use]
    pub fn new(wanted: &[&'static str]) -> Self {
        let missing = wanted.iter().map(|what| (*what, "not yet".to_owned())).collect();
        Self { missing: Mutex::new(missing), ready: watch::Sender::new(wanted.is_empty()) }
    }

    /// It is there.
    pub fn reached(&self, what: &'static str) {
        let mut missing = self.missing.lock();
        if missing.remove(what).is_some() && missing.is_empty() {
            self.ready.send_replace(true);
        }
    }

    /// It is not there, because of this. Says nothing about what was reached before.
    pub fn waits(&self, what: &'static str, why: String) {
        if let Some(reason) = self.missing.lock().get_mut(what) {
            *reason = why;
        }
    }

    /// Ends when all is there.
    pub async fn all(&self) {
        let mut ready = self.ready.subscribe();
        // The sender lives as long as `self`.
        let _ = ready.wait_for(|ready| *ready).await;
    }

    /// What is missing, for a person; nothing when all is there.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        let missing = self.missing.lock();
        let reasons = missing.iter().map(|(what, why)| format!("{what}: {why}"));
        (!*self.ready.borrow()).then(|| reasons.collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_is_when_everything_was_reached() {
        let readiness = Readiness::new(&["pods", "services"]);
        readiness.reached("pods");
        readiness.waits("services", "forbidden".to_owned());
        readiness.waits("pods", "a later failure".to_owned());
        assert_eq!(readiness.reason().as_deref(), Some("services: forbidden"));
        readiness.reached("services");
        assert_eq!(readiness.reason(), None);
        readiness.all().await;
    }
}
