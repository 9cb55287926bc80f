//! All that runs: a control plane, the operator, the picker, Envoy Gateway with its Envoy, and the stand-in for a kubelet.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use tokio::sync::OnceCell;

use super::kubelet::Kubelet;
use crate::cluster::binaries::Binary;
use crate::cluster::control_plane::{ControlPlane, ControlPlaneOptions};
use crate::cluster::crds::GatewayKinds;
use crate::cluster::operator::{Operator, OperatorOptions};
use crate::command_line::{self, kthena};
use crate::demo::say;
use crate::gateways::envoy_gateway::{EnvoyGateway, for_pools};
use crate::gateways::installed::{self, PORTS, act_as};
use crate::gateways::objects::{NAMESPACE, Objects};
use crate::gateways::sandbox::address;
use crate::otlp_sink::OtlpSink;
use crate::picker::{Picker, PickerOptions};
use crate::scratch::Scratch;
use crate::{gateways, own_binary};

const API_SERVER: u8 = 30;
const PICKER: u8 = 33;
const EXTENSION_SERVER: u16 = 5005;
const KINDS: [GatewayKinds; 2] = [GatewayKinds::GatewayApi, GatewayKinds::EnvoyGateway];

/// All that runs, in the order of its end.
pub(super) struct Stage {
    pub(super) kubelet: Kubelet,
    pub(super) gateway: EnvoyGateway,
    pub(super) picker: Picker,
    _operator: Operator,
    pub(super) objects: Objects,
    pub(super) sink: OtlpSink,
    pub(super) plane: ControlPlane,
    _scratch: Scratch,
}

/// Builds and fetches all of it.
///
/// # Errors
/// When something cannot be built or fetched.
pub async fn prepare() -> Result<()> {
    gateways::prepare().await?;
    Binary::EnvoyGateway.path().await?;
    for kinds in KINDS {
        kinds.manifests().await?;
    }
    engine().await?;
    command_line::binary().await.map(drop)
}

async fn engine() -> Result<&'static PathBuf> {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    BUILT.get_or_try_init(|| own_binary::build("simulated-engine")).await
}

impl Stage {
    /// # Errors
    /// When something does not start, with what it said.
    pub(super) async fn start() -> Result<Self> {
        let started = Instant::now();
        let done = |what: &str| say(&format!("  {:>5.1} s  {what}", started.elapsed().as_secs_f64()));
        let options = ControlPlaneOptions::default().with_garbage_collection().with_endpoint_slices();
        let plane = options.with_kinds(&KINDS).at(address(API_SERVER).into()).start().await?;
        let client = plane.client().await?;
        done("kube-apiserver, etcd, kube-controller-manager");

        let (objects, sink, scratch) = (Objects::new(client.clone()), OtlpSink::start().await?, Scratch::new("demo")?);
        objects.apply(&installed::manifests(&["envoyGateway.enabled=true"]).await?).await?;
        let rights = |account: &str| act_as(&plane, scratch.path(), account);
        let operator = OperatorOptions::new(rights("kthena-controller-manager")?)
            .flag("--extension-server-port", EXTENSION_SERVER)
            .flag("--extension-server-target", format!("127.0.0.1:{EXTENSION_SERVER}"))
            .start()
            .await?;
        done("the operator, with the rights of the chart; it is Envoy Gateway's extension server too");
        let picker = start_picker(&rights("kthena-ext-proc")?, &sink).await?;
        let labels = installed::picker_labels();
        objects.create_listening_pod("kthena-ext-proc-0", &labels, address(PICKER), &PORTS).await?;
        done("the picker");
        let configuration = for_pools(EXTENSION_SERVER)?;
        let mut gateway = EnvoyGateway::start_with(&plane, &objects, sink.address(), &configuration).await?;
        for file in ["gateway.yaml", "rights.yaml"] {
            objects.apply(&Objects::example(&format!("envoy-gateway-pools/{file}"))?).await?;
        }
        gateway.attach().await?;
        done("Envoy Gateway, and the Envoy that it started for the Gateway `inference`");
        let kubelet = Kubelet::new(client, engine().await?.clone(), sink.address());
        Ok(Self { kubelet, gateway, picker, _operator: operator, objects, sink, plane, _scratch: scratch })
    }

    /// Runs `kthena` with these words; what it said.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub(super) async fn kthena(&self, words: &[&str]) -> Result<String> {
        let kubeconfig = self.plane.kubeconfig().to_string_lossy();
        let cluster = ["--namespace", NAMESPACE, "--kubeconfig", &*kubeconfig];
        let said = kthena(words.iter().chain(&cluster)).await?;
        anyhow::ensure!(said.code == Some(0), "kthena {}: {}{}", words.join(" "), said.out, said.err);
        Ok(said.out + &said.err)
    }
}

async fn start_picker(kubeconfig: &Path, sink: &OtlpSink) -> Result<Picker> {
    PickerOptions::of_cluster(kubeconfig)
        .at(address(PICKER))
        .traces(&sink.endpoint())
        .env("ACCESS_LOG_ENABLED", false)
        .start()
        .await
}
