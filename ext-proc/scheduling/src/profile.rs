//! Which filters, scorers and picker decide, in Kthena's configuration format.

/// What decides, parsed from `routerConfiguration.yaml` and checked.
#[derive(Debug, Default)]
pub struct Profile {}

/// What is wrong with a configuration, with the place and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// A plugin that does not exist.
    #[error("unknown {kind} plugin `{name}`{}", did_you_mean.as_ref().map(|it| format!(", did you mean `{it}`?")).unwrap_or_default())]
    UnknownPlugin {
        /// `filter` or `score`.
        kind: &'static str,
        /// What was written.
        name: String,
        /// The closest known name.
        did_you_mean: Option<String>,
    },
}
