//! What becomes of an object whose writes are not a plan of many steps.

use kube::Resource;
use planning::plan::Event;
use tracing::{info, warn};

use super::Failure;
use crate::events::Events;
use crate::observe::store::Key;
use crate::queue::Outcome;

/// When to look again after `written`; a person hears of what is refused.
pub(crate) fn outcome<K: Resource<DynamicType = ()>>(
    events: &Events,
    key: &Key,
    object: &K,
    written: Result<(), Failure>,
) -> Outcome {
    let kind = K::kind(&());
    match written {
        Ok(()) => Outcome::Again,
        Err(failure @ Failure::Refused(_)) => {
            warn!(%key, %failure, "A write for a {kind} is refused.");
            let event = Event {
                warning: true,
                reason: controller_api::conditions::WRITE_REFUSED,
                action: "Write",
                message: failure.to_string(),
            };
            events.tell(object, event);
            Outcome::Refused
        }
        Err(failure) => {
            info!(%key, %failure, "A write for a {kind} failed; it is tried again.");
            Outcome::Failed
        }
    }
}
