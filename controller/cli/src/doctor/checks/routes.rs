//! Routes: what they hang on, where they lead, and what gateways say of them.

use controller_api::conditions as words;
use controller_api::http_route::{ParentReference, RouteParentStatus};
use controller_api::v1alpha1::model_route::ModelRoute;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Check, Found, list};
use crate::doctor::facts::objects::{Backend, Name, Route};
use crate::doctor::facts::{Facts, Source};

fn title(route: &Route) -> String {
    format!("HTTPRoute {}", route.name)
}

fn title_of_model(route: &ModelRoute) -> String {
    format!("ModelRoute {}", Name::of(&route.metadata))
}

/// Routes that lead to pools: what others do is not ours.
fn to_pools(facts: &Facts) -> impl Iterator<Item = &Route> {
    facts.objects.routes.iter().filter(|route| route.backends.iter().any(Backend::is_pool))
}

/// Whether all objects of this namespace were read.
fn seen(facts: &Facts, namespace: &str) -> bool {
    facts.namespace.as_ref().is_none_or(|only| only == namespace)
}

fn is_gateway(parent: &ParentReference) -> bool {
    parent.kind.as_deref().is_none_or(|kind| kind == "Gateway")
        && parent.group.as_deref().is_none_or(|group| group == "gateway.networking.k8s.io")
}

pub(super) const GATEWAY_MISSING: Check = Check {
    id: "gateway-missing",
    about: "a route names a Gateway that is not there",
    needs: &[&[Source::HttpRoutes, Source::ModelRoutes], &[Source::Gateways]],
    find: gateway_missing,
};

fn gateway_missing(facts: &Facts) -> Vec<Found> {
    let routes = to_pools(facts).map(|route| (title(route), route.name.namespace.clone(), route.parents.as_slice()));
    let models =
        facts.objects.model_routes.iter().map(|route| {
            (title_of_model(route), Name::of(&route.metadata).namespace, route.spec.parent_refs.as_slice())
        });
    let mut found = Vec::new();
    for (object, namespace, parents) in routes.chain(models) {
        for parent in parents.iter().filter(|parent| is_gateway(parent)) {
            let gateway = Name::new(parent.namespace.as_deref().unwrap_or(&namespace), &parent.name);
            let known = facts.objects.gateways.contains(&gateway);
            if !known && (facts.all_gateways || seen(facts, &gateway.namespace)) {
                let there = list(&facts.objects.gateways);
                let problem = format!("it is to be attached to Gateway {gateway}, and there is none");
                let fix = match there.is_empty() {
                    true => "make the Gateway".to_owned(),
                    false => format!("name one that is there in parentRefs, with its namespace: {there}"),
                };
                found.push(Found::error(object.clone(), problem, fix));
            }
        }
    }
    found
}

pub(super) const BACKEND_MISSING: Check = Check {
    id: "backend-missing",
    about: "a route leads to an InferencePool that is not there",
    needs: &[&[Source::HttpRoutes], &[Source::InferencePools, Source::ModelServers]],
    find: backend_missing,
};

fn backend_missing(facts: &Facts) -> Vec<Found> {
    // The operator makes a pool of each ModelServer.
    let servers = facts.objects.servers.iter().map(|server| Name::of(&server.metadata)).filter(|_| !facts.live);
    let pools = facts.objects.pools.iter().map(|pool| Name::of(&pool.metadata));
    let known: Vec<Name> = pools.chain(facts.objects.old_pools.iter().cloned()).chain(servers).collect();
    let mut found = Vec::new();
    for route in to_pools(facts) {
        for backend in route.backends.iter().filter(|backend| backend.is_pool()) {
            let pool = Name::new(backend.namespace.as_deref().unwrap_or(&route.name.namespace), &backend.name);
            if !known.contains(&pool) && seen(facts, &pool.namespace) {
                let problem = format!("it leads to InferencePool {pool}, and there is none");
                let fix = format!("name one that is there in backendRefs, or make it: {}", list(&known));
                found.push(Found::error(title(route), problem, fix));
            }
        }
    }
    found
}

pub(super) const MODEL_SERVER_MISSING: Check = Check {
    id: "model-server-missing",
    about: "a ModelRoute leads to a ModelServer that is not there",
    needs: &[&[Source::ModelRoutes], &[Source::ModelServers]],
    find: model_server_missing,
};

