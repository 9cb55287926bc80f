//! A cluster of values: a plan's writes are applied one by one, as an API server would, and a kubelet as simple as can
//! be starts and ends pods. A write that an API server would refuse, or that changes nothing, fails the test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use controller_api::v1alpha1::model_serving::{ModelServing, ModelServingSpec, ModelServingStatus};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::ControllerRevision;

use crate::objects::{pod_facts, pod_group_facts, service_facts};
use crate::observed::{Attempt, GangSupport, Observed, PodFacts, PodGroupFacts, PodHealth, ServiceFacts};
use crate::plan::{ChildKind, Deletion, Event, Plan, Write};
use crate::{names, plan};

pub(super) struct World {
    pub(super) serving: ModelServing,
    pub(super) pods: BTreeMap<String, Pod>,
    pub(super) services: BTreeMap<String, ServiceFacts>,
    pub(super) pod_groups: BTreeMap<String, PodGroupFacts>,
    pub(super) revisions: BTreeMap<String, ControllerRevision>,
    pub(super) gangs: GangSupport,
    pub(super) attempt: Attempt,
    pub(super) now: Timestamp,
    /// Writes until the process ends; it never does without.
    pub(super) lives: Option<usize>,
    /// Everything that was written, in one line each.
    pub(super) log: Vec<String>,
    pub(super) events: Vec<Event>,
    /// The fewest groups that were ready after a write, and the most that had a live pod.
    pub(super) fewest_ready: usize,
    pub(super) most_live: usize,
    uids: u32,
}

#[derive(Clone)]
pub(super) struct Pod {
    pub(super) facts: PodFacts,
    pub(super) image: String,
    /// Its node is lost: it does not end.
    pub(super) stuck: bool,
    /// It does not become ready, as if its image were bad.
    pub(super) held: bool,
}

impl World {
    pub(super) fn new(serving: ModelServing) -> Self {
        Self {
            serving,
            pods: BTreeMap::new(),
            services: BTreeMap::new(),
            pod_groups: BTreeMap::new(),
            revisions: BTreeMap::new(),
            gangs: GangSupport::Absent,
            attempt: Attempt::Unknown,
            now: Timestamp::from_second(1_750_000_000).unwrap(),
            lives: None,
            log: Vec::new(),
            events: Vec::new(),
            fewest_ready: usize::MAX,
            most_live: 0,
            uids: 0,
        }
    }

    /// A world in which `serving` is as it asks to be.
    pub(super) fn settled(serving: ModelServing) -> Self {
        let mut world = Self::new(serving);
        world.settle();
        world.log.clear();
        world.events.clear();
        world.watch();
        world
    }

    /// Starts anew to count ready and live groups.
    pub(super) fn watch(&mut self) {
        (self.fewest_ready, self.most_live) = (usize::MAX, 0);
        self.look();
    }

    pub(super) fn observed(&self) -> Observed {
        Observed {
            pods: self.pods.values().map(|pod| Arc::new(pod.facts.clone())).collect(),
            services: self.services.values().cloned().map(Arc::new).collect(),
            pod_groups: self.pod_groups.values().cloned().map(Arc::new).collect(),
            revisions: self.revisions.values().cloned().map(Arc::new).collect(),
            gangs: self.gangs,
            attempt: self.attempt.clone(),
        }
    }

    pub(super) fn plan(&self) -> Plan {
        plan(&self.serving, &self.observed(), self.now)
    }

    /// A change of the spec by its user.
    pub(super) fn edit(&mut self, change: impl FnOnce(&mut ModelServingSpec)) {
        let before = self.serving.spec.clone();
        change(&mut self.serving.spec);
        if before != self.serving.spec {
            *self.serving.metadata.generation.get_or_insert_default() += 1;
        }
    }

    /// A change of the metadata by its user.
    pub(super) fn annotate(&mut self, key: &str, value: Option<&str>) {
        let annotations = self.serving.metadata.annotations.get_or_insert_default();
        match value {
            Some(value) => annotations.insert(key.to_owned(), value.to_owned()),
            None => annotations.remove(key),
        };
    }

