//! `--config-dir` and `--scheduler-config`: changes are taken, errors are not.

use anyhow::Result;
use tests::poll;

use crate::running::{DEADLINE, Running};

async fn until_debug_says(running: &Running, path: &str, text: &str) -> Result<()> {
    poll::until(text, DEADLINE, async || running.debug(path).await.ok()?.contains(text).then_some(())).await
}

#[tokio::test]
async fn endpoints_come_and_go_with_the_files() -> Result<()> {
    let running = Running::ready(&[]).await?;
    assert!(running.debug("/debug/fleet").await?.contains("127.0.0.1:1\""));
    running.config.pool("llama", &["127.0.0.1:1".parse()?, "127.0.0.2:1".parse()?])?;
    until_debug_says(&running, "/debug/fleet", "127.0.0.2:1\"").await?;
    running.config.remove("pool-llama.yaml")?;
    poll::until("an empty fleet", DEADLINE, async || {
        (!running.debug("/debug/fleet").await.ok()?.contains("127.0.0.")).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_bad_file_leaves_the_fleet_and_is_told_of() -> Result<()> {
    let running = Running::ready(&[]).await?;
    let bad = "apiVersion: networking.serving.volcano.sh/v1alpha1\nkind: ModelServer\nmetadata: {name: s}\n\
        spec:\n  inferenceEngine: vLLM\n  workloadSelector: {}\n  workloadPort: {port: none}\n";
    running.config.write_text("server.yaml", bad)?;
    until_debug_says(&running, "/debug/config_dump", "server.yaml: line 7: spec.workloadPort.port").await?;
    running.until_counted("reload_failures_total{source=\"config-dir\"").await?;
    assert!(running.debug("/debug/fleet").await?.contains("127.0.0.1:1\""));
    running.until_ready(200).await?;
    running.config.write_text("server.yaml", &bad.replace("none", "8000"))?;
    until_debug_says(&running, "/debug/config_dump/modelservers", "vLLM").await
}

#[tokio::test]
async fn a_directory_that_does_not_exist_stops_the_start() -> Result<()> {
    let gone = tests::config_dir::ConfigDir::new()?;
    std::fs::remove_dir(gone.path())?;
    let error = Running::start(gone, &[]).await.err().map(|error| format!("{error:#}"));
    assert!(error.is_some_and(|error| error.contains("--config-dir")));
    Ok(())
}

#[tokio::test]
async fn a_scheduler_configuration_that_is_wrong_or_missing_stops_the_start() -> Result<()> {
    let running = Running::ready(&[]).await?;
    // Not a name that the directory is read for.
    let path =
        running.config.write_text("scheduler.txt", "scheduler: {plugins: {Filter: {enabled: [leest-request]}}}")?;
    let flags = ["--scheduler-config".to_owned(), path.display().to_string()];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let error = Running::ready(&flags).await.err().map(|error| format!("{error:#}"));
    assert!(error.is_some_and(|error| error.contains("did you mean `least-request`")));
    std::fs::remove_file(path)?;
    let error = Running::ready(&flags).await.err().map(|error| format!("{error:#}"));
    assert!(error.is_some_and(|error| error.contains("--scheduler-config")));
    Ok(())
}