fn model_server_missing(facts: &Facts) -> Vec<Found> {
    let known: Vec<Name> = facts.objects.servers.iter().map(|server| Name::of(&server.metadata)).collect();
    let mut found = Vec::new();
    for route in &facts.objects.model_routes {
        let namespace = Name::of(&route.metadata).namespace;
        for target in route.spec.rules.iter().flat_map(|rule| &rule.target_models) {
            let server = Name::new(&namespace, &target.model_server_name);
            if !known.contains(&server) {
                let problem = format!("it leads to ModelServer {server}, and there is none");
                let here = known.iter().filter(|known| known.namespace == namespace);
                let fix = format!("name one of its namespace in targetModels, or make it: {}", list(here));
                found.push(Found::error(title_of_model(route), problem, fix));
            }
        }
    }
    found
}

pub(super) const ROUTE_NOT_ACCEPTED: Check = Check {
    id: "route-not-accepted",
    about: "a gateway refuses a route or what it leads to, or says nothing of it",
    needs: &[&[Source::HttpRoutes, Source::ModelRoutes]],
    find: route_not_accepted,
};

fn route_not_accepted(facts: &Facts) -> Vec<Found> {
    let mut found = Vec::new();
    for route in to_pools(facts) {
        for parent in &route.parents {
            let about = |status: &&RouteParentStatus| same(&status.parent_ref, parent, &route.name.namespace);
            let statuses: Vec<&RouteParentStatus> = route.said.iter().filter(about).collect();
            let verdicts: Vec<Verdict> = statuses.iter().map(|status| verdict(status, route.generation)).collect();
            // Others may be left from a class that the Gateway had before.
            if verdicts.contains(&Verdict::Taken) {
                continue;
            }
            let refusals = verdicts.into_iter().filter_map(|verdict| match verdict {
                Verdict::Refused(words) => Some(words),
                Verdict::Taken | Verdict::Open => None,
            });
            let refusals: Vec<String> = refusals.collect();
            if refusals.is_empty() && facts.live {
                found.push(Found::error(
                    title(route),
                    format!("Gateway {} has said nothing of it as it is", parent.name),
                    "see that the Gateway is there and that a controller of its class runs: kubectl describe gateway",
                ));
            }
            found.extend(refusals.into_iter().map(|words| {
                let problem = format!("Gateway {} refuses it: {words}", parent.name);
                Found::error(title(route), problem, "mend what the gateway says, or ask another Gateway")
            }));
        }
    }
    let models = facts.objects.model_routes.iter().map(|route| {
        let conditions = route.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        (title_of_model(route), conditions)
    });
    let servers = facts.objects.servers.iter().map(|server| {
        let conditions = server.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        (format!("ModelServer {}", Name::of(&server.metadata)), conditions)
    });
    found.extend(models.chain(servers).filter_map(|(object, conditions)| stalled(object, conditions)));
    found
}

/// What the operator says that somebody must mend.
fn stalled(object: String, conditions: &[Condition]) -> Option<Found> {
    let stalled = conditions.iter().find(|it| it.type_ == words::STALLED && it.status == "True")?;
    let problem = format!("the operator cannot attach it, {}: {}", stalled.reason, stalled.message);
    Some(Found::error(
        object,
        problem,
        "mend what the operator says; its other conditions tell more (kubectl describe)",
    ))
}

/// What one controller says of a route at one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    /// Nothing yet of the route as it is.
    Open,
    /// Its own words.
    Refused(String),
}

fn verdict(status: &RouteParentStatus, generation: i64) -> Verdict {
    let find = |kind: &str| status.conditions.iter().find(|condition| condition.r#type == kind);
    let Some(accepted) = find("Accepted") else { return Verdict::Open };
    for condition in std::iter::once(accepted).chain(find("ResolvedRefs")) {
        if condition.observed_generation.is_some_and(|observed| observed < generation) {
            return Verdict::Open;
        }
        match condition.status.as_str() {
            "True" => {}
            "False" => {
                let words = format!("{} is False, {}: {}", condition.r#type, condition.reason, condition.message);
                return Verdict::Refused(words);
            }
            _ => return Verdict::Open,
        }
    }
    Verdict::Taken
}

/// Whether a status speaks of a route's parent: by kind and name, because not every gateway writes the group as the
/// Gateway API does, and by what both say beyond that.
fn same(said: &ParentReference, parent: &ParentReference, namespace: &str) -> bool {
    fn both<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
        one.zip(other).is_none_or(|(one, other)| one == other)
    }
    let kind = |parent: &ParentReference| parent.kind.clone().unwrap_or_else(|| "Gateway".to_owned());
    let place = |parent: &ParentReference| parent.namespace.clone().unwrap_or_else(|| namespace.to_owned());
    kind(said) == kind(parent)
        && said.name == parent.name
        && place(said) == place(parent)
        && both(said.section_name.as_ref(), parent.section_name.as_ref())
        && both(said.port.as_ref(), parent.port.as_ref())
}

#[cfg(test)]
mod tests;