    pub(super) fn status(&self) -> ModelServingStatus {
        self.serving.status.clone().unwrap_or_default()
    }

    /// Plans once and writes. False if the process ended meanwhile.
    pub(super) fn pass(&mut self) -> bool {
        for step in self.plan().steps {
            assert!(!step.writes.is_empty(), "a step without writes");
            for write in &step.writes {
                if self.lives == Some(0) {
                    return false;
                }
                self.lives = self.lives.map(|lives| lives - 1);
                self.write(write);
                self.look();
            }
            self.events.extend(step.events);
        }
        true
    }

    /// Passes, and what kubelets do in between, until nothing changes any more. Waits for what a plan waits for, two
    /// hours at most.
    pub(super) fn settle(&mut self) {
        let end = self.now + SignedDuration::from_hours(2);
        for _ in 0..10_000 {
            let written = self.log.len();
            if !self.pass() {
                // The process ended: another one begins.
                self.lives = None;
                continue;
            }
            let moved = self.kubelet();
            if self.log.len() == written && !moved {
                let plan = self.plan();
                match plan.wake_at {
                    _ if !plan.steps.is_empty() => {}
                    Some(wake_at) if wake_at <= end => {
                        assert!(wake_at > self.now, "woken for nothing: {wake_at}");
                        self.now = wake_at;
                    }
                    _ => return,
                }
            }
        }
        panic!("no end after 10,000 passes; the last writes: {:#?}", &self.log[self.log.len() - 30..]);
    }

    /// Pods end that shall, and start that can; one second passes. False if there was nothing to do.
    pub(super) fn kubelet(&mut self) -> bool {
        self.now += SignedDuration::from_secs(1);
        let before = self.pods.len();
        self.pods.retain(|_, pod| !pod.facts.terminating || pod.stuck);
        let services = self.services.len() + self.pod_groups.len();
        self.services.retain(|_, service| !service.terminating);
        self.pod_groups.retain(|_, group| !group.terminating);
        let mut moved = self.pods.len() != before || services != self.services.len() + self.pod_groups.len();
        for pod in self.pods.values_mut().filter(|pod| !pod.facts.terminating) {
            if pod.facts.health == PodHealth::NotReady && !pod.held && pod.image != "bad" {
                pod.facts.health = PodHealth::Ready;
                pod.facts.ready_since = Some(self.now);
                moved = true;
            }
        }
        moved
    }

    /// Somebody deletes a pod.
    pub(super) fn delete_pod(&mut self, name: &str) {
        self.pod(name).facts.terminating = true;
    }

    /// A pod is gone, without a trace.
    pub(super) fn lose_pod(&mut self, name: &str) {
        self.pods.remove(name).unwrap_or_else(|| panic!("no pod {name}"));
    }

    /// A container of the pod was restarted.
    pub(super) fn fail_pod(&mut self, name: &str) {
        self.set_health(name, |since| PodHealth::Failed { since, reason: "OOMKilled".to_owned(), ended: false });
    }

    /// The pod was evicted.
    pub(super) fn evict_pod(&mut self, name: &str) {
        self.set_health(name, |since| PodHealth::Failed { since, reason: "Evicted".to_owned(), ended: true });
    }

    /// The pod is not ready, and does not become so.
    pub(super) fn hold_pod(&mut self, name: &str) {
        self.set_health(name, |_| PodHealth::NotReady);
        self.pod(name).held = true;
    }

    fn set_health(&mut self, name: &str, health: impl FnOnce(Option<Timestamp>) -> PodHealth) {
        let now = self.now;
        let facts = &mut self.pod(name).facts;
        facts.health = health(Some(now));
        facts.ready_since = None;
    }

    pub(super) fn pod(&mut self, name: &str) -> &mut Pod {
        self.pods.get_mut(name).unwrap_or_else(|| panic!("no pod {name}"))
    }

