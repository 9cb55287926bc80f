//! What a pass has found so far, and what it intends: filled group by group, then put in order.

use std::collections::BTreeSet;

use controller_api::conditions;
use controller_api::v1alpha1::model_serving::{ModelServing, ModelServingStatus, RecoveryPolicy, Role};
use jiff::Timestamp;

use crate::change::Rollout;
use crate::forming::{Begun, Forming};
use crate::limits::Limits;
use crate::lineage::{Blueprint, Lineage};
use crate::observed::{Observed, PodFacts, PodHealth};
use crate::plan::{ChildKind, Deletion, Write};
use crate::plugins::Chain;
use crate::recovery::Recoveries;
use crate::topology::View;
use crate::{names, objects};

/// What a pass looks at.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    pub(crate) serving: &'a ModelServing,
    pub(crate) name: &'a str,
    pub(crate) status: &'a ModelServingStatus,
    pub(crate) observed: &'a Observed,
    pub(crate) now: Timestamp,
    pub(crate) lineage: &'a Lineage,
    pub(crate) forming: Forming<'a>,
    pub(crate) view: View<'a>,
    pub(crate) policy: RecoveryPolicy,
    pub(crate) limits: Limits,
    pub(crate) rollout: Rollout,
    /// The status answers this spec: what is missing now was there.
    pub(crate) settled: bool,
    /// Groups are gangs.
    pub(crate) gang: bool,
    /// None if a plugin cannot be used; then nothing is built.
    pub(crate) plugins: Option<&'a Chain>,
}

impl<'a> Pass<'a> {
    /// For the building of objects of `blueprint`'s revision.
    pub(crate) fn build<'b>(&self, blueprint: &'b Blueprint, plugins: &'b Chain) -> objects::Build<'b>
    where
        'a: 'b,
    {
        objects::Build { serving: self.serving, revision: &blueprint.revision, gang: self.gang, plugins }
    }

    /// The pod of this name is ready, and stays.
    fn is_ready(&self, name: &str) -> bool {
        let pods = &self.observed.pods;
        let found = pods.binary_search_by(|pod| pod.name.as_str().cmp(name)).ok().and_then(|at| pods.get(at));
        found.is_some_and(|pod| pod.health == PodHealth::Ready && !pod.terminating)
    }
}

/// What a pass intends.
#[derive(Debug)]
pub(crate) struct Draft {
    /// Pods that go.
    pub(crate) deletes: Vec<Deletion>,
    pub(crate) gangs: Vec<Write>,
    /// Services and pods to write.
    pub(crate) builds: Vec<Write>,
    /// Services, gangs and revisions that nothing uses any more.
    pub(crate) leftovers: Vec<Deletion>,
    pub(crate) begun: Begun,
    pub(crate) recoveries: Recoveries,
    /// Services that have an instance, now or soon.
    pub(crate) services: BTreeSet<String>,
    /// Groups that exist or are to, by ordinal: their instances as planned, by role and index.
    pub(crate) assigned: Vec<(String, BTreeSet<(String, u32)>)>,
    /// Pods whose end a build waits for.
    pub(crate) awaited: BTreeSet<String>,
    /// What a person must mend.
    pub(crate) obstacles: BTreeSet<Obstacle>,
    pub(crate) story: Story,
    /// Groups or instances are to be built, removed or replaced.
    pub(crate) changing: bool,
}

/// Something that only a person can mend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Obstacle {
    /// CamelCase, the condition's reason.
    pub(crate) reason: &'static str,
    /// What is wrong, and what to change.
    pub(crate) message: String,
}

impl Obstacle {
    pub(crate) fn new(reason: &'static str, message: String) -> Self {
        Self { reason, message }
    }
}

/// What is to be told of what a pass does.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) groups_built: Vec<String>,
    pub(crate) groups_removed: Vec<String>,
    pub(crate) groups_replaced: Vec<String>,
    /// Group and instance.
    pub(crate) instances_built: Vec<(String, String)>,
    pub(crate) instances_deleted: Vec<(String, String)>,
}

impl Draft {
    pub(crate) fn new(recoveries: Recoveries, obstacles: BTreeSet<Obstacle>) -> Self {
        Self {
            deletes: Vec::new(),
            gangs: Vec::new(),
            builds: Vec::new(),
            leftovers: Vec::new(),
            begun: Begun::default(),
            recoveries,
            services: BTreeSet::new(),
            assigned: Vec::new(),
            awaited: BTreeSet::new(),
            obstacles,
            story: Story::default(),
            changing: false,
        }
    }

    /// Anything but a status is to be written.
    pub(crate) fn writes_anything(&self) -> bool {
        !(self.deletes.is_empty() && self.gangs.is_empty() && self.builds.is_empty() && self.leftovers.is_empty())
    }

    /// Deletes `pods`.
    pub(crate) fn delete<'p>(&mut self, pods: impl Iterator<Item = &'p PodFacts>) {
        self.deletes.extend(pods.map(|pod| Deletion {
            kind: ChildKind::Pod,
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        }));
    }

    /// Creates the pods of these numbers; none of them if one cannot be built, or if its name is taken. Workers that
    /// wait for their entry pod are left to a later pass.
    pub(crate) fn create(
        &mut self,
        pass: &Pass<'_>,
        group: &str,
        (blueprint, role): (&Blueprint, &Role),
        index: u32,
        numbers: impl Iterator<Item = u32>,
    ) -> bool {
        let Some(plugins) = pass.plugins else { return false };
        let build = pass.build(blueprint, plugins);
        let role_id = names::role_id(&role.name, index);
        let entry = names::pod(group, &role_id, 0);
        let workers = !objects::workers_wait(pass.serving) || pass.is_ready(&entry);
        let mut pods = Vec::new();
        for number in numbers.filter(|number| *number == 0 || workers) {
            let name = names::pod(group, &role_id, number);
            if pass.observed.pods.binary_search_by(|pod| pod.name.as_str().cmp(&name)).is_ok() {
                let message = "its labels were changed: delete it, or give it its labels back";
                self.obstacles
                    .insert(Obstacle::new(conditions::NAME_TAKEN, format!("pod {name} is needed but {message}")));
                return false;
            }
            match objects::pod(&build, group, role, index, number) {
                Ok(pod) => pods.push(Write::CreatePod(Box::new(pod))),
                Err(error) => {
                    self.obstacles.insert(Obstacle::new(conditions::PLUGIN_FAILED, error.to_string()));
                    return false;
                }
            }
        }
        self.builds.extend(pods);
        true
    }
}
