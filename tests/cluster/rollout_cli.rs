//! `kthena rollout`, the program, beside a running operator.

use anyhow::Result;
use serde_json::{Value, json};
use tests::command_line::{self, Said};

use crate::stage::{Stage, role, spec};

async fn kthena(stage: &Stage, words: &str) -> Result<Said> {
    let kubeconfig = stage.proxy.kubeconfig().display().to_string();
    let place = ["--namespace", stage.namespace.name(), "--kubeconfig", &kubeconfig];
    command_line::kthena(["rollout"].into_iter().chain(words.split_whitespace()).chain(place)).await
}

#[tokio::test]
async fn a_rollout_is_followed_told_and_undone() -> Result<()> {
    let stage = Stage::new("cli-undo").await?;
    let cause = |cause: &str| json!({"metadata": {"annotations": {"kubernetes.io/change-cause": cause}}});
    stage
        .create_annotated("llm", cause("first")["metadata"]["annotations"].clone(), spec(2, &[role("decode", 1, 0)]))
        .await?;
    kthena(&stage, "status llm").await?.says(0, &["llm is rolled out: 2 of 2 groups are ready"]);
    stage.change("llm", cause("second")).await?;
    stage.set_image("llm", 0, "engine:2").await?;
    kthena(&stage, "status modelserving/llm --timeout 60s").await?.says(0, &["llm is rolled out"]);

    let listed = kthena(&stage, "history llm").await?.says(0, &["REVISION", "CHANGE-CAUSE"]);
    let rows: Vec<Vec<&str>> = listed.lines().skip(2).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows[0][0], *rows[0].last().expect("a cause")), ("1", "first"), "{listed}");
    assert_eq!((rows[1][0], rows[1][3], rows[1][4]), ("2", "current", "second"), "{listed}");
    kthena(&stage, "history llm --revision 2").await?.says(
        0,
        &[
            "Changed against revision 1",
            "role decode: entryTemplate.spec.containers[engine].image: engine:1 -> engine:2",
        ],
    );
    let json: Value = serde_json::from_str(&kthena(&stage, "history llm -o json").await?.says(0, &[]))?;
    assert_eq!(json[1]["changeCause"], "second");

    stage.change("llm", json!({"spec": {"replicas": 3}})).await?;
    kthena(&stage, "undo llm --dry-run").await?.says(0, &["would go back to revision 1", "engine:2 -> engine:1"]);
    assert_eq!(
        json!(stage.serving("llm").await?.spec)["template"]["roles"][0]["entryTemplate"]["spec"]["containers"][0]["image"],
        "engine:2"
    );
    kthena(&stage, "undo llm").await?.says(0, &["llm goes back to revision 1", "engine:2 -> engine:1"]);
    kthena(&stage, "status llm").await?.says(0, &["3 of 3 groups are ready, 3 updated"]);
    assert!(stage.images().await?.values().all(|image| image == "engine:1"));
    let listed = kthena(&stage, "history llm").await?.says(0, &["first"]);
    let last: Vec<&str> = listed.lines().last().unwrap_or_default().split_whitespace().collect();
    assert_eq!((last[0], last[1], last[3]), ("3", rows[0][1], "current"), "the same revision again: {listed}");
    kthena(&stage, "undo llm --to-revision 3").await?.says(1, &["llm is at revision 3 already"]);
    Ok(())
}

#[tokio::test]
async fn a_rollout_is_held_and_resumed() -> Result<()> {
    let stage = Stage::new("cli-pause").await?;
    stage.create("llm", spec(2, &[role("decode", 1, 0)])).await?;
    stage.wait_done("llm").await?;
    kthena(&stage, "resume llm").await?.says(1, &["llm is not paused"]);
    kthena(&stage, "pause llm").await?.says(0, &["llm is paused"]);
    kthena(&stage, "pause llm").await?.says(1, &["llm is paused already"]);
    stage.set_image("llm", 0, "engine:2").await?;
    kthena(&stage, "status llm --timeout 60s").await?.says(4, &["llm is paused: 0 of 2 groups are updated, 2 ready"]);
    assert!(stage.images().await?.values().all(|image| image == "engine:1"));
    kthena(&stage, "undo llm").await?.says(1, &["resume it first (kthena rollout resume llm)"]);
    kthena(&stage, "resume llm").await?.says(0, &["llm is resumed"]);
    kthena(&stage, "status llm").await?.says(0, &["2 of 2 groups are ready, 2 updated"]);
    assert!(stage.images().await?.values().all(|image| image == "engine:2"));
    Ok(())
}

#[tokio::test]
async fn what_does_not_come_in_time_and_what_is_not_there_is_said() -> Result<()> {
    let stage = Stage::new("cli-errors").await?;
    stage
        .create(
            "llm",
            spec(
                1,
                &[json!({
                    "name": "decode", "workerReplicas": 0, "entryTemplate": crate::stage::template("bad:1"),
                })],
            ),
        )
        .await?;
    kthena(&stage, "status llm --timeout 2s").await?.says(3, &["llm is not rolled out after 2 s"]);
    kthena(&stage, "status llm --watch=false").await?.says(3, &["llm: 0 of 1 groups are ready"]);
    kthena(&stage, "status llama")
        .await?
        .says(1, &["there is no ModelServing \"llama\" in namespace", "there are llm"]);
    kthena(&stage, "undo llm").await?.says(1, &["llm has no revision before the one it has"]);
    kthena(&stage, "undo llm --to-revision 9").await?.says(1, &["llm has no revision 9; it has 1"]);
    kthena(&stage, "status llm --timeout soon").await?.says(2, &["write it as 90s, 10m or 1h"]);
    Ok(())
}
