//! What a host is: a gateway's control plane and its Envoy.

use std::fmt;
use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests::client;
use tests::cluster::control_plane::ControlPlane;
use tests::cluster::crds::GatewayKinds;
use tests::poll;

use crate::objects::Objects;
use crate::stage::SOON;

/// How Envoy shows the picker a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Buffered,
    FullDuplex,
    /// First the headers, and the body once the picker asks for it.
    OnDemand,
}

/// What is to happen when the picker does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Open,
    Close,
}

/// What a user can set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) body: Body,
    pub(crate) failure: Failure,
}

impl Setting {
    pub(crate) const fn new(body: Body, failure: Failure) -> Self {
        Self { body, failure }
    }

    /// How the picker calls the way that it is shown bodies.
    pub(crate) fn seen_by_picker(self) -> &'static str {
        match self.body {
            Body::Buffered => "buffered",
            Body::FullDuplex | Body::OnDemand => "full_duplex_streamed",
        }
    }

    /// As the guide has them.
    pub(crate) fn words(self) -> [&'static str; 2] {
        let body = match self.body {
            Body::Buffered => "buffered",
            Body::FullDuplex => "full duplex",
            Body::OnDemand => "on demand",
        };
        [body, if self.failure == Failure::Open { "open" } else { "closed" }]
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.words().join(", "))
    }
}

/// A gateway's control plane and its Envoy; dropping it ends both.
pub(crate) trait Host: Sized {
    /// Its folder in `gateway-api-examples`.
    const NAME: &'static str;
    /// Its name in the guide.
    const TITLE: &'static str;
    /// The kinds that it needs.
    const KINDS: &'static [GatewayKinds];
    /// What can be set, the manifests' own setting first.
    const SETTINGS: &'static [Setting];
    /// Whether its Envoy has the addresses of the pickers' pods, and of ready ones only.
    const PICKERS_BY_POD: bool = true;
    /// Whether it does what the failure mode says.
    const HEEDS_FAILURE_MODE: bool = true;
    /// Whether of pools that share a rule the picker of the one that is meant is asked.
    const PICKER_OF_EACH_SHARE: bool = false;
    /// Whether a large fleet is tried behind it; one host is enough.
    const FLEET: bool = false;

    /// Whether ModelRoutes and the guide's scenarios are told on it. With policies alone an HTTPRoute leads to Services,
    /// and what the operator makes of a ModelRoute means nothing to it; where the operator is part of the host already,
    /// a scenario cannot start another.
    const SCENARIOS: bool = true;
    /// Whether one rule may share requests among several pools, of which the picker of the last is asked.
    const SHARES_BY_WEIGHT: bool = true;
    /// The example that has a running gateway tell its spans to a collector.
    const TELEMETRY: &'static str;

    /// Builds its programs, where the cache has none.
    async fn build() -> Result<()>;

    /// Starts the control plane, before there are manifests. The gateway tells its spans to `traces` (OTLP over gRPC).
    async fn start(plane: &ControlPlane, objects: &Objects, traces: SocketAddr) -> Result<Self>;

    /// After the manifests were applied: until the gateway's port answers.
    async fn attach(&mut self, objects: &Objects) -> Result<()>;

    /// Where clients ask.
    fn address(&self) -> SocketAddr;

    /// Envoy's admin interface.
    fn admin(&self) -> SocketAddr;

    /// Has it set.
    async fn set(&self, objects: &Objects, setting: Setting) -> Result<()>;

    /// The ends of its logs.
    fn said(&self) -> String;

    /// Waits until Envoy has `setting` in force.
    async fn wait_for(&self, setting: Setting) -> Result<()> {
        let open = Self::HEEDS_FAILURE_MODE && setting.failure == Failure::Open;
        let mut last = Vec::new();
        poll::until(&format!("the setting {setting} in Envoy"), SOON, async || {
            let dump = client::get(self.admin(), "/config_dump").await.ok()?.json().ok()?;
            let mut found = Vec::new();
            asking(&dump, &mut found);
            let body = match setting.body {
                Body::Buffered => "BUFFERED",
                Body::FullDuplex => "FULL_DUPLEX_STREAMED",
                Body::OnDemand => "ON_DEMAND",
            };
            let wanted = (body.to_owned(), open);
            let there = !found.is_empty() && found.iter().all(|one| *one == wanted);
            last = found;
            there.then_some(())
        })
        .await
        .with_context(|| format!("in force: {last:?}\n{}", self.said()))
    }
}

/// Body mode and failure mode of every filter that shows bodies to a picker.
fn asking(dump: &Value, found: &mut Vec<(String, bool)>) {
    match dump {
        Value::Array(items) => items.iter().for_each(|item| asking(item, found)),
        Value::Object(fields) => {
            let body = dump["processing_mode"]["request_body_mode"].as_str().filter(|body| *body != "NONE");
            if let Some(body) = body.or((dump["allow_mode_override"] == true).then_some("ON_DEMAND")) {
                found.push((body.to_owned(), dump["failure_mode_allow"] == true));
            }
            // A listener that was replaced ends its connections for minutes.
            let in_force = fields.iter().filter(|(name, _)| *name != "draining_state");
            in_force.for_each(|(_, value)| asking(value, found));
        }
        _ => {}
    }
}
