//! What the gateways say about the HTTPRoutes of a ModelRoute.

use controller_api::conditions as words;
use controller_api::http_route::{HttpRoute, ParentReference, RouteCondition, RouteParentStatus};

use super::conditions::{Verdict, list};

/// Bytes of a gateway's own words.
const WORDS: usize = 500;

/// What one parent has said of an HTTPRoute as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    Yes,
    /// Its own words.
    No(String),
}

/// Whether all parents take all HTTPRoutes; nobody has said anything of one that is yet to be written.
pub(super) fn verdict(routes: &[&HttpRoute]) -> Verdict {
    let (mut takers, mut pending, mut refusals) = (Vec::new(), Vec::new(), Vec::new());
    let note = |parents: &mut Vec<String>, parent: &ParentReference| {
        if !parents.contains(&parent.name) {
            parents.push(parent.name.clone());
        }
    };
    for route in routes {
        let name = route.metadata.name.as_deref().unwrap_or_default();
        for parent in &route.spec.parent_refs {
            match said(route, parent) {
                Said::Yes => note(&mut takers, parent),
                Said::Nothing => note(&mut pending, parent),
                Said::No(why) => refusals.push(format!("{} and HTTPRoute {name}: {why}", parent.name)),
            }
        }
    }
    if !refusals.is_empty() {
        return Verdict::no(words::REFUSED_BY_GATEWAY, list(&refusals));
    }
    if !pending.is_empty() {
        let message = format!(
            "not yet said: {}; are these Gateways there, and is a controller of their class running?",
            list(&pending)
        );
        return Verdict::no(words::GATEWAY_PENDING, message);
    }
    Verdict::yes(words::ACCEPTED, format!("accepted by {}", list(&takers)))
}

/// Several controllers may have an entry for one parent; one that takes the route is enough, because others are left
/// from a class that the Gateway had before.
fn said(route: &HttpRoute, parent: &ParentReference) -> Said {
    let namespace = route.metadata.namespace.as_deref();
    let generation = route.metadata.generation.unwrap_or_default();
    let statuses = route.status.iter().flat_map(|status| &status.parents);
    let mut refusal = Said::Nothing;
    for status in statuses.filter(|status| same(&status.parent_ref, parent, namespace)) {
        match of(status, generation) {
            Said::Yes => return Said::Yes,
            Said::Nothing => {}
            no @ Said::No(_) => refusal = no,
        }
    }
    refusal
}

fn of(status: &RouteParentStatus, generation: i64) -> Said {
    let find = |kind: &str| status.conditions.iter().find(|condition| condition.r#type == kind);
    let Some(accepted) = find("Accepted") else { return Said::Nothing };
    for condition in std::iter::once(accepted).chain(find("ResolvedRefs")) {
        if condition.observed_generation.is_some_and(|observed| observed < generation) {
            return Said::Nothing;
        }
        match condition.status.as_str() {
            "True" => {}
            "False" => return Said::No(no(condition, &status.controller_name)),
            _ => return Said::Nothing,
        }
    }
    Said::Yes
}

fn no(condition: &RouteCondition, controller: &str) -> String {
    let RouteCondition { r#type, reason, message, .. } = condition;
    let shown = message.get(..message.floor_char_boundary(WORDS)).unwrap_or_default();
    format!("{controller} says {type} is False, {reason}: {shown}")
}

/// Whether two references of a route in `namespace` are the same, one of them with what the other leaves out.
fn same(one: &ParentReference, other: &ParentReference, namespace: Option<&str>) -> bool {
    fn whole<'a>(
        parent: &'a ParentReference,
        namespace: Option<&'a str>,
    ) -> (&'a str, &'a str, Option<&'a str>, &'a str) {
        (
            parent.group.as_deref().unwrap_or("gateway.networking.k8s.io"),
            parent.kind.as_deref().unwrap_or("Gateway"),
            parent.namespace.as_deref().or(namespace),
            &parent.name,
        )
    }
    whole(one, namespace) == whole(other, namespace) && one.section_name == other.section_name && one.port == other.port
}
