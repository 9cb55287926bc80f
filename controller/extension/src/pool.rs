//! An InferencePool, as far as a route depends on it.

use controller_api::inference_pool::{AppProtocol, FailureMode, InferencePool};
use controller_api::labels;
use serde::{Deserialize, Serialize};

use crate::endpoints::Subject;

/// How Envoy shows the picker a request's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// As it comes; the request goes on when the picker has seen what it needs.
    #[default]
    FullDuplex,
    /// Whole, as far as the listener's buffer limit goes.
    Buffered,
    /// Once the picker has answered the headers, hence is alive: so that failing open works at any time. Only a picker
    /// that knows the gRPC metadata `x-kthena-mode-override` asks for it.
    OnDemand,
}

impl Body {
    /// The word of the annotation.
    fn parse(word: &str) -> Option<Self> {
        match word {
            "full-duplex" => Some(Self::FullDuplex),
            "buffered" => Some(Self::Buffered),
            "on-demand" => Some(Self::OnDemand),
            _ => None,
        }
    }
}

/// The Service of a picker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picker {
    /// Its name, in the pool's namespace.
    pub service: String,
    /// Its port.
    pub port: u16,
}

/// A pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who picks; without one Envoy balances by itself.
    pub picker: Option<Picker>,
    /// Whether requests go on without the picker.
    pub fail_open: bool,
    /// How the picker sees bodies.
    pub body: Body,
    /// Its endpoints speak HTTP/2 without TLS.
    pub h2c: bool,
}

impl Pool {
    /// Reads the object that Envoy Gateway sends. `None` is one of another kind.
    ///
    /// # Errors
    /// What in it cannot be read.
    pub fn read(json: &[u8]) -> Result<Option<(Self, Vec<String>)>, serde_json::Error> {
        #[derive(Deserialize)]
        struct Kind {
            kind: String,
        }
        if serde_json::from_slice::<Kind>(json)?.kind != "InferencePool" {
            return Ok(None);
        }
        Ok(Some(Self::of(&serde_json::from_slice(json)?)))
    }

    /// What matters of a pool, and what in it is ignored.
    #[must_use]
    pub fn of(pool: &InferencePool) -> (Self, Vec<String>) {
        let mut ignored = Vec::new();
        let (namespace, name) =
            (pool.metadata.namespace.clone().unwrap_or_default(), pool.metadata.name.clone().unwrap_or_default());
        let mode = pool.metadata.annotations.as_ref().and_then(|all| all.get(labels::REQUEST_BODY_MODE));
        let body = mode.map_or(Some(Body::default()), |word| Body::parse(word)).unwrap_or_else(|| {
            ignored.push(format!(
                "InferencePool {namespace}/{name}: the annotation {} is {:?}: write full-duplex, buffered or on-demand",
                labels::REQUEST_BODY_MODE,
                mode.map(String::as_str).unwrap_or_default()
            ));
            Body::default()
        });
        let reference = pool.spec.endpoint_picker_ref.as_ref();
        let picker = reference.map(|picker| {
            if !matches!(picker.kind.as_deref(), None | Some("Service")) || picker.port.is_none() {
                ignored.push(format!(
                    "InferencePool {namespace}/{name}: its endpointPickerRef is not a Service with a port, and nobody \
                     is asked"
                ));
            }
            Picker {
                service: picker.name.clone(),
                port: picker.port.as_ref().map(|port| port.number).unwrap_or_default(),
            }
        });
        let pool = Self {
            picker,
            fail_open: reference.is_some_and(|picker| picker.failure_mode == Some(FailureMode::FailOpen)),
            body,
            h2c: pool.spec.app_protocol == Some(AppProtocol::H2c),
            namespace,
            name,
        };
        (pool, ignored)
    }

    /// The name of its filter.
    pub(crate) fn filter(&self) -> String {
        format!("envoy.filters.http.ext_proc/kthena/{}/{}", self.namespace, self.name)
    }

    /// Its endpoints, by EDS.
    pub(crate) fn subject(&self) -> Subject {
        Subject::Pool { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Its picker's endpoints, by EDS; also the name of the picker's cluster.
    pub(crate) fn picker_subject(&self) -> Option<Subject> {
        let Picker { service, port } = self.picker.clone()?;
        Some(Subject::Picker { namespace: self.namespace.clone(), service, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &serde_json::Value) -> Option<(Pool, Vec<String>)> {
        Pool::read(json.to_string().as_bytes()).unwrap()
    }

    fn manifest() -> serde_json::Value {
        serde_json::json!({
            "apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool",
            "metadata": {"name": "llama", "namespace": "default"},
            "spec": {
                "selector": {"matchLabels": {"app": "vllm"}}, "targetPorts": [{"number": 8000}],
                "endpointPickerRef": {"name": "epp", "port": {"number": 9002}, "failureMode": "FailOpen"},
            },
        })
    }

    #[test]
    fn a_pool_is_read_with_its_picker_and_failure_mode() {
        let (pool, ignored) = read(&manifest()).unwrap();
        assert_eq!((pool.fail_open, pool.body, pool.h2c, ignored.len()), (true, Body::FullDuplex, false, 0));
        assert_eq!(pool.picker_subject().unwrap().to_string(), "kthena/picker/default/epp:9002");
        let mut service = manifest();
        service["kind"] = "Bucket".into();
        assert_eq!(read(&service), None);
    }

    #[test]
    fn a_body_mode_is_a_word_and_another_is_told_and_ignored() {
        for (word, body, told) in [("on-demand", Body::OnDemand, 0), ("streamed", Body::FullDuplex, 1)] {
            let mut one = manifest();
            one["metadata"]["annotations"] = serde_json::json!({labels::REQUEST_BODY_MODE: word});
            let (pool, ignored) = read(&one).unwrap();
            assert_eq!((pool.body, ignored.len()), (body, told), "{ignored:?}");
        }
    }
}
