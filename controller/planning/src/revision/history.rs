//! The ControllerRevisions of one ModelServing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use controller_api::labels;
use controller_api::v1alpha1::model_serving::{ModelServing, Role};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Revision, canonical, with_scaling_of};
use crate::names;
use crate::objects::owner_reference;
use crate::plan::{ChildKind, Deletion};

/// All revisions that there are, by number.
#[derive(Clone, Debug, Default)]
pub struct History {
    entries: Vec<Entry>,
    /// Those whose content cannot be understood.
    pub unreadable: Vec<Unreadable>,
    /// The template of the ModelServing, as canonical text.
    template: String,
    /// Which of the entries has that content.
    of_template: Option<usize>,
    /// The name of the one that the ModelServing asks for, if there is one yet.
    target: Option<String>,
}

/// A revision with what its object says beside the roles.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The revision.
    pub revision: Revision,
    /// The name of its ControllerRevision.
    pub object: String,
    /// The UID of its ControllerRevision.
    pub uid: String,
    /// When it was first used.
    pub created: Option<Timestamp>,
    /// Why, if the user said so.
    pub change_cause: Option<String>,
}

/// A ControllerRevision whose content cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The value of its label `revision`.
    pub name: String,
    /// The name of the object.
    pub object: String,
    /// Its UID.
    pub uid: String,
    /// Its number.
    pub number: i64,
    /// What is wrong with it.
    pub reason: String,
}

/// What the groups are going to.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// The revision, with the spec's counts.
    pub revision: Revision,
    /// To create before any pod of it.
    pub create: Option<ControllerRevision>,
    /// It is used again: object name, UID and new number.
    pub renumber: Option<(String, String, i64)>,
}

/// A rollback was asked for to a revision that there is not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} asks for revision {wanted}, which {}; there {}: name one of these, or remove {field}", why(.reason.as_deref()), there(.known))]
pub struct UnknownRevision {
    /// Where it was asked for.
    pub field: &'static str,
    /// What was asked for.
    pub wanted: String,
    /// Why it cannot be used although there is one.
    pub reason: Option<String>,
    /// What there is: number and name.
    pub known: Vec<(i64, String)>,
}

fn why(reason: Option<&str>) -> String {
    reason.map_or_else(|| "does not exist".to_owned(), |reason| format!("cannot be read ({reason})"))
}

fn there(known: &[(i64, String)]) -> String {
    match known {
        [] => "are no revisions yet".to_owned(),
        [(number, name)] => format!("is only {number} ({name})"),
        several => {
            let list: Vec<String> = several.iter().map(|(number, name)| format!("{number} ({name})")).collect();
            format!("are {}", list.join(", "))
        }
    }
}

impl History {
    /// Reads the ControllerRevisions of `serving`: `{"data": [role…]}` as Kthena and we write it, or the bare list of
    /// Kthena v0.2.
    pub fn read(serving: &ModelServing, revisions: &[Arc<ControllerRevision>]) -> Self {
        let mut history = Self::default();
        for object in revisions {
            let entry = Entry::outside(serving, object);
            match read_roles(&object.data.0) {
                Ok(roles) => {
                    history.entries.push(Entry { revision: Revision { roles, ..entry.revision }, ..entry });
                }
                Err(reason) => history.unreadable.push(Unreadable {
                    name: entry.revision.name,
                    object: entry.object,
                    uid: entry.uid,
                    number: entry.revision.number,
                    reason,
                }),
            }
        }
        history.entries.sort_by(|a, b| (a.revision.number, &a.object).cmp(&(b.revision.number, &b.object)));
        history.template = canonical::roles(&serving.spec.template.roles);
        history.of_template = history.with_content(&history.template);
        history.target =
            history.target(serving).ok().filter(|target| target.create.is_none()).map(|target| target.revision.name);
        history
    }

