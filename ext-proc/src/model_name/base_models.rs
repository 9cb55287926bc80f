//! Which base model an adapter belongs to, as the ModelRoutes say.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use scheduling::{ModelRoute, Snapshot};

/// The base models by the names of models; computed once for each declared state.
#[derive(Debug, Default)]
pub(super) struct BaseModels(ArcSwap<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Of the snapshot.
    generation: u64,
    base_of: HashMap<Arc<str>, Arc<str>>,
}

impl BaseModels {
    /// The base model of `model`; `None` if no ModelRoute knows the name. The oldest route that lists it decides, and
    /// no adapter takes the name of a base model.
    pub(super) fn of(&self, snapshot: &Snapshot, model: &str) -> Option<Arc<str>> {
        let mut known = self.0.load_full();
        if known.generation != snapshot.generation {
            known = Arc::new(Known { generation: snapshot.generation, base_of: base_of(snapshot) });
            self.0.store(Arc::clone(&known));
        }
        known.base_of.get(model).map(Arc::clone)
    }
}

fn base_of(snapshot: &Snapshot) -> HashMap<Arc<str>, Arc<str>> {
    let mut routes: Vec<&Arc<ModelRoute>> =
        snapshot.pools.values().flat_map(|pool| &pool.routing.routes).filter(|route| route.model.is_some()).collect();
    routes.sort_by(|one, other| one.precedence().cmp(&other.precedence()));
    let mut base_of = HashMap::new();
    for base in routes.iter().filter_map(|route| route.model.as_ref()) {
        base_of.insert(Arc::clone(base), Arc::clone(base));
    }
    for route in routes {
        for (adapter, base) in route.adapters.iter().zip(route.model.iter().cycle()) {
            base_of.entry(Arc::clone(adapter)).or_insert_with(|| Arc::clone(base));
        }
    }
    base_of
}
