//! `least-request`: keeps endpoints with fewer than `maxWaitingRequests` requests in the engine's
//! queue. One without current gauges is kept: not knowing is not being full.
//!
//! When it leaves nobody, every engine is saturated: the client is told to come back.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::candidate::Candidate;
use crate::endpoint::Endpoint;
use crate::filters::{Filter, Question};
use crate::refusal::RefusalKind;

/// A saturated engine admits its next request within about this time.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct LeastRequest {
    /// An endpoint with so many waiting requests is full.
    max_waiting_requests: u32,
}

impl Default for LeastRequest {
    fn default() -> Self {
        Self { max_waiting_requests: 10 }
    }
}

impl Filter for LeastRequest {
    fn filter(&self, question: &Question<'_>, kept: &mut Vec<usize>) {
        let has_room = |candidate: &Candidate<'_>| candidate.waiting < self.max_waiting_requests;
        kept.retain(|index| question.candidates.get(*index).is_some_and(has_room));
    }

    fn reason(&self, _: &Question<'_>, endpoint: &Endpoint) -> String {
        let waiting = endpoint.gauges.as_ref().map_or(0, |gauges| gauges.waiting);
        format!("{waiting} requests wait there, maxWaitingRequests is {}", self.max_waiting_requests)
    }

    fn refusal(&self, _: &Question<'_>, _: &'static str, _: &Endpoint) -> RefusalKind {
        RefusalKind::Overloaded { retry_after: RETRY_AFTER }
    }

    fn check(&self) -> Result<(), String> {
        match self.max_waiting_requests {
            0 => Err("maxWaitingRequests must be at least 1, 0 would refuse every request".to_owned()),
            _ => Ok(()),
        }
    }
}
