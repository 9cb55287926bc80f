//! The one decision: filters say who may, scorers say how good, the picker says who.

use std::sync::Arc;

use rand::RngCore;

use crate::decision::Decision;
use crate::moment::Moment;
use crate::profile::Profile;
use crate::refusal::{Refusal, RefusalKind};
use crate::request::Request;
use crate::snapshot::{Pool, Snapshot};

/// Chooses endpoints of `pool` for `request`.
///
/// # Errors
/// A [`Refusal`] that says which step left nobody, and why.
pub fn schedule(
    profile: &Profile,
    snapshot: &Snapshot,
    pool: &Arc<Pool>,
    request: &Request<'_>,
    now: Moment,
    rng: &mut dyn RngCore,
) -> Result<Decision, Refusal> {
    let _ = (profile, snapshot, request, now, rng);
    Err(RefusalKind::NoneReady(pool.name.to_string()).into())
}
