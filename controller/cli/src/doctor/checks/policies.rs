//! The same mistakes as Envoy's, where Envoy Gateway's policies make them.

use serde_json::{Value, json};

use super::{Found, list};
use crate::doctor::DESTINATION;
use crate::doctor::facts::Facts;
use crate::doctor::facts::objects::Name;
use crate::doctor::facts::policies::{Asked, GROUP};

fn title(asked: &Asked) -> String {
    format!("EnvoyExtensionPolicy {}", asked.policy)
}

/// Those that ask the picker of a pool: others are of no concern, as the step before the route.
fn of_pickers(facts: &Facts) -> impl Iterator<Item = &Asked> {
    facts.objects.policies.asked.iter().filter(|asked| {
        facts.objects.pools.iter().any(|pool| {
            let picker = pool.spec.endpoint_picker_ref.as_ref();
            let named = picker.filter(|picker| picker.name == asked.service.name);
            named.and_then(|picker| picker.port.as_ref()).is_some_and(|port| port.number == asked.port)
                && Name::of(&pool.metadata).namespace == asked.service.namespace
        })
    })
}

/// The beginning of a policy that goes beside this one.
fn beside(kind: &str, asked: &Asked, target: &(String, Name), spec: (&str, Value)) -> Value {
    let (target_kind, name) = target;
    let refs = json!([{"group": "gateway.networking.k8s.io", "kind": target_kind, "name": name.name}]);
    let mut fields = json!({"targetRefs": refs});
    if let Some(fields) = fields.as_object_mut() {
        fields.insert(spec.0.to_owned(), spec.1);
    }
    json!({
        "apiVersion": format!("{GROUP}/v1alpha1"),
        "kind": kind,
        "metadata": {"name": name.name, "namespace": asked.policy.namespace},
        "spec": fields,
    })
}

pub(super) fn body_hidden(facts: &Facts) -> Vec<Found> {
    let hidden = of_pickers(facts).filter(|asked| asked.body.is_none());
    let found = |asked: &Asked| {
        let problem = "processingMode.request.body is not set: the picker sees neither model nor prompt, and goes by load \
                       alone";
        let part = json!({"processingMode": {"request": {"body": "FullDuplexStreamed"}}});
        Found::error(title(asked), problem, "let the picker see the body").with(part)
    };
    hidden.map(found).collect()
}

pub(super) fn message_timeout_short(facts: &Facts) -> Vec<Found> {
    // Envoy has no timer in the other mode.
    let timed = of_pickers(facts).filter(|asked| asked.body.as_deref() != Some("FullDuplexStreamed"));
    let short = timed.filter(|asked| asked.message_timeout.as_deref().is_none_or(is_short));
    let found = |asked: &Asked| {
        let set = asked.message_timeout.as_deref().unwrap_or("not set, and so 200ms");
        let problem = format!("messageTimeout is {set}: a busy moment of the picker is a 504");
        let fix = "wait longer: the picker has deadlines of its own";
        Found::error(title(asked), problem, fix).with(json!({"messageTimeout": "30s"}))
    };
    short.map(found).collect()
}

/// Whether a duration of the Gateway API is below a second: it has no other unit than milliseconds then.
fn is_short(duration: &str) -> bool {
    let number = duration.strip_suffix("ms").and_then(|number| number.parse::<u32>().ok());
    number.is_some_and(|number| number < 1000) || duration == "0s"
}

pub(super) fn pick_ignored(facts: &Facts) -> Vec<Found> {
    let obeying = &facts.objects.policies.obeying;
    let mut found = Vec::new();
    for asked in of_pickers(facts) {
        let routes = asked.targets.iter().filter(|(kind, _)| kind == "HTTPRoute");
        for target in routes.filter(|target| !obeying.contains(target)) {
            // A policy for the whole Gateway holds for its routes.
            if obeying.iter().any(|(kind, name)| kind == "Gateway" && parents(facts, &target.1).contains(name)) {
                continue;
            }
            let problem = format!("HTTPRoute {} asks the picker, and does not obey it", target.1);
            let fix = "let its backends take the endpoint from the header";
            let by = json!({
                "type": "LeastRequest",
                "endpointOverride": {"extractFrom": [{"header": DESTINATION}]},
            });
            let manifest = beside("BackendTrafficPolicy", asked, target, ("loadBalancer", by));
            found.push(Found::error(title(asked), problem, fix).with(manifest));
        }
    }
    found
}

pub(super) fn steering_header_kept(facts: &Facts) -> Vec<Found> {
    let policies = &facts.objects.policies;
    let mut found = Vec::new();
    for asked in of_pickers(facts).filter(|asked| asked.fail_open) {
        let routes = asked.targets.iter().filter(|target| policies.obeying.contains(target));
        for (_, route) in routes {
            let parents = parents(facts, route);
            let open: Vec<&Name> = parents.iter().filter(|gateway| !policies.stripping.contains(gateway)).collect();
            let Some(first) = open.first() else { continue };
            let problem = format!(
                "HTTPRoute {route} obeys the header {DESTINATION}, and without the picker's answer (failOpen) that is the \
                 client's own, at {}",
                list(&open)
            );
            let remove = json!({"earlyRequestHeaders": {"remove": [DESTINATION]}});
            let target = ("Gateway".to_owned(), (*first).clone());
            let manifest = beside("ClientTrafficPolicy", asked, &target, ("headers", remove));
            found.push(Found::error(title(asked), problem, "remove it from what clients send").with(manifest));
        }
    }
    found
}

/// The Gateways of a route.
fn parents(facts: &Facts, route: &Name) -> Vec<Name> {
    let routes = facts.objects.routes.iter().filter(|known| known.name == *route);
    let of = |parent: &controller_api::http_route::ParentReference| {
        Name::new(parent.namespace.as_deref().unwrap_or(&route.namespace), &parent.name)
    };
    routes.flat_map(|route| &route.parents).map(of).collect()
}

#[cfg(test)]
mod tests;
