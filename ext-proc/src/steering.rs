//! Headers that steer a request. What a client writes there must never reach a gateway's load
//! balancer, a routing sidecar or an engine.

/// The endpoint chosen: request header, and key in `envoy.lb` metadata (endpoint-picker protocol 1.0).
pub const DESTINATION: &str = "x-gateway-destination-endpoint";
/// The subset hint's key in `envoy.lb.subset_hint` metadata.
pub const SUBSET: &str = "x-gateway-destination-endpoint-subset";
/// The endpoint that served: key in `envoy.lb` metadata of the response.
pub const SERVED: &str = "x-gateway-destination-endpoint-served";

/// Where a decode pod's sidecar finds prefill, `ip:port`.
pub const PREFILLER: &str = "x-prefiller-host-port";

/// Removed from every request that carries them. [`DESTINATION`] is not here: it is overwritten, and so is
/// [`PREFILLER`] where we set it.
pub const REMOVED: &[&str] = &[
    SUBSET,
    SERVED,
    "x-gateway-destination-endpoint-fallback",
    "x-gateway-destination-endpoint-fallbacks",
    "x-gateway-destination-endpoint-scores",
    PREFILLER,
    "x-prefiller-url",
    "x-encoder-hosts-ports",
    "x-data-parallel-host-port",
    "x-data-parallel-rank",
    "x-kv-cache-source-host-port",
    crate::read_once::TOKEN,
];

/// The header of [`REMOVED`] that `name` is, in any case of letters.
#[must_use]
pub fn removed(name: &str) -> Option<&'static str> {
    // All begin so: nearly every header is told by its first two bytes.
    if !name.as_bytes().get(..2).is_some_and(|start| start.eq_ignore_ascii_case(b"x-")) {
        return None;
    }
    REMOVED.iter().find(|steering| steering.eq_ignore_ascii_case(name)).copied()
}
