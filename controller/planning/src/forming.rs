//! Units that are being built: a pod that is missing in one of them has yet to be created. Anywhere else it was lost.
//!
//! A unit is what its recovery policy builds as a whole: a group, or a role instance. It is written into the status
//! before its first pod is created, and taken out once all its pods were seen, so a process that ends between any two
//! writes leaves behind what tells its successor which is which. A unit of one pod needs no entry: it is there or not.
//! All instances of a group together are written as the group.

use std::collections::{BTreeMap, BTreeSet};

use controller_api::v1alpha1::model_serving::ModelServingStatus;

use crate::names;

/// The units that are being built, as the status has them.
#[derive(Debug, Default)]
pub(crate) struct Forming<'a> {
    entries: BTreeSet<&'a str>,
}

impl<'a> Forming<'a> {
    pub(crate) fn of(status: &'a ModelServingStatus) -> Self {
        Self { entries: status.forming.iter().map(String::as_str).collect() }
    }

    /// The group is being built, or an instance of it.
    pub(crate) fn has_part_of(&self, group: &str) -> bool {
        let next = self.entries.range(group..).take_while(|entry| entry.starts_with(group));
        next.into_iter().any(|entry| entry.len() == group.len() || entry.as_bytes().get(group.len()) == Some(&b'/'))
    }

    /// The instance is being built, alone or with its group.
    pub(crate) fn has(&self, group: &str, role_id: &str) -> bool {
        !self.entries.is_empty()
            && (self.entries.contains(group) || self.entries.contains(names::instance(group, role_id).as_str()))
    }
}

/// The units that are being built after this pass.
#[derive(Debug, Default)]
pub(crate) struct Begun {
    groups: BTreeSet<String>,
    /// Group → instances, and how many instances of several pods it shall have.
    instances: BTreeMap<String, (BTreeSet<String>, usize)>,
}

impl Begun {
    /// The group as a whole.
    pub(crate) fn group(&mut self, group: &str) {
        self.groups.insert(group.to_owned());
    }

    /// One instance, of a group that shall have `of` instances of several pods.
    pub(crate) fn instance(&mut self, group: &str, role_id: &str, of: usize) {
        let (instances, all) = self.instances.entry(group.to_owned()).or_default();
        instances.insert(role_id.to_owned());
        *all = of;
    }

    /// As the status has them, sorted.
    pub(crate) fn entries(self) -> Vec<String> {
        let mut entries = self.groups;
        for (group, (instances, all)) in self.instances {
            if instances.len() > 1 && instances.len() >= all {
                entries.insert(group);
            } else {
                entries.extend(instances.iter().map(|role_id| names::instance(&group, role_id)));
            }
        }
        entries.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(forming: &[&str]) -> ModelServingStatus {
        ModelServingStatus { forming: forming.iter().map(|name| (*name).to_owned()).collect(), ..Default::default() }
    }

    #[test]
    fn an_instance_forms_alone_or_with_its_group() {
        let status = status(&["llm-1", "llm-10/prefill-0"]);
        let forming = Forming::of(&status);
        assert!(forming.has("llm-1", "prefill-0"));
        assert!(forming.has("llm-10", "prefill-0"));
        assert!(!forming.has("llm-10", "prefill-1"));
        assert!(!forming.has("llm-2", "prefill-0"));
    }

    #[test]
    fn a_group_forms_while_one_of_its_instances_does() {
        let status = status(&["llm-1-x", "llm-10/prefill-0", "llm-2"]);
        let forming = Forming::of(&status);
        assert!(forming.has_part_of("llm-10"));
        assert!(forming.has_part_of("llm-2"));
        assert!(!forming.has_part_of("llm-1"), "a longer name is another group");
    }

    #[test]
    fn all_instances_of_a_group_are_written_as_the_group() {
        let mut begun = Begun::default();
        begun.instance("llm-0", "prefill-0", 2);
        begun.instance("llm-0", "prefill-1", 2);
        begun.instance("llm-1", "prefill-0", 2);
        begun.instance("llm-2", "prefill-0", 1);
        assert_eq!(begun.entries(), ["llm-0", "llm-1/prefill-0", "llm-2/prefill-0"]);
    }
}
