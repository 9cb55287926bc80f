//! What a decision about prefill means for the request at hand.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng;
use scheduling::{Decision, Headers, Verdict};

use super::Shared;
use crate::duplicates;
use crate::exchange::Seen;
use crate::from_proto::WireHeaders;
use crate::observer::ExchangeObserver;
use crate::prefill::{self, CallHeaders, Job, Split, Transfer, Unsplittable};
use crate::splice::Change;

/// What the data plane is asked to wait beyond the prefill, for what is done besides.
const SLACK: Duration = Duration::from_secs(1);

/// What is done about prefill.
pub(super) enum Plan {
    /// Nothing: one engine does all. The new body, where it changes.
    Alone(Option<Vec<u8>>),
    /// The decode pod's sidecar does it, and is told where.
    Sidecar {
        /// The new body, where it changes.
        body: Option<Vec<u8>>,
        /// `ip:port` of the prefill endpoint.
        prefiller: String,
    },
    /// The answer waits for it.
    First {
        /// The prefill.
        job: Box<Job>,
        /// What decode's body is made of afterwards.
        split: Split,
    },
    /// It runs beside decode.
    Together {
        /// The prefill.
        job: Box<Job>,
        /// Decode's body.
        body: Option<Vec<u8>>,
    },
}

/// The request at hand.
pub(super) struct Asked<'a> {
    pub(super) id: &'a str,
    pub(super) path: &'a str,
    pub(super) headers: &'a WireHeaders,
    pub(super) seen: Seen,
    pub(super) body: &'a Bytes,
    /// What is left of the exchange's time.
    pub(super) left: Duration,
    /// The body is the one that an earlier filter of this very request was given for decode.
    pub(super) passed_on: bool,
    /// The decision's accounts.
    pub(super) picked: &'a duplicates::Shared,
}

/// What `decision` means for a request that it has a word about prefill for.
///
/// A repetition of a request makes its own prefill: what the first one transferred may be consumed. Only
/// the next filter behind the one that spliced passes its body on.
pub(super) fn plan(shared: &Shared, decision: &Decision, asked: &Asked<'_>, observer: &mut ExchangeObserver) -> Plan {
    let Some(disaggregation) = &decision.disaggregation else { return Plan::Alone(None) };
    let model = decision.rewrite_model.as_deref();
    let split = match asked.seen {
        Seen::Whole => Split::read(asked.body, model),
        Seen::Absent | Seen::Hidden | Seen::Beginning => Err(Unsplittable::Body),
    };
    let apart = matches!(disaggregation.verdict, Verdict::Disaggregate { .. });
    let Some(first) = disaggregation.prefills.first().filter(|_| apart) else {
        return Plan::Alone(split.ok().and_then(|split| split.decode(&[])));
    };
    let split = match split {
        Ok(split) => split,
        Err(reason) => {
            fell_back(asked, observer, reason);
            return Plan::Alone(None);
        }
    };
    let connector = prefill::connector(disaggregation.connector);
    let path = prefill::engine_path(asked.path).ok_or(Unsplittable::Path);
    let path = match path.and_then(|path| split.fits(connector).map(|()| path)) {
        Ok(path) => path,
        Err(reason) => {
            fell_back(asked, observer, reason);
            return Plan::Alone(split.decode(&[]));
        }
    };
    if disaggregation.sidecar {
        return Plan::Sidecar { body: split.decode(&[]), prefiller: first.address.to_string() };
    }
    if asked.passed_on {
        return Plan::Alone(None);
    }
    let room = rand::rng().random::<u64>() >> 1;
    let transfer = connector.transfer(first.address.ip(), room);
    let (body, decode) = match &transfer {
        Transfer::Prefilled { prefill, decode } => (split.prefill(prefill), *decode),
        Transfer::Together { prefill, .. } => (split.prefill(prefill), nothing as _),
    };
    let header = |name| asked.headers.get(name);
    let mut job = Box::new(Job {
        client: shared.prefill.clone(),
        connector: disaggregation.connector,
        path,
        headers: CallHeaders::new(asked.id, header("content-type"), header("authorization")),
        traceparent: header("traceparent").map(str::to_owned),
        body: body.into(),
        prefills: disaggregation.prefills.clone(),
        picked: Arc::clone(asked.picked),
        fleet: Arc::clone(&shared.fleet),
        decode,
        timeout: shared.settings.prefill_timeout.min(asked.left),
        observer: observer.prefill(),
    });
    match transfer {
        Transfer::Prefilled { .. } => Plan::First { job, split },
        Transfer::Together { decode, .. } => {
            job.prefills.truncate(1);
            Plan::Together { job, body: split.decode(&decode) }
        }
    }
}

fn nothing(_: &[u8]) -> Result<Vec<Change>, prefill::NoTransfer> {
    Ok(Vec::new())
}

fn fell_back(asked: &Asked<'_>, observer: &mut ExchangeObserver, reason: Unsplittable) {
    asked.picked.lock().decode_alone();
    tracing::debug!(%reason, "The prefill of this request cannot run apart.");
    observer.prefill_fell_back(reason.code());
}

/// How long to ask the data plane to wait for a prefill of at most `time`.
pub(super) fn patience(time: Duration) -> Duration {
    time.saturating_add(SLACK)
}
