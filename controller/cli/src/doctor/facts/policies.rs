//! Envoy Gateway's policies, by which a route without an InferencePool gets a picker (Envoy Gateway 1.9):
//! EnvoyExtensionPolicy asks it, BackendTrafficPolicy obeys it, ClientTrafficPolicy keeps clients from steering.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;

use super::objects::Name;
use crate::doctor::DESTINATION;

/// The group of these kinds.
pub(crate) const GROUP: &str = "gateway.envoyproxy.io";

/// All of them, as far as they have to do with pickers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Policies {
    /// Who is asked, on which route.
    pub(crate) asked: Vec<Asked>,
    /// What obeys the header: `HTTPRoute` or `Gateway`, and its name.
    pub(crate) obeying: BTreeSet<(String, Name)>,
    /// The Gateways that remove the header from what clients send.
    pub(crate) stripping: BTreeSet<Name>,
}

/// One `extProc` of an EnvoyExtensionPolicy.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Asked {
    pub(crate) policy: Name,
    /// Kind and name of what the policy is for.
    pub(crate) targets: Vec<(String, Name)>,
    pub(crate) service: Name,
    pub(crate) port: u16,
    /// `Buffered`, `Streamed`, …; nothing when the body is not shown.
    pub(crate) body: Option<String>,
    /// As it is written; Envoy's own 200 ms if it is not.
    pub(crate) message_timeout: Option<String>,
    pub(crate) fail_open: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Policy {
    metadata: ObjectMeta,
    spec: Spec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    target_ref: Option<Target>,
    target_refs: Vec<Target>,
    ext_proc: Vec<ExtProc>,
    load_balancer: Option<Value>,
    headers: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Target {
    kind: String,
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ExtProc {
    backend_refs: Vec<Backend>,
    message_timeout: Option<String>,
    fail_open: bool,
    processing_mode: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Backend {
    name: String,
    namespace: Option<String>,
    port: u16,
}

impl Policies {
    /// Takes a policy in.
    ///
    /// # Errors
    /// When a field is not what its kind says.
    pub(crate) fn add(&mut self, kind: &str, object: Value) -> Result<(), String> {
        let Policy { metadata, spec } = serde_json::from_value(object).map_err(|error| error.to_string())?;
        let policy = Name::of(&metadata);
        let here = |name: &str| Name::new(&policy.namespace, name);
        let targets = spec.target_refs.into_iter().chain(spec.target_ref);
        let targets: Vec<(String, Name)> = targets.map(|target| (target.kind, here(&target.name))).collect();
        // Whether the list there has the header.
        let names = |value: Option<&Value>, pointer: &str, key: Option<&str>| {
            let items = value.and_then(|value| value.pointer(pointer)).and_then(Value::as_array).into_iter().flatten();
            let text =
                |item: &Value| key.map_or(Some(item), |key| item.get(key)).and_then(Value::as_str).map(str::to_owned);
            items.filter_map(text).any(|name| name.eq_ignore_ascii_case(DESTINATION))
        };
        match kind {
            "EnvoyExtensionPolicy" => {
                for ExtProc { backend_refs, message_timeout, fail_open, processing_mode } in spec.ext_proc {
                    let Some(backend) = backend_refs.into_iter().next() else { continue };
                    let body = processing_mode.as_ref().and_then(|mode| mode.pointer("/request/body"));
                    self.asked.push(Asked {
                        policy: policy.clone(),
                        targets: targets.clone(),
                        service: Name::new(backend.namespace.as_deref().unwrap_or(&policy.namespace), &backend.name),
                        port: backend.port,
                        body: body.and_then(Value::as_str).map(str::to_owned),
                        message_timeout,
                        fail_open,
                    });
                }
            }
            "BackendTrafficPolicy" => {
                if names(spec.load_balancer.as_ref(), "/endpointOverride/extractFrom", Some("header")) {
                    self.obeying.extend(targets);
                }
            }
            _ => {
                if names(spec.headers.as_ref(), "/earlyRequestHeaders/remove", None) {
                    self.stripping.extend(targets.into_iter().map(|(_, name)| name));
                }
            }
        }
        Ok(())
    }
}