    /// The UIDs of the pods whose names contain `part`.
    pub(super) fn uids(&self, part: &str) -> BTreeSet<String> {
        let pods = self.pods.values().filter(|pod| pod.facts.name.contains(part));
        pods.map(|pod| pod.facts.uid.clone()).collect()
    }

    /// `llm-0: v1` for each group, `v1+v2` if its pods differ.
    pub(super) fn images(&self) -> Vec<String> {
        let mut groups: BTreeMap<u32, BTreeSet<&str>> = BTreeMap::new();
        for pod in self.pods.values() {
            let ordinal = names::trailing_number(&pod.facts.group).unwrap();
            groups.entry(ordinal).or_default().insert(&pod.image);
        }
        let line = |(ordinal, images): (&u32, &BTreeSet<&str>)| {
            format!("llm-{ordinal}: {}", images.iter().copied().collect::<Vec<_>>().join("+"))
        };
        groups.iter().map(line).collect()
    }

    /// Names of the live pods.
    pub(super) fn names(&self) -> Vec<&str> {
        self.pods.values().filter(|pod| !pod.facts.terminating).map(|pod| pod.facts.name.as_str()).collect()
    }

    /// Groups of which every pod is ready, as many pods as the newest template wants.
    pub(super) fn ready_groups(&self) -> usize {
        let size: i32 = (self.serving.spec.template.roles.iter())
            .map(|role| role.replicas.unwrap_or(1) * (1 + role.worker_replicas))
            .sum();
        let mut groups: BTreeMap<&str, i32> = BTreeMap::new();
        for pod in self.pods.values().filter(|pod| !pod.facts.terminating && pod.facts.health == PodHealth::Ready) {
            *groups.entry(&pod.facts.group).or_default() += 1;
        }
        groups.values().filter(|pods| **pods >= size).count()
    }

    fn look(&mut self) {
        let live: BTreeSet<&str> =
            self.pods.values().filter(|pod| !pod.facts.terminating).map(|pod| pod.facts.group.as_str()).collect();
        self.most_live = self.most_live.max(live.len());
        self.fewest_ready = self.fewest_ready.min(self.ready_groups());
    }

    fn uid(&mut self) -> String {
        self.uids += 1;
        format!("uid-{}", self.uids)
    }

