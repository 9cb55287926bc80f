//! Templates: files in this program, each with what it is for and which values it takes.
//!
//! A new one is a file in `templates/` and a line in [`FILES`]. Its first lines, each behind a `#`, are YAML: a
//! `description`, and the `values` that it takes. Manifests follow, in which each `{{ … }}` stands for a whole YAML
//! scalar; what is in `templates/parts/routes.yaml` comes after those of every template.

mod declared;
mod render;
mod values;

use anyhow::{Context as _, Result, anyhow};

pub(crate) use self::declared::Declared;
use self::declared::Header;
pub(crate) use self::render::Rendered;

/// In the order in which they are listed.
const FILES: &[(&str, &str)] = &[
    ("leader-worker-set", include_str!("../templates/leader-worker-set.yaml")),
    ("sglang", include_str!("../templates/sglang.yaml")),
    ("sglang-prefill-decode", include_str!("../templates/sglang-prefill-decode.yaml")),
    ("vllm", include_str!("../templates/vllm.yaml")),
    ("vllm-data-parallel", include_str!("../templates/vllm-data-parallel.yaml")),
    ("vllm-expert-parallel", include_str!("../templates/vllm-expert-parallel.yaml")),
    ("vllm-lora", include_str!("../templates/vllm-lora.yaml")),
    ("vllm-prefill-decode-lmcache", include_str!("../templates/vllm-prefill-decode-lmcache.yaml")),
    ("vllm-prefill-decode-mooncake", include_str!("../templates/vllm-prefill-decode-mooncake.yaml")),
    ("vllm-prefill-decode-nixl", include_str!("../templates/vllm-prefill-decode-nixl.yaml")),
];

/// How requests come to what a template makes; the same for all.
const ROUTES: &str = include_str!("../templates/parts/routes.yaml");

/// A template.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    /// Its file's name, without the ending.
    pub(crate) name: &'static str,
    /// The whole file.
    pub(crate) text: &'static str,
    header: Header,
    body: &'static str,
}

impl Template {
    fn read(name: &'static str, text: &'static str) -> Result<Self> {
        let (head, body) = text.split_once("\n---\n").context("no line --- ends its first lines")?;
        let lines: Vec<&str> =
            head.lines().map(|line| line.strip_prefix("# ").or(line.strip_prefix('#')).unwrap_or(line)).collect();
        let header = serde_saphyr::from_str(&lines.join("\n"))?;
        Ok(Self { name, text, header, body })
    }

    /// What it is for, in a line.
    pub(crate) fn description(&self) -> &str {
        &self.header.description
    }

    /// The values that it takes.
    pub(crate) fn values(&self) -> &[Declared] {
        &self.header.values
    }
}

/// All templates.
///
/// # Errors
/// When a file of this program is wrong.
pub(crate) fn all() -> Result<Vec<Template>> {
    let read = |(name, text): &(&'static str, &'static str)| {
        Template::read(name, text).with_context(|| format!("the template {name} cannot be read"))
    };
    FILES.iter().map(read).collect()
}

/// The template of this name.
///
/// # Errors
/// When there is none.
pub(crate) fn named(name: &str) -> Result<Template> {
    let all = all()?;
    let names: Vec<&str> = all.iter().map(|template| template.name).collect();
    let missing = anyhow!("there is no template {name:?}; there are {}", names.join(", "));
    all.into_iter().find(|template| template.name == name).ok_or(missing)
}

#[cfg(test)]
mod tests;
