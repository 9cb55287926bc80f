//! What could not be read, and what is not there to be read.

use super::{Check, Found};
use crate::doctor::facts::objects::{OLD_POOLS, POOLS};
use crate::doctor::facts::{Facts, Source};

pub(super) const UNREADABLE: Check = Check {
    id: "unreadable",
    about: "a file, an object or an address that was to be read cannot be",
    needs: &[],
    find: unreadable,
};

fn unreadable(facts: &Facts) -> Vec<Found> {
    let found = |it: &crate::doctor::facts::Unreadable| Found::error(it.what.clone(), &it.problem, &it.fix);
    let elsewhere = facts.envoy.iter().flat_map(|envoy| &envoy.elsewhere).map(|routes| {
        Found::warning(
            format!("Envoy routes {routes}"),
            "a listener gets them over xDS, and they are not in what was given",
            "give what a running Envoy has: --envoy http://127.0.0.1:19000, its admin port",
        )
    });
    facts.unreadable.iter().map(found).chain(elsewhere).collect()
}

pub(super) const KIND_MISSING: Check = Check {
    id: "kind-missing",
    about: "the cluster lacks a CustomResourceDefinition without which nothing is attached",
    needs: &[],
    find: kind_missing,
};

fn kind_missing(facts: &Facts) -> Vec<Found> {
    let found = |source: &Source| {
        let (owner, url) = match source {
            Source::InferencePools => {
                ("the Gateway API Inference Extension (v1.5 or later)", "gateway-api-inference-extension")
            }
            Source::HttpRoutes | Source::Gateways => ("the Gateway API (v1.2 or later)", "gateway-api"),
            _ => return None,
        };
        Some(Found::error(
            format!("kind {source}"),
            format!("the cluster does not know the kind {source}"),
            format!(
                "install the definitions of {owner}: https://github.com/kubernetes-sigs/{url}/releases, or as the \
                 gateway's documentation says"
            ),
        ))
    };
    facts.missing_kinds.iter().filter_map(found).collect()
}

pub(super) const OLD_API_GROUP: Check = Check {
    id: "old-api-group",
    about: "an InferencePool, or a route to one, is of the group that gateways no longer read",
    needs: &[&[Source::InferencePools, Source::HttpRoutes]],
    find: old_api_group,
};

fn old_api_group(facts: &Facts) -> Vec<Found> {
    let pools = facts.objects.old_pools.iter().map(|pool| {
        Found::error(
            format!("InferencePool {pool}"),
            format!("it is of the group {OLD_POOLS}, which is that of drafts: gateways and the picker read v1 only"),
            format!("write apiVersion: {POOLS}/v1, and matchLabels below selector, targetPorts for targetPortNumber"),
        )
    });
    let routes = facts.objects.routes.iter().flat_map(|route| {
        let old = route.backends.iter().filter(|backend| backend.group == OLD_POOLS && backend.is_pool());
        old.map(|backend| {
            Found::error(
                format!("HTTPRoute {}", route.name),
                format!("its backend {} is an InferencePool of the group {OLD_POOLS}", backend.name),
                format!("write group: {POOLS} in its backendRefs"),
            )
        })
    });
    pools.chain(routes).collect()
}
