//! Which model names a ModelRoute has at which of its Gateways: the older route has a name, base models before adapters.

use std::sync::Arc;

use controller_api::v1alpha1::model_route::{ModelRoute, ParentReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{is_alive, precedence};

/// A group of Gateways for which a route has the same names.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Claim<'a> {
    pub(super) names: Vec<&'a str>,
    pub(super) parents: Vec<ParentReference>,
}

/// The claims of a route; and what it lost, each in words.
#[derive(Debug, Default)]
pub(super) struct Claims<'a> {
    pub(super) held: Vec<Claim<'a>>,
    pub(super) lost: Vec<String>,
}

/// The names of a route: its model's, which is no adapter's, then those of adapters.
pub(super) fn names(route: &ModelRoute) -> Vec<(&str, bool)> {
    let model = route.spec.model_name.iter().map(|name| (name.as_str(), false));
    let adapters = route.spec.lora_adapters.iter().map(|name| (name.as_str(), true));
    let mut names: Vec<(&str, bool)> = Vec::new();
    for (name, adapter) in model.chain(adapters) {
        if !name.is_empty() && names.iter().all(|(other, _)| *other != name) {
            names.push((name, adapter));
        }
    }
    names
}

/// Whether two routes have a name in common.
#[must_use]
pub fn share_a_name(one: &ModelRoute, other: &ModelRoute) -> bool {
    let others = names(other);
    names(one).iter().any(|(name, _)| others.iter().any(|(other, _)| other == name))
}

/// The Gateways of a route, each once, with every default written out.
fn parents(route: &ModelRoute) -> Vec<ParentReference> {
    let mut parents: Vec<ParentReference> = Vec::new();
    for parent in &route.spec.parent_refs {
        let mut parent = parent.clone();
        parent.group.get_or_insert_with(|| "gateway.networking.k8s.io".to_owned());
        parent.kind.get_or_insert_with(|| "Gateway".to_owned());
        // Unsaid, it is the route's own, to the API server too.
        parent.namespace = parent.namespace.filter(|namespace| Some(namespace) != route.metadata.namespace.as_ref());
        if !parents.contains(&parent) {
            parents.push(parent);
        }
    }
    parents
}

/// Whether some listener may belong to both references.
fn overlap((one, of): (&ParentReference, &ObjectMeta), (other, of_other): (&ParentReference, &ObjectMeta)) -> bool {
    let namespace = |parent: &ParentReference, meta: &ObjectMeta| {
        parent.namespace.clone().or_else(|| meta.namespace.clone()).unwrap_or_default()
    };
    fn may_equal<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
        one.zip(other).is_none_or(|(one, other)| one == other)
    }
    one.group == other.group
        && one.kind == other.kind
        && one.name == other.name
        && namespace(one, of) == namespace(other, of_other)
        && may_equal(one.section_name.as_ref(), other.section_name.as_ref())
        && may_equal(one.port.as_ref(), other.port.as_ref())
}

/// What a route has and what others have in its place.
pub(super) fn claims<'a>(route: &'a ModelRoute, rivals: &[Arc<ModelRoute>]) -> Claims<'a> {
    let mut claims = Claims::default();
    let ours = names(route);
    for parent in parents(route) {
        let mut held = Vec::new();
        for &(name, adapter) in &ours {
            match holder(route, &parent, name, adapter, rivals) {
                None => held.push(name),
                Some(holder) => claims.lost.push(format!(
                    "{name} at {} is the older ModelRoute {}/{}'s",
                    parent.name,
                    holder.metadata.namespace.as_deref().unwrap_or_default(),
                    holder.metadata.name.as_deref().unwrap_or_default()
                )),
            }
        }
        if held.is_empty() {
            continue;
        }
        match claims.held.iter_mut().find(|claim| claim.names == held) {
            Some(claim) => claim.parents.push(parent),
            None => claims.held.push(Claim { names: held, parents: vec![parent] }),
        }
    }
    claims
}

/// The first of the routes that go before this one for a name at a Gateway.
fn holder<'a>(
    route: &ModelRoute,
    parent: &ParentReference,
    name: &str,
    adapter: bool,
    rivals: &'a [Arc<ModelRoute>],
) -> Option<&'a Arc<ModelRoute>> {
    let goes_before = |rival: &&Arc<ModelRoute>| {
        let meta = &rival.metadata;
        let theirs = names(rival).into_iter().find(|(other, _)| *other == name);
        is_alive(meta)
            && meta.uid != route.metadata.uid
            && theirs.is_some_and(|(_, their_adapter)| {
                adapter.cmp(&their_adapter).then_with(|| precedence(&route.metadata, meta)).is_gt()
            })
            && parents(rival).iter().any(|other| overlap((parent, &route.metadata), (other, meta)))
    };
    rivals.iter().filter(goes_before).min_by(|one, other| precedence(&one.metadata, &other.metadata))
}
