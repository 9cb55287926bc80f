//! How many Envoys follow the endpoints, and what they were told.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Counts streams and what went over them.
#[derive(Debug, Default)]
pub struct XdsMetrics {
    streams: Gauge,
    updates: Counter,
    refusals: Counter,
}

/// A stream, as long as it lives.
#[derive(Debug)]
pub(super) struct Stream(Arc<XdsMetrics>);

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.dec();
    }
}

impl XdsMetrics {
    /// Puts the counters into the registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("xds_streams", "Streams of Envoys that follow the endpoints of pools", self.streams.clone());
        registry.register("xds_updates", "Lists of endpoints that were sent to an Envoy", self.updates.clone());
        registry.register("xds_refusals", "Lists of endpoints that an Envoy refused", self.refusals.clone());
    }

    pub(super) fn stream(self: &Arc<Self>) -> Stream {
        self.streams.inc();
        Stream(Arc::clone(self))
    }

    pub(super) fn updated(&self) {
        self.updates.inc();
    }

    pub(super) fn refused(&self) {
        self.refusals.inc();
    }
}
