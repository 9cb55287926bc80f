//! How Kthena's networking kinds are attached to the Gateway API: a ModelServer becomes an InferencePool, a ModelRoute
//! becomes HTTPRoutes. What no gateway can match is left to the picker, which resolves ModelRoutes itself within a
//! pool; the status says which part is resolved where.
//!
//! Nothing is decided by who came last: of two objects that want the same, the older gets it, then the first by name.
//! What somebody else made is never written to, and a spec that has become bad leaves what was made of the last good one.

mod backends;
pub mod claims;
mod conditions;
mod expressions;
mod matches;
pub mod model_route;
pub mod model_server;
mod order;
mod parents;
pub mod picker_endpoints;
pub mod picker_service;
pub mod selection;

use std::cmp::Ordering;

use controller_api::inference_pool::FailureMode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

/// What the operator's flags say of every pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The Service of the picker: each pool gets one of its own that leads to the same pods.
    pub picker_service: String,
    /// Where that Service is; without it in each pool's own namespace.
    pub picker_namespace: Option<String>,
    /// The port of that Service.
    pub picker_port: u16,
    /// What gateways do when the picker does not answer.
    pub failure_mode: FailureMode,
}

impl Settings {
    /// Where the picker of pools in `namespace` is.
    #[must_use]
    pub fn home<'a>(&'a self, namespace: &'a str) -> &'a str {
        self.picker_namespace.as_deref().unwrap_or(namespace)
    }

    /// Whether the picker of pools in `namespace` is in another one, whose pods no selector reaches.
    #[must_use]
    pub fn is_elsewhere(&self, namespace: &str) -> bool {
        self.home(namespace) != namespace
    }
}

/// Who comes first: the older, of unknown age after all others; then by namespace and name.
fn precedence(one: &ObjectMeta, other: &ObjectMeta) -> Ordering {
    let rank = |meta: &ObjectMeta| {
        let created = meta.creation_timestamp.as_ref().map(|time| time.0);
        (created.is_none(), created, meta.namespace.clone(), meta.name.clone())
    };
    rank(one).cmp(&rank(other))
}

/// Whose an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ownership {
    /// Made for this very object.
    Ours,
    /// Made for one of the same name that is gone: the garbage collector is about to take it.
    Predecessors,
    /// Somebody else's.
    Foreign,
}

fn ownership<K: Resource<DynamicType = ()>>(owner: &ObjectMeta, object: &ObjectMeta) -> Ownership {
    let controls = |reference: &&OwnerReference| {
        reference.controller == Some(true)
            && reference.kind == K::kind(&())
            && reference.api_version.split('/').next() == Some(&*K::group(&()))
    };
    match object.owner_references.iter().flatten().find(controls) {
        Some(reference) if Some(&reference.uid) == owner.uid.as_ref() => Ownership::Ours,
        Some(reference) if Some(&reference.name) == owner.name.as_ref() => Ownership::Predecessors,
        _ => Ownership::Foreign,
    }
}

/// What an object of this name that is made for `owner` has.
fn owned<K: Resource<DynamicType = ()>>(owner: &ObjectMeta, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: owner.namespace.clone(),
        // It blocks nobody's deletion, which would need rights on the owner's finalizers.
        owner_references: Some(vec![OwnerReference {
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            name: owner.name.clone().unwrap_or_default(),
            uid: owner.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        }]),
        ..ObjectMeta::default()
    }
}

fn is_alive(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests;
