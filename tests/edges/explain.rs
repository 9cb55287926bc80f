//! `kthena explain`, the program, beside a running picker.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tests::command_line::kthena;
use tests::config_dir::ConfigDir;
use tests::picker;
use tests::scratch::Scratch;

use crate::running::Running;

/// Runs the command. Its words must be there, and its exit code must be so.
async fn says(words: &[&str], code: i32, wanted: &[&str]) -> Result<String> {
    let words = [&["explain"], words].concat();
    Ok(kthena(words).await?.says(code, wanted))
}

fn request(scratch: &Scratch) -> Result<String> {
    let file = scratch.file("body.json");
    std::fs::write(&file, r#"{"model": "tiny", "messages": [{"role": "user", "content": "hello"}]}"#)?;
    path(&file)
}

fn path(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path that is text")?.to_owned())
}

/// Two endpoints of one pool; nobody listens there.
fn fleet() -> Result<ConfigDir> {
    let config = ConfigDir::new()?;
    config.pool("llama", &["127.0.0.1:1".parse()?, "127.0.0.2:1".parse()?])?;
    Ok(config)
}

#[tokio::test]
async fn a_request_that_was_not_made_is_explained_as_things_are_and_as_they_could_be() -> Result<()> {
    let running = Running::start(fleet()?, &[]).await?;
    running.until_ready(200).await?;
    let (picker, scratch) = (running.addresses.debug.to_string(), Scratch::new("explain")?);
    let body = request(&scratch)?;
    let asked = ["--picker", &picker, "--request", &body];
    says(&asked, 0, &["(nothing was sent)", "default/llama", "127.0.0.1:1", "127.0.0.2:1", "why"]).await?;

    let changed = [&asked[..], &["--what-if", "drain=127.0.0.1:1", "-o", "json"]].concat();
    let record: Value = serde_json::from_str(&says(&changed, 0, &[]).await?)?;
    assert_eq!(record["endpoint"], "127.0.0.2:1");
    let wrong = [&asked[..], &["--what-if", "weight=gpu=1"]].concat();
    says(&wrong, 1, &["no scorer `gpu` takes part", "gpu-usage"]).await?;
    let wrong = [&asked[..], &["--pool", "default/qwen"]].concat();
    says(&wrong, 1, &["known: default/llama"]).await?;
    Ok(())
}

#[tokio::test]
async fn what_is_not_there_is_said_with_what_to_do() -> Result<()> {
    let running = Running::ready(&[]).await?;
    let picker = running.addresses.debug.to_string();
    says(&["--picker", &picker], 1, &["no request has come to it yet"]).await?;
    says(&["--picker", &picker, "some-id"], 1, &["no decision for some-id", "x-request-id"]).await?;
    says(&["--picker", "127.0.0.1:1"], 1, &["no picker answers at 127.0.0.1:1", "port-forward"]).await?;
    Ok(())
}

#[tokio::test]
async fn a_folder_of_manifests_is_asked_without_a_running_picker() -> Result<()> {
    let (config, scratch) = (fleet()?, Scratch::new("explain")?);
    let program = path(picker::binary().await?)?;
    let (folder, body) = (path(config.path())?, request(&scratch)?);
    let asked = ["--config-dir", &folder, "--request", &body, "--picker-program", &program];
    says(&asked, 0, &["default/llama", "127.0.0.1:1"]).await?;

    std::fs::write(config.path().join("broken.yaml"), "kind: Pod\nmetadata: [")?;
    says(&asked, 1, &["broken.yaml"]).await?;
    Ok(())
}
