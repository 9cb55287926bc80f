//! Which values a template is rendered with.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Map, Value};

use super::{Declared, Template};
use crate::args::Given;

impl Template {
    /// The values: those of the command line, else those of the file, else the defaults.
    ///
    /// # Errors
    /// When the file cannot be read, or something is not declared or of another kind; it says where, and what there is.
    pub(crate) fn settle(&self, file: Option<&Path>, set: &[Given]) -> Result<Map<String, Value>> {
        let defaults = self.values().iter().map(|declared| (declared.name.clone(), declared.default.clone()));
        let mut values: Map<String, Value> = defaults.collect();
        if let Some(file) = file {
            let told = || format!("{}", file.display());
            for (name, value) in read(file).with_context(told)? {
                let declared = self.declared(&name).with_context(told)?;
                declared.check(&value).map_err(|error| anyhow!(error)).with_context(told)?;
                values.insert(name, value);
            }
        }
        for (name, word) in set.iter().flat_map(|given| &given.0) {
            let declared = self.declared(name).context("--set")?;
            let value = declared.parse(word).map_err(|error| anyhow!(error)).context("--set")?;
            values.insert(name.clone(), value);
        }
        Ok(values)
    }

    fn declared(&self, name: &str) -> Result<&Declared> {
        match name {
            "name" => bail!("the name is said with --name"),
            "namespace" => bail!("the namespace is said with -n"),
            _ => {}
        }
        let names: Vec<&str> = self.values().iter().map(|declared| declared.name.as_str()).collect();
        let found = self.values().iter().find(|declared| declared.name == name);
        found.ok_or_else(|| anyhow!("the template {} has no value {name:?}; it has {}", self.name, names.join(", ")))
    }
}

fn read(file: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read_to_string(file)?;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Map::new());
    }
    match serde_saphyr::from_str(&text)? {
        Value::Object(values) => Ok(values),
        _ => bail!("values are written as NAME: VALUE, a line each"),
    }
}
