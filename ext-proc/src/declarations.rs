//! The objects in use and how their last reading went, for people to look at.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;

use crate::resources::Resources;

/// How the last reading went.
#[derive(Clone, Debug, Default)]
pub struct ConfigStatus {
    /// What of the newest state is not in use, and why; `None` when all of it is.
    pub last_error: Option<String>,
    /// Counts the states that were taken into use.
    pub generation: u64,
    /// When the state in use was read; `None` before the first.
    pub loaded_at: Option<SystemTime>,
}

/// What is in use and how its reading went.
#[derive(Debug, Default)]
pub struct Declarations {
    /// The objects in use.
    pub resources: ArcSwap<Resources>,
    /// How the last reading went.
    pub status: ArcSwap<ConfigStatus>,
}

impl Declarations {
    /// Takes a state into use; `error` says what of it is not. Returns its number.
    pub fn accept(&self, resources: Resources, error: Option<String>) -> u64 {
        let generation = self.status.load().generation + 1;
        self.resources.store(Arc::new(resources));
        self.status.store(Arc::new(ConfigStatus { last_error: error, generation, loaded_at: Some(SystemTime::now()) }));
        generation
    }

    /// Keeps the state in use and says why. Returns whether that is news.
    pub fn reject(&self, error: &str) -> bool {
        let status = self.status.load_full();
        let news = status.last_error.as_deref() != Some(error);
        if news {
            self.status.store(Arc::new(ConfigStatus { last_error: Some(error.to_owned()), ..(*status).clone() }));
        }
        news
    }
}