    /// Oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The revision of this name.
    pub fn find(&self, name: &str) -> Option<&Revision> {
        self.entries.iter().map(|entry| &entry.revision).find(|revision| revision.name == name)
    }

    /// The newest revision whose roles are these, their counts aside.
    pub fn by_content(&self, roles: &[Role]) -> Option<&Revision> {
        let at = self.with_content(&canonical::roles(roles))?;
        self.entries.get(at).map(|entry| &entry.revision)
    }

    fn with_content(&self, content: &str) -> Option<usize> {
        // Nearly always it is the one of that name: look there before all are compared.
        let name = canonical::name_of(content);
        let same = |entry: &Entry| canonical::roles(&entry.revision.roles) == content;
        let named = self.entries.iter().position(|entry| entry.revision.name == name && same(entry));
        named.or_else(|| self.entries.iter().rposition(same))
    }

    /// The revision of this number, or else of this name (or of the ControllerRevision's name).
    pub fn named(&self, wanted: &str) -> Option<&Entry> {
        let number = wanted.parse::<i64>().ok();
        self.entries
            .iter()
            .rev()
            .find(|entry| Some(entry.revision.number) == number)
            .or_else(|| self.entries.iter().find(|entry| entry.revision.name == wanted || entry.object == wanted))
    }

    /// What the groups are going to: the template, or the revision that a rollback names (the field
    /// `spec.rolloutStrategy.rollbackTo`, else the annotation). The ModelServing is the one that the history was read
    /// for.
    pub fn target(&self, serving: &ModelServing) -> Result<Target, UnknownRevision> {
        let roles = &serving.spec.template.roles;
        if let Some((field, wanted)) = rollback(serving) {
            let entry = self.named(&wanted).ok_or_else(|| self.unknown(field, &wanted))?;
            // Its number stays: the field may name it by that number for as long as it is set.
            let roles = with_scaling_of(&entry.revision.roles, roles);
            return Ok(Target { revision: Revision { roles, ..entry.revision.clone() }, create: None, renumber: None });
        }
        let last = self.last_number();
        if let Some(entry) = self.of_template.and_then(|at| self.entries.get(at)) {
            let again = entry.revision.number < last;
            let number = if again { last.saturating_add(1) } else { entry.revision.number };
            return Ok(Target {
                revision: Revision { name: entry.revision.name.clone(), number, roles: roles.clone() },
                create: None,
                renumber: again.then(|| (entry.object.clone(), entry.uid.clone(), number)),
            });
        }
        let revision =
            Revision { name: self.free_name(&self.template), number: last.saturating_add(1), roles: roles.clone() };
        Ok(Target { create: Some(controller_revision(serving, &revision)), revision, renumber: None })
    }

    fn last_number(&self) -> i64 {
        let readable = self.entries.iter().map(|entry| entry.revision.number);
        readable.chain(self.unreadable.iter().map(|one| one.number)).max().unwrap_or(0)
    }

    /// The name of `content`; another one where something else has it.
    fn free_name(&self, content: &str) -> String {
        let taken =
            |name: &str| self.find(name).is_some() || self.unreadable.iter().any(|unreadable| unreadable.name == name);
        let mut name = canonical::name_of(content);
        let mut salted = content.to_owned();
        while taken(&name) {
            salted.push('+');
            name = canonical::name_of(&salted);
        }
        name
    }

    fn unknown(&self, field: &'static str, wanted: &str) -> UnknownRevision {
        let number = wanted.parse::<i64>().ok();
        let unreadable =
            self.unreadable.iter().find(|one| one.name == wanted || one.object == wanted || Some(one.number) == number);
        UnknownRevision {
            field,
            wanted: wanted.to_owned(),
            reason: unreadable.map(|one| one.reason.clone()),
            known: self.entries.iter().map(|entry| (entry.revision.number, entry.revision.name.clone())).collect(),
        }
    }

