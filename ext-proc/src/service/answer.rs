//! From a decision to what the request shall carry.

use std::fmt::Write as _;

use scheduling::Decision;

use crate::exchange::Answer;
use crate::from_proto::WireHeaders;
use crate::observer::ExchangeObserver;
use crate::service::Settings;
use crate::steering;

/// The answer that carries `decision`; only headers that change are in it. `prefiller` is for the
/// sidecar of the decode pod.
pub(super) fn answer(
    settings: &Settings,
    decision: &Decision,
    headers: &WireHeaders,
    observer: &ExchangeObserver,
    body: Option<Vec<u8>>,
    prefiller: Option<String>,
) -> Answer {
    // `SocketAddr` writes IPv6 as `[addr]:port`, the only form that Envoy parses.
    let mut destination = String::with_capacity(24);
    for (index, endpoint) in decision.endpoints().take(settings.destinations.max(1)).enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(destination, "{comma}{}", endpoint.address);
    }
    let mut remove: Vec<&'static str> = Vec::new();
    for header in headers.names().filter_map(steering::removed) {
        let overwritten = prefiller.is_some() && header == steering::PREFILLER;
        if !overwritten && !remove.contains(&header) {
            remove.push(header);
        }
    }
    let traceparent = observer.traceparent().map(|value| ("traceparent", value));
    Answer {
        destination: Some(destination),
        set: traceparent.into_iter().chain(prefiller.map(|address| (steering::PREFILLER, address))).collect(),
        remove,
        body,
        content_length: None,
        clear_route_cache: settings.clear_route_cache,
    }
}
