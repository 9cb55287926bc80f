//! ModelServings in few words.

use controller_api::v1alpha1::model_serving::{
    ModelServing, ModelServingSpec, RecoveryPolicy, Role, RollingUpdate, RolloutStrategy, RolloutType,
    ServingGroupTemplate,
};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// `llm`, with so many groups of no role yet.
pub(super) fn serving(replicas: i32) -> ModelServing {
    let spec = ModelServingSpec {
        replicas: Some(replicas),
        scheduler_name: None,
        plugins: Vec::new(),
        template: ServingGroupTemplate::default(),
        rollout_strategy: None,
        recovery_policy: None,
        revision_history_limit: None,
    };
    let mut serving = ModelServing::new("llm", spec);
    serving.metadata.namespace = Some("serve".to_owned());
    serving.metadata.uid = Some("u-llm".to_owned());
    serving.metadata.generation = Some(1);
    serving
}

/// Adjectives.
pub(super) trait Adjectives {
    fn role(self, name: &str, replicas: i32, workers: i32) -> Self;
    fn recovery(self, policy: RecoveryPolicy) -> Self;
    fn grace(self, seconds: i64) -> Self;
    fn update(self, max_unavailable: i32, max_surge: i32, partition: i32) -> Self;
    fn by_role(self) -> Self;
}

impl Adjectives for ModelServing {
    fn role(mut self, name: &str, replicas: i32, workers: i32) -> Self {
        self.spec.template.roles.push(Role {
            name: name.to_owned(),
            replicas: Some(replicas),
            entry_template: template("v1"),
            worker_replicas: workers,
            worker_template: (workers > 0).then(|| template("v1")),
            ..Role::default()
        });
        self
    }

    fn recovery(mut self, policy: RecoveryPolicy) -> Self {
        self.spec.recovery_policy = Some(policy);
        self
    }

    fn grace(mut self, seconds: i64) -> Self {
        self.spec.template.restart_grace_period_seconds = Some(seconds);
        self
    }

    fn update(mut self, max_unavailable: i32, max_surge: i32, partition: i32) -> Self {
        let strategy = self.spec.rollout_strategy.get_or_insert_default();
        strategy.rolling_update_configuration = Some(RollingUpdate {
            max_unavailable: Some(IntOrString::Int(max_unavailable)),
            max_surge: Some(IntOrString::Int(max_surge)),
            partition: Some(IntOrString::Int(partition)),
        });
        self
    }

    fn by_role(mut self) -> Self {
        let kind = RolloutType::RoleRollingUpdate;
        self.spec.rollout_strategy = Some(RolloutStrategy { kind, ..RolloutStrategy::default() });
        self
    }
}

/// Another image for all pods of a role; `bad` never becomes ready.
pub(super) fn set_image(spec: &mut ModelServingSpec, role: &str, image: &str) {
    for role in spec.template.roles.iter_mut().filter(|known| known.name == role) {
        role.entry_template = template(image);
        role.worker_template = role.worker_template.is_some().then(|| template(image));
    }
}

/// So many instances of a role.
pub(super) fn set_role(spec: &mut ModelServingSpec, role: &str, replicas: i32) {
    for role in spec.template.roles.iter_mut().filter(|known| known.name == role) {
        role.replicas = Some(replicas);
    }
}

/// The partition of the groups.
pub(super) fn set_partition(spec: &mut ModelServingSpec, partition: i32) {
    let update = spec.rollout_strategy.get_or_insert_default().rolling_update_configuration.get_or_insert_default();
    update.partition = Some(IntOrString::Int(partition));
}

fn template(image: &str) -> PodTemplateSpec {
    let container = Container { name: "engine".to_owned(), image: Some(image.to_owned()), ..Container::default() };
    PodTemplateSpec { spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }), ..Default::default() }
}
