//! The manifests of `gateway-api-examples/standalone-two-pools` are a fleet.

use anyhow::Result;
use tests::checkout;
use tests::config_dir::ConfigDir;

use crate::running::Running;

#[tokio::test]
async fn the_stand_alone_example_is_two_pools_with_six_endpoints() -> Result<()> {
    let folder = checkout::path("gateway-api-examples/standalone-two-pools");
    let config = ConfigDir::new()?;
    for file in ["chat-pool.yaml", "code-pool.yaml", "pods.yaml"] {
        config.write_text(file, &std::fs::read_to_string(folder.join(file))?)?;
    }
    let flags = ["--pool-port=default/chat=0", "--pool-port=default/code=0"];
    let running = Running::start(config, &flags).await?;
    running.until_ready(200).await?;
    let fleet: serde_json::Value = serde_json::from_str(&running.debug("/debug/fleet").await?)?;
    let pool = |name: &str| {
        let endpoints = fleet["endpoints"].as_array().into_iter().flatten();
        endpoints.filter(|endpoint| endpoint["pool"] == name).count()
    };
    assert_eq!((pool("default/chat"), pool("default/code")), (4, 2), "{fleet}");
    Ok(())
}
