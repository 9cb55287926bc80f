//! Which endpoints of a pool decode for a ModelServer with a `pdGroup`, which prefill, and who may
//! pair with whom: computed once for each declared state, so that a request compares numbers.
//!
//! As in Kthena, a pod is looked at as decode before prefill, and one without the label of `groupKey`
//! is in no group and takes no part.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::disaggregation::Role;
use crate::endpoint::Endpoint;
use crate::routing::{Members, ModelServer};

/// A value of the `groupKey` label, as a number that means something only within one [`Pairing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Group(u32);

/// The pairs that a ModelServer with a `pdGroup` allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pairing {
    /// The decode endpoints, in the pool's order.
    pub(crate) decodes: Members,
    /// The group of each decode endpoint, in the pool's order.
    decode_groups: Vec<Option<Group>>,
    /// The group of each prefill endpoint, in the order of the pool's list of them.
    prefill_groups: Vec<Option<Group>>,
}

impl Pairing {
    /// The pairs that `server` allows among the `endpoints` of a pool, of which `members` are its own,
    /// and its `prefills`. `None` for a server without a `pdGroup`.
    pub(crate) fn of(
        server: &ModelServer,
        endpoints: &[Arc<Endpoint>],
        members: &Members,
        prefills: &[Arc<Endpoint>],
    ) -> Option<Self> {
        let key = server.pd_group.as_ref()?.group_key.as_deref();
        // Without a key all are one group, whose value is the empty string.
        let value = |endpoint: &Endpoint| match key {
            Some(key) => endpoint.labels.get(key).cloned(),
            None => Some(String::new()),
        };
        let values: BTreeSet<String> =
            endpoints.iter().chain(prefills).filter_map(|endpoint| value(endpoint)).collect();
        let values: Vec<String> = values.into_iter().collect();
        let group = |endpoint: &Endpoint, role: Role| {
            let value = value(endpoint).filter(|_| server.role(endpoint) == Some(role))?;
            u32::try_from(values.binary_search(&value).ok()?).ok().map(Group)
        };
        let decodes = endpoints.iter().enumerate();
        let decode_groups: Vec<_> = decodes
            .map(|(index, endpoint)| members.contains(index).then(|| group(endpoint, Role::Decode)).flatten())
            .collect();
        Some(Self {
            decodes: decode_groups.iter().map(Option::is_some).collect(),
            decode_groups,
            prefill_groups: prefills.iter().map(|endpoint| group(endpoint, Role::Prefill)).collect(),
        })
    }

    /// The group of the pool's endpoint at `index`, if it decodes.
    pub(crate) fn of_decode(&self, index: usize) -> Option<Group> {
        self.decode_groups.get(index).copied().flatten()
    }

    /// The group of the prefill endpoint at `index`.
    pub(crate) fn of_prefill(&self, index: usize) -> Option<Group> {
        self.prefill_groups.get(index).copied().flatten()
    }
}

/// Who decodes for a request, where prefill and decode pods have to be told apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decodes<'a> {
    /// The endpoints that may, in the pool's order.
    pub(crate) members: &'a Members,
    /// For which ModelServer, and its pairs; `None` where several have a claim and no route says
    /// which: then whoever is a prefill pod of any of them is kept out, and nothing is paired.
    pub(crate) server: Option<(&'a Arc<ModelServer>, &'a Pairing)>,
}
