//! `ext_proc` filters, as a route makes them.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Message, items, seconds, text, unwrapped};

/// How a body is shown to the picker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Body {
    /// Not at all.
    #[default]
    None,
    Streamed,
    Buffered,
    FullDuplex,
}

/// A filter that asks a processor, with the settings that hold on one route.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ExtProc {
    pub(crate) name: String,
    /// The cluster of the processor.
    pub(crate) cluster: String,
    pub(crate) authority: String,
    /// The metadata of the call.
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) request_headers: bool,
    pub(crate) request_body: Body,
    pub(crate) response_headers: bool,
    pub(crate) mode_override: bool,
    /// In seconds.
    pub(crate) message_timeout: f64,
    /// In seconds.
    pub(crate) max_message_timeout: f64,
    pub(crate) fail_open: bool,
    /// Metadata namespaces that the processor is shown.
    pub(crate) forwarded: BTreeSet<String>,
    /// Metadata namespaces that the processor may write.
    pub(crate) received: BTreeSet<String>,
}

impl ExtProc {
    fn read(name: &str, config: &Value) -> Self {
        let mut filter = Self {
            name: name.to_owned(),
            request_headers: true,
            response_headers: true,
            mode_override: flag(config, "/allow_mode_override").unwrap_or(false),
            // Envoy's own default.
            message_timeout: config.get("message_timeout").map_or(0.2, seconds),
            max_message_timeout: config.get("max_message_timeout").map_or(0.0, seconds),
            ..Self::default()
        };
        filter.change(config);
        filter
    }

    /// What a filter's configuration and a route's changes of it both may say.
    fn change(&mut self, config: &Value) {
        if let Some(service) = config.get("grpc_service") {
            text(service, "/envoy_grpc/cluster_name").clone_into(&mut self.cluster);
            text(service, "/envoy_grpc/authority").clone_into(&mut self.authority);
            self.metadata = pairs(items(service, "/initial_metadata"));
        }
        self.metadata.extend(pairs(items(config, "/grpc_initial_metadata")));
        if let Some(mode) = config.get("processing_mode") {
            self.request_headers = text(mode, "/request_header_mode") != "SKIP";
            self.response_headers = text(mode, "/response_header_mode") != "SKIP";
            self.request_body = match text(mode, "/request_body_mode") {
                "STREAMED" => Body::Streamed,
                "BUFFERED" | "BUFFERED_PARTIAL" => Body::Buffered,
                "FULL_DUPLEX_STREAMED" => Body::FullDuplex,
                _ => Body::None,
            };
        }
        if let Some(open) = flag(config, "/failure_mode_allow") {
            self.fail_open = open;
        }
        if let Some(options) = config.get("metadata_options") {
            self.forwarded = names(options, "/forwarding_namespaces/untyped");
            self.received = names(options, "/receiving_namespaces/untyped");
        }
    }

    /// Whether it asks anything of a request.
    fn asks(&self) -> bool {
        self.request_headers || self.request_body != Body::None
    }

    /// Whether its answer may say, in metadata, where a request goes.
    pub(crate) fn may_steer(&self) -> bool {
        self.received.contains("envoy.lb")
    }

    /// Whether the picker is asked to ask for the body.
    pub(crate) fn on_demand(&self) -> bool {
        let wanted = |(key, value): &(String, String)| key == "x-kthena-mode-override" && value == "full-duplex";
        self.request_body == Body::None && self.metadata.iter().any(wanted)
    }
}

/// A boolean; JSON writes a `BoolValue` so too.
fn flag(config: &Value, pointer: &str) -> Option<bool> {
    config.pointer(pointer).and_then(Value::as_bool)
}

fn names(options: &Value, pointer: &str) -> BTreeSet<String> {
    items(options, pointer).filter_map(Value::as_str).map(str::to_owned).collect()
}

fn pairs<'a>(headers: impl Iterator<Item = &'a Value>) -> Vec<(String, String)> {
    headers.map(|header| (text(header, "/key").to_owned(), text(header, "/value").to_owned())).collect()
}

/// The `ext_proc` filters of a listener, in their order.
pub(super) struct Chain {
    filters: Vec<(ExtProc, bool)>,
}

impl Chain {
    /// Reads the filters; of those that come from elsewhere, the configuration in `discovered`.
    pub(super) fn read<'a>(filters: impl Iterator<Item = &'a Value>, discovered: &[&'a Value]) -> Self {
        let read = |filter: &'a Value| {
            let name = text(filter, "/name");
            let named = discovered.iter().find(|found| text(found, "/name") == name);
            let config = filter.get("typed_config").or_else(|| named.and_then(|found| found.get("typed_config")))?;
            let Message { kind, value } = unwrapped(config);
            let off = flag(filter, "/disabled").unwrap_or(false);
            kind.ends_with(".ExternalProcessor").then(|| (ExtProc::read(name, value), off))
        };
        Self { filters: filters.filter_map(read).collect() }
    }

    /// The filters that ask on a route, as its levels, the most general first, make them.
    pub(super) fn at(&self, levels: [&Value; 4]) -> Vec<ExtProc> {
        let at = |(filter, off): &(ExtProc, bool)| {
            let (mut filter, mut off) = (filter.clone(), *off);
            for level in levels {
                let changes = level.get("typed_per_filter_config").and_then(|all| all.get(&filter.name));
                if let Some(Message { kind, value }) = changes.map(unwrapped) {
                    let wrapped = kind.ends_with(".FilterConfig");
                    let inner = if wrapped { value.get("config").unwrap_or(&Value::Null) } else { value };
                    // That a route speaks of a filter switches it on, unless it says otherwise.
                    off = (wrapped && flag(value, "/disabled").unwrap_or(false))
                        || flag(inner, "/disabled").unwrap_or(false);
                    if let Some(overrides) = inner.get("overrides") {
                        filter.change(overrides);
                    }
                }
            }
            (!off && filter.asks()).then_some(filter)
        };
        self.filters.iter().filter_map(at).collect()
    }
}