    /// What to delete so that at most `limit` revisions remain beside those in use (by name) and the target; oldest
    /// first.
    pub fn surplus(&self, in_use: &BTreeSet<&str>, limit: usize) -> Vec<Deletion> {
        let readable =
            self.entries.iter().map(|entry| (entry.revision.number, &entry.revision.name, &entry.object, &entry.uid));
        let unreadable = self.unreadable.iter().map(|one| (one.number, &one.name, &one.object, &one.uid));
        let mut unused: Vec<_> = readable
            .chain(unreadable)
            .filter(|(_, name, ..)| !in_use.contains(name.as_str()) && self.target.as_ref() != Some(name))
            .collect();
        unused.sort();
        unused.truncate(unused.len().saturating_sub(limit));
        unused
            .into_iter()
            .map(|(_, _, object, uid)| Deletion {
                kind: ChildKind::ControllerRevision,
                name: object.clone(),
                uid: uid.clone(),
            })
            .collect()
    }
}

impl Entry {
    /// All but the roles.
    fn outside(serving: &ModelServing, object: &ControllerRevision) -> Self {
        let metadata = &object.metadata;
        let name = metadata.name.clone().unwrap_or_default();
        let label = metadata.labels.as_ref().and_then(|labels| labels.get(labels::REVISION));
        let prefix = names::revision(serving.metadata.name.as_deref().unwrap_or_default(), "");
        let revision = label.cloned().unwrap_or_else(|| name.strip_prefix(&prefix).unwrap_or(&name).to_owned());
        Self {
            revision: Revision { name: revision, number: object.revision.unwrap_or(0), roles: Vec::new() },
            object: name,
            uid: metadata.uid.clone().unwrap_or_default(),
            created: metadata.creation_timestamp.as_ref().map(|time| time.0),
            change_cause: metadata.annotations.as_ref().and_then(|all| all.get(labels::CHANGE_CAUSE)).cloned(),
        }
    }
}

/// Where a rollback is asked for, and to what.
pub(crate) fn rollback(serving: &ModelServing) -> Option<(&'static str, String)> {
    let field = serving.spec.rollout_strategy.as_ref().and_then(|strategy| strategy.rollback_to.as_ref());
    match field {
        Some(IntOrString::Int(number)) => Some(("spec.rolloutStrategy.rollbackTo", number.to_string())),
        Some(IntOrString::String(name)) => Some(("spec.rolloutStrategy.rollbackTo", name.clone())),
        None => {
            let annotation = serving.metadata.annotations.as_ref()?.get(labels::ROLLBACK_TO)?;
            Some(("the annotation modelserving.volcano.sh/rollback-to", annotation.trim().to_owned()))
        }
    }
    .filter(|(_, wanted)| !wanted.is_empty())
}

fn read_roles(data: &Value) -> Result<Vec<Role>, String> {
    let list = data.get("data").unwrap_or(data);
    let roles = Vec::<Role>::deserialize(list).map_err(|error| error.to_string())?;
    if roles.is_empty() { Err("it has no roles".to_owned()) } else { Ok(roles) }
}

fn controller_revision(serving: &ModelServing, revision: &Revision) -> ControllerRevision {
    let serving_name = serving.metadata.name.clone().unwrap_or_default();
    let change_cause = serving.metadata.annotations.as_ref().and_then(|all| all.get(labels::CHANGE_CAUSE));
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(names::revision(&serving_name, &revision.name)),
            namespace: serving.metadata.namespace.clone(),
            labels: Some(BTreeMap::from([
                (labels::NAME.to_owned(), serving_name),
                (labels::REVISION.to_owned(), revision.name.clone()),
            ])),
            annotations: change_cause.map(|cause| BTreeMap::from([(labels::CHANGE_CAUSE.to_owned(), cause.clone())])),
            owner_references: Some(vec![owner_reference(serving)]),
            ..ObjectMeta::default()
        },
        data: RawExtension(json!({ "data": revision.roles })),
        revision: Some(revision.number),
    }
}
