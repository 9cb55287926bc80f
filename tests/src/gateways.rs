//! Real gateways as plain processes, in a network namespace that needs no root.
//!
//! | what | file |
//! |---|---|
//! | the namespace | `sandbox.rs` |
//! | what users, kubelets and kube-scheduler write to the API server | `objects.rs` |
//! | what an installation brings: Services and rights of the chart | `installed.rs` |
//! | Envoy Gateway and its Envoy | `envoy_gateway.rs` |

pub mod envoy_gateway;
pub mod installed;
pub mod objects;
pub mod sandbox;

use std::time::Duration;

use anyhow::Result;

use crate::cluster::binaries::Binary;
use crate::cluster::crds::Foreign;
use crate::cluster::operator;
use crate::{envoy, picker};

/// For anything that takes a moment, on a busy machine.
pub const SOON: Duration = Duration::from_secs(60);

/// Builds and fetches what is needed with any gateway: in the sandbox there is no network.
///
/// # Errors
/// When something cannot be built or fetched.
pub async fn prepare() -> Result<()> {
    for binary in [Binary::Etcd, Binary::ApiServer, Binary::ControllerManager, Binary::Helm] {
        binary.path().await?;
    }
    for kind in Foreign::ALL {
        kind.manifest().await?;
    }
    envoy::binary().await?;
    picker::binary().await?;
    operator::binary().await.map(drop)
}

/// The last so many lines.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().flat_map(|line| [line, "\n"]).collect()
}
