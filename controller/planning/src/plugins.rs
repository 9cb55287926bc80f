//! Steps in the building of a pod, by name.
//!
//! A ModelServing lists them in `spec.plugins`; they work in that order, each on the pods of its scope, after the
//! operator has put in its own labels and environment. A plugin is one file here and one line in [`BUILT_IN`]. Plugins
//! are not part of a revision: a change reaches the pods that are created from then on.

mod demo_pod_tweaks;
mod lws_environment;
mod lws_exclusive_topology;
mod lws_standard_labels;

use std::fmt;

use controller_api::v1alpha1::model_serving::{ModelServing, Plugin, PluginScope, PluginTarget, Role};
use k8s_openapi::api::core::v1::Pod;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// All plugins that there are: name, and what makes one from its `config`.
const BUILT_IN: &[(&str, Maker)] = &[
    ("demo-pod-tweaks", demo_pod_tweaks::new),
    ("lws-environment", lws_environment::new),
    ("lws-exclusive-topology", lws_exclusive_topology::new),
    ("lws-standard-labels", lws_standard_labels::new),
];

type Maker = fn(Option<&Value>) -> Result<Box<dyn Step>, String>;

/// One step in the building of a pod.
trait Step: fmt::Debug + Send + Sync {
    /// Changes `pod`, which is about to be created.
    fn apply(&self, pod: &mut Pod, place: &Place<'_>) -> Result<(), String>;
}

/// Where a pod belongs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Its ModelServing.
    pub serving: &'a ModelServing,
    /// Its group, `llm-3`.
    pub group: &'a str,
    /// Its role.
    pub role: &'a Role,
    /// Its role instance, `prefill-0`.
    pub role_id: &'a str,
    /// Its number in the instance; 0 is the entry pod.
    pub number: u32,
}

/// The plugins of one ModelServing, ready for use.
#[derive(Debug, Default)]
pub struct Chain {
    links: Vec<Link>,
}

#[derive(Debug)]
struct Link {
    name: String,
    scope: PluginScope,
    step: Box<dyn Step>,
}

/// A plugin cannot be used, or could not do its work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plugin {plugin}: {message}")]
pub struct PluginError {
    /// The name that the ModelServing gives.
    pub plugin: String,
    /// What is wrong, and what to change.
    pub message: String,
}

impl Chain {
    /// The plugins of a ModelServing, in its order.
    ///
    /// # Errors
    /// A name that does not exist, or settings that the plugin does not take.
    pub fn new(plugins: &[Plugin]) -> Result<Self, PluginError> {
        let links = plugins.iter().map(|plugin| {
            let step = make(plugin).map_err(|message| PluginError { plugin: plugin.name.clone(), message })?;
            Ok(Link { name: plugin.name.clone(), scope: plugin.scope.clone().unwrap_or_default(), step })
        });
        Ok(Self { links: links.collect::<Result<_, _>>()? })
    }

    /// Lets each plugin whose scope holds the pod change it.
    pub(crate) fn apply(&self, pod: &mut Pod, place: &Place<'_>) -> Result<(), PluginError> {
        for link in self.links.iter().filter(|link| covers(&link.scope, place)) {
            link.step.apply(pod, place).map_err(|message| PluginError { plugin: link.name.clone(), message })?;
        }
        Ok(())
    }
}

/// What is wrong with `plugins`: position in the list, and what to change.
pub fn validate(plugins: &[Plugin]) -> Vec<(usize, String)> {
    let wrong = plugins.iter().enumerate().filter_map(|(position, plugin)| Some((position, make(plugin).err()?)));
    wrong.collect()
}

/// The names of all plugins.
pub fn names() -> impl Iterator<Item = &'static str> {
    BUILT_IN.iter().map(|(name, _)| *name)
}

fn make(plugin: &Plugin) -> Result<Box<dyn Step>, String> {
    match BUILT_IN.iter().find(|(name, _)| *name == plugin.name) {
        Some((_, maker)) => maker(plugin.config.as_ref()),
        None => Err(unknown(&plugin.name)),
    }
}

fn unknown(name: &str) -> String {
    let near = names()
        .map(|known| (strsim::damerau_levenshtein(name, known), known))
        .min()
        .filter(|(distance, known)| *distance <= known.len() / 3);
    match near {
        Some((_, known)) => format!("there is no plugin {name:?}, did you mean {known:?}?"),
        None => {
            let all: Vec<_> = names().collect();
            format!("there is no plugin {name:?}; there are {}", all.join(", "))
        }
    }
}

fn covers(scope: &PluginScope, place: &Place<'_>) -> bool {
    let role = scope.roles.is_empty() || scope.roles.contains(&place.role.name);
    let target = match scope.target.unwrap_or_default() {
        PluginTarget::All => true,
        PluginTarget::Entry => place.number == 0,
        PluginTarget::Worker => place.number > 0,
    };
    role && target
}

/// The settings of a plugin; its defaults without any.
fn settings<T: DeserializeOwned + Default>(config: Option<&Value>) -> Result<T, String> {
    match config {
        None | Some(Value::Null) => Ok(T::default()),
        Some(config) => T::deserialize(config).map_err(|error| format!("config: {error}")),
    }
}

/// The settings of a plugin that has none.
fn no_settings(config: Option<&Value>) -> Result<(), String> {
    match config {
        None | Some(Value::Null) => Ok(()),
        Some(Value::Object(fields)) if fields.is_empty() => Ok(()),
        Some(_) => Err("config: it takes none; remove it".to_owned()),
    }
}

#[cfg(test)]
mod tests;
