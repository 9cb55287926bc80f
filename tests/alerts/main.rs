//! The rules for Prometheus as Prometheus understands them, told of fleets in trouble and of one that is well.

use std::path::PathBuf;

use anyhow::Result;
use tests::checkout;
use tests::cluster::promtool::Promtool;
use tests::scratch::Scratch;

const RULES: &str = "alerts.yaml";
const STORIES: &str = "alerts_test.yaml";

fn folder() -> PathBuf {
    checkout::path("deploy/observability")
}

#[tokio::test]
async fn prometheus_takes_the_rules_without_a_complaint() -> Result<()> {
    let said = Promtool::new(&folder()).await?.run(&["check", "rules", "--lint=all", "--lint-fatal", RULES]).await?;
    let alerts = std::fs::read_to_string(folder().join(RULES))?.matches("- alert: ").count();
    assert!(said.contains(&format!("SUCCESS: {alerts} rules found")), "{said}");
    Ok(())
}

#[tokio::test]
async fn each_trouble_fires_its_alert_alone_and_a_fleet_that_is_well_none() -> Result<()> {
    Promtool::new(&folder()).await?.run(&["test", "rules", STORIES]).await?;
    Ok(())
}

/// What the stories would not notice, they do not prove.
#[tokio::test]
async fn an_alert_that_cannot_fire_or_does_not_wait_is_noticed() -> Result<()> {
    let rules = std::fs::read_to_string(folder().join(RULES))?;
    let scratch = Scratch::new("alerts")?;
    std::fs::copy(folder().join(STORIES), scratch.file(STORIES))?;
    let promtool = Promtool::new(scratch.path()).await?;
    for (start, line) in rules.match_indices("    expr: ").chain(rules.match_indices("    for: ")) {
        let (before, rest) = rules.split_at(start);
        let (spoilt, behind) = rest.split_once('\n').expect("a rule ends with its annotations");
        let instead = if line.contains("expr") { "    expr: vector(0) > 1\n" } else { "" };
        std::fs::write(scratch.file(RULES), format!("{before}{instead}{behind}"))?;
        let said = promtool.run(&["test", "rules", STORIES]).await.map_err(|error| error.to_string());
        assert!(said.is_err_and(|error| error.contains("FAILED")), "not noticed: {spoilt}");
    }
    Ok(())
}
