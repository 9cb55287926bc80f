//! What is generated and committed: the Rust of `proto/`, made without protoc (protox parses, tonic-prost-build
//! writes), the CustomResourceDefinitions of `deploy/crds/`, and the pages of `deploy/reference/`.

mod reference;

use std::path::PathBuf;

use anyhow::Context;

use crate::checkout;

pub use reference::pages;

/// One file of generated code.
#[derive(Debug)]
pub struct GeneratedFile {
    /// Where it is committed.
    pub path: PathBuf,
    /// What it must hold.
    pub text: String,
}

/// Generates everything.
///
/// # Errors
/// Those of [`picker`], [`extension`], [`crds`] and [`pages`].
pub fn all() -> anyhow::Result<Vec<GeneratedFile>> {
    Ok([picker()?, extension()?, crds()?, reference::pages()?].into_iter().flatten().collect())
}

/// Generates one file for each kind that is ours.
///
/// # Errors
/// A definition that cannot be written as YAML.
pub fn crds() -> anyhow::Result<Vec<GeneratedFile>> {
    let folder = checkout::path("deploy/crds");
    controller_api::crds::all()
        .iter()
        .map(|definition| {
            let spec = &definition.spec;
            let yaml = serde_saphyr::to_string(definition)?;
            let text = format!("# Generated from the kinds in controller/api by `cargo gen`; do not edit.\n{yaml}");
            Ok(GeneratedFile { path: folder.join(format!("{}_{}.yaml", spec.group, spec.names.plural)), text })
        })
        .collect()
}

/// Generates the code of `kthena.picker.v1`.
///
/// # Errors
/// A syntax error in the `.proto` file, or a temporary directory that cannot be written.
pub fn picker() -> anyhow::Result<Vec<GeneratedFile>> {
    let proto = checkout::path("proto");
    let scratch = Scratch::new()?;
    let files =
        protox::compile(["kthena/picker/v1/explain.proto"], [&proto]).context("explain.proto does not parse")?;
    let mut builder = tonic_prost_build::configure()
        .out_dir(&scratch.0)
        .emit_rerun_if_changed(false)
        // Only what the debug port shows as JSON; requests never leave as JSON.
        .message_attribute(".", "#[derive(serde::Serialize)]")
        .message_attribute(".", "#[serde(rename_all = \"camelCase\")]");
    for optional in [
        "DecisionRecord.refusal",
        "Candidate.total",
        "Candidate.gauges_age_ms",
        "Candidate.waiting",
        "Candidate.running",
        "Candidate.kv_usage",
        "Candidate.rank",
        "Candidate.held_tokens",
        "Score.value",
    ] {
        builder = builder.field_attribute(
            format!("kthena.picker.v1.{optional}"),
            "#[serde(skip_serializing_if = \"Option::is_none\")]",
        );
    }
    builder.compile_fds(files)?;
    let name = "kthena.picker.v1.rs";
    let text = std::fs::read_to_string(scratch.0.join(name))?;
    Ok(vec![GeneratedFile { path: proto.join("src/generated").join(name), text }])
}

/// Generates the code of `envoygateway.extension`.
///
/// # Errors
/// A syntax error in the `.proto` file, or a temporary directory that cannot be written.
pub fn extension() -> anyhow::Result<Vec<GeneratedFile>> {
    let proto = checkout::path("proto");
    let scratch = Scratch::new()?;
    let files = protox::compile(["envoygateway/extension/extension.proto"], [&proto])
        .context("extension.proto does not parse")?;
    // Resources are passed on and not copied.
    let builder = tonic_prost_build::configure().out_dir(&scratch.0).emit_rerun_if_changed(false).bytes(".");
    builder.compile_fds(files)?;
    let name = "envoygateway.extension.rs";
    let text = std::fs::read_to_string(scratch.0.join(name))?;
    Ok(vec![GeneratedFile { path: proto.join("src/generated").join(name), text }])
}

/// A directory that is gone when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("kthena-gen-{}-{:x}", std::process::id(), rand::random::<u64>()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
