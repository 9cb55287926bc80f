//! Whether what was rendered can be served: what the webhook would ask, where there is none.

use anyhow::{Context as _, Result, bail};
use controller_api::leader_worker_set::LeaderWorkerSet;
use controller_api::v1alpha1::model_serving::ModelServing;
use planning::leader_worker_set::serving_of;
use planning::validation::validate;
use serde_json::Value;

/// How many pods the objects come to.
///
/// # Errors
/// When one cannot be served: mostly, when pods cannot be named after it.
pub(super) fn pods(objects: &[Value]) -> Result<i64> {
    let mut pods = 0;
    for object in objects {
        let serving = match object.get("kind").and_then(Value::as_str) {
            Some("ModelServing") => serde_json::from_value::<ModelServing>(object.clone())?,
            Some("LeaderWorkerSet") => serving_of(&serde_json::from_value::<LeaderWorkerSet>(object.clone())?),
            _ => continue,
        };
        let wrong: Vec<String> = validate(&serving).iter().map(ToString::to_string).collect();
        if !wrong.is_empty() {
            bail!("{}", wrong.join("; "));
        }
        let roles = serving.spec.template.roles.iter();
        let group: i64 =
            roles.map(|role| i64::from(role.replicas.unwrap_or(1)) * (1 + i64::from(role.worker_replicas))).sum();
        pods += i64::from(serving.spec.replicas.unwrap_or(1)) * group;
    }
    (pods > 0).then_some(pods).context("the template makes no pods")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::templates;

    fn pods_of(template: &str, name: &str) -> Result<i64> {
        let template = templates::named(template)?;
        let rendered = template.render(name, "serve", &template.settle(None, &[])?)?;
        pods(&rendered.objects)
    }

    #[test]
    fn every_template_makes_pods() {
        for template in templates::all().unwrap() {
            assert!(pods_of(template.name, "llm").unwrap() > 0, "{}", template.name);
        }
        assert_eq!(pods_of("vllm-data-parallel", "llm").unwrap(), 4);
        assert_eq!(pods_of("vllm-prefill-decode-lmcache", "llm").unwrap(), 3);
        assert_eq!(pods_of("leader-worker-set", "llm").unwrap(), 2);
    }

    #[test]
    fn a_name_that_pods_cannot_have_is_refused_before_a_cluster_is_asked() {
        for name in ["LLM", "7b", "", "-llm", &"a".repeat(60)] {
            for template in ["vllm", "leader-worker-set"] {
                let error = pods_of(template, name).unwrap_err().to_string();
                assert!(error.contains("metadata.name: invalid name"), "{error}");
            }
        }
    }
}
