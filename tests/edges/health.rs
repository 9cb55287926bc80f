//! gRPC health and readiness, from before the fleet is known to the end.

use std::net::SocketAddr;

use anyhow::Result;
use tests::config_dir::ConfigDir;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::connection::plain;
use crate::running::Running;

/// What gateways and manifests ask for, and a name that nobody has ever heard.
const NAMES: [&str; 5] =
    ["", "readiness", "envoy.service.ext_proc.v3.ExternalProcessor", "inference-extension", "anything"];

/// What the service `name` of `channel` is said to be.
pub(crate) async fn check(channel: Channel, name: &str) -> Result<ServingStatus> {
    let request = HealthCheckRequest { service: name.to_owned() };
    Ok(HealthClient::new(channel).check(request).await?.into_inner().status())
}

async fn all_are(address: SocketAddr, status: ServingStatus) -> Result<()> {
    let channel = plain(address).await?;
    for name in NAMES {
        assert_eq!(check(channel.clone(), name).await?, status, "`{name}` at {address}");
    }
    assert_eq!(check(channel, "liveness").await?, ServingStatus::Serving);
    Ok(())
}

#[tokio::test]
async fn every_name_is_serving_on_both_ports_once_the_fleet_is_known() -> Result<()> {
    let running = Running::ready(&[]).await?;
    all_are(running.addresses.grpc, ServingStatus::Serving).await?;
    all_are(running.addresses.grpc_health, ServingStatus::Serving).await
}

#[tokio::test]
async fn nothing_is_serving_before_the_fleet_is_known() -> Result<()> {
    let config = ConfigDir::new()?;
    config.write_text("pool.yaml", "kind: [")?;
    let running = Running::start(config, &[]).await?;
    running.until_ready(503).await?;
    all_are(running.addresses.grpc, ServingStatus::NotServing).await?;
    all_are(running.addresses.grpc_health, ServingStatus::NotServing).await?;
    running.config.write_text("pool.yaml", "# mended\n")?;
    running.until_ready(200).await?;
    all_are(running.addresses.grpc_health, ServingStatus::Serving).await
}