    fn write(&mut self, write: &Write) {
        let line = self.line(write);
        match write {
            Write::Status(status) => {
                let text = serde_json::to_string(status).unwrap();
                let kept: ModelServingStatus = serde_json::from_str(&text).unwrap();
                assert_eq!(kept, **status, "a status that the API server keeps otherwise");
                assert_ne!(self.serving.status.as_ref(), Some(&kept), "a status that was there already");
                self.serving.status = Some(kept);
            }
            Write::CreateRevision(revision) => {
                let mut revision = revision.as_ref().clone();
                revision.metadata.uid = Some(self.uid());
                let name = revision.metadata.name.clone().unwrap();
                assert!(self.revisions.insert(name, revision).is_none(), "{line}: there is one");
            }
            Write::CreatePod(pod) => {
                let image = pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone()).unwrap();
                let mut facts = pod_facts(pod);
                facts.uid = self.uid();
                facts.created = Timestamp::from_second(self.now.as_second()).ok();
                let name = facts.name.clone();
                let revision = names::revision("llm", &facts.revision);
                assert!(self.revisions.contains_key(&revision), "{line}: its revision is not recorded");
                let pod = Pod { facts, image, stuck: false, held: false };
                assert!(self.pods.insert(name, pod).is_none(), "{line}: there is one");
            }
            Write::ApplyService(service) => {
                let mut facts = service_facts(service);
                let before = self.services.get(&facts.name);
                assert_ne!(before.map(|before| before.fingerprint), Some(facts.fingerprint), "{line}: as before");
                assert!(before.is_none_or(|before| !before.terminating), "{line}: it is being deleted");
                facts.uid = before.map(|before| before.uid.clone()).unwrap_or_else(|| format!("uid-{}", facts.name));
                self.services.insert(facts.name.clone(), facts);
            }
            Write::ApplyPodGroup(group) => {
                let mut facts = pod_group_facts(group);
                let before = self.pod_groups.get(&facts.name);
                assert_ne!(before.map(|before| before.fingerprint), Some(facts.fingerprint), "{line}: as before");
                assert!(before.is_none_or(|before| !before.terminating), "{line}: it is being deleted");
                facts.uid = before.map(|before| before.uid.clone()).unwrap_or_else(|| format!("uid-{}", facts.name));
                self.pod_groups.insert(facts.name.clone(), facts);
            }
            Write::Delete(deletion) => self.delete(deletion, &line),
            Write::RenumberRevision { name, uid, number } => {
                let revision = self.revisions.get_mut(name).unwrap_or_else(|| panic!("{line}: there is none"));
                assert_eq!(revision.metadata.uid.as_ref(), Some(uid));
                revision.revision = Some(*number);
            }
        }
        self.log.push(line);
    }

    fn delete(&mut self, Deletion { kind, name, uid }: &Deletion, line: &str) {
        let (found, terminating) = match kind {
            ChildKind::Pod => {
                let facts = &mut self.pods.get_mut(name).unwrap_or_else(|| panic!("{line}: there is none")).facts;
                (facts.uid.clone(), std::mem::replace(&mut facts.terminating, true))
            }
            ChildKind::Service => {
                let facts = self.services.get_mut(name).unwrap_or_else(|| panic!("{line}: there is none"));
                (facts.uid.clone(), std::mem::replace(&mut facts.terminating, true))
            }
            ChildKind::PodGroup => {
                let facts = self.pod_groups.get_mut(name).unwrap_or_else(|| panic!("{line}: there is none"));
                (facts.uid.clone(), std::mem::replace(&mut facts.terminating, true))
            }
            ChildKind::ControllerRevision => {
                let revision = self.revisions.remove(name).unwrap_or_else(|| panic!("{line}: there is none"));
                (revision.metadata.uid.unwrap(), false)
            }
        };
        assert_eq!(&found, uid, "{line}: another one");
        assert!(!terminating, "{line}: it is being deleted already");
    }

    /// A write in one line; revisions by number.
    pub(super) fn line(&self, write: &Write) -> String {
        let number = |name: &str| {
            let revision = self.revisions.get(&names::revision("llm", name));
            revision.map_or_else(|| "new".to_owned(), |revision| format!("r{}", revision.revision.unwrap_or(0)))
        };
        match write {
            Write::Status(status) => format!(
                "status replicas={} updated={} available={} forming={:?} recoveries={}",
                status.replicas,
                status.updated_replicas,
                status.available_replicas,
                status.forming,
                status.recoveries.len()
            ),
            Write::CreateRevision(revision) => format!("create revision {}", revision.revision.unwrap_or(0)),
            Write::CreatePod(pod) => {
                let facts = pod_facts(pod);
                format!("create pod {} {}", facts.name, number(&facts.revision))
            }
            Write::ApplyService(service) => {
                let facts = service_facts(service);
                format!("apply service {} {}", facts.name, number(&facts.revision))
            }
            Write::ApplyPodGroup(group) => {
                let facts = pod_group_facts(group);
                let members = group.spec.min_member.unwrap_or(0);
                format!("apply podgroup {} {} minMember={members}", facts.name, number(&facts.revision))
            }
            Write::Delete(deletion) => {
                format!("delete {} {}", format!("{:?}", deletion.kind).to_lowercase(), deletion.name)
            }
            Write::RenumberRevision { number, .. } => format!("renumber revision to {number}"),
        }
    }

    /// The plan, a line for each write and an empty one between steps.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for step in self.plan().steps {
            if !lines.is_empty() {
                lines.push(String::new());
            }
            lines.extend(step.writes.iter().map(|write| self.line(write)));
        }
        lines
    }

    /// How often something was written whose line starts so.
    pub(super) fn count(&self, start: &str) -> usize {
        self.log.iter().filter(|line| line.starts_with(start)).count()
    }
}
