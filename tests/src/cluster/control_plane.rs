//! etcd and kube-apiserver, and by wish more of Kubernetes, as children on loopback.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;
use tokio::sync::OnceCell;

use super::binaries::Binary;
use super::certificates::Certificates;
use super::crds::{Foreign, GatewayKinds};
use super::extras::Extras;
use super::namespace::Namespace;
use crate::checkout;
use crate::poll;
use crate::process::{Process, Program};
use crate::progress;
use crate::scratch::Scratch;

/// From the start of a program until it is ready, on a busy machine.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// From the creation of a kind until it is served.
const ESTABLISHED_DEADLINE: Duration = Duration::from_secs(30);

/// What runs beside etcd and kube-apiserver.
#[derive(Clone, Debug, Default)]
pub struct ControlPlaneOptions {
    pub(super) garbage_collection: bool,
    pub(super) scheduler: bool,
    pub(super) volcano: bool,
    pub(super) nodes: u32,
    pub(super) endpoint_slices: bool,
    kinds: Vec<GatewayKinds>,
    address: Option<IpAddr>,
}

impl ControlPlaneOptions {
    /// Children go when their owner goes, and namespaces when they are deleted: kube-controller-manager with these
    /// two controllers.
    #[must_use]
    pub fn with_garbage_collection(mut self) -> Self {
        self.garbage_collection = true;
        self
    }

    /// Pods of `default-scheduler`, and of `volcano` unless its own scheduler runs, are bound to nodes: kube-scheduler. No gangs.
    #[must_use]
    pub fn with_scheduler(mut self) -> Self {
        self.scheduler = true;
        self
    }

    /// Pods of `volcano` are bound to nodes as gangs: Volcano's scheduler.
    #[must_use]
    pub fn with_volcano(mut self) -> Self {
        self.volcano = true;
        self
    }

    /// So many nodes, with more room than a test needs, on which pods run as soon as they are bound: kwok.
    #[must_use]
    pub fn with_nodes(mut self, nodes: u32) -> Self {
        self.nodes = nodes;
        self
    }

    /// Services have EndpointSlices that follow their pods: kube-controller-manager with that controller too. And there is
    /// the node `node-0`, because a pod on no node has no endpoint.
    #[must_use]
    pub fn with_endpoint_slices(mut self) -> Self {
        self.endpoint_slices = true;
        self
    }

    /// These kinds too.
    #[must_use]
    pub fn with_kinds(mut self, kinds: &[GatewayKinds]) -> Self {
        self.kinds.extend(kinds);
        self
    }

    /// The API server listens at this address instead of 127.0.0.1.
    #[must_use]
    pub fn at(mut self, address: IpAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// Starts it, with our kinds and those of others that ours meet.
    ///
    /// # Errors
    /// When a program cannot be built or does not become ready, with what it said.
    pub async fn start(self) -> Result<ControlPlane> {
        let (etcd, api_server) = (Binary::Etcd.path().await?, Binary::ApiServer.path().await?);
        let extras = Extras::built(&self).await?;
        let start = Instant::now();
        let address = self.address.unwrap_or(Ipv4Addr::LOCALHOST.into());
        let mut plane = start_servers(&etcd, &api_server, address).await?;
        plane.install_kinds(&self.kinds).await?;
        plane.others = extras.start(&plane).await?;
        if self.endpoint_slices {
            let node: Node = serde_json::from_value(json!({"metadata": {"name": "node-0"}}))?;
            Api::all(plane.client().await?).create(&PostParams::default(), &node).await?;
        }
        progress::say(&format!("a control plane is up ({:.1} s)", start.elapsed().as_secs_f64()));
        Ok(plane)
    }
}

/// A running control plane; dropping it ends it.
#[derive(Debug)]
pub struct ControlPlane {
    // Declared in the order of their end.
    others: Vec<Process>,
    api_server: Process,
    etcd: Process,
    url: String,
    token: String,
    kubeconfig: PathBuf,
    _scratch: Scratch,
}

impl ControlPlane {
    /// The one that all tests of this process share, each in a namespace of its own; with garbage collection.
    ///
    /// # Errors
    /// As [`ControlPlaneOptions::start`].
    pub async fn shared() -> Result<&'static Self> {
        static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
        SHARED.get_or_try_init(|| ControlPlaneOptions::default().with_garbage_collection().start()).await
    }

    /// A kubeconfig file of an administrator, for programs.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// `https://127.0.0.1:port`, or with another address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// An administrator's bearer token.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// kube-apiserver's process, to be frozen or measured.
    #[must_use]
    pub fn api_server(&self) -> &Process {
        &self.api_server
    }

    /// How an administrator connects.
    ///
    /// # Errors
    /// When the kubeconfig file is gone.
    pub async fn config(&self) -> Result<kube::Config> {
        config_of(&self.kubeconfig).await
    }

    /// An administrator's client; it lives in the caller's runtime.
    ///
    /// # Errors
    /// As [`ControlPlane::config`].
    pub async fn client(&self) -> Result<kube::Client> {
        Ok(kube::Client::try_from(self.config().await?)?)
    }

    /// A fresh namespace whose name begins with `label`.
    ///
    /// # Errors
    /// When it cannot be created.
    pub async fn namespace(&self, label: &str) -> Result<Namespace> {
        Namespace::create(self.client().await?, label).await
    }

    /// Our kinds from `deploy/crds`, and Volcano's and LeaderWorkerSet's: created, and served.
    async fn install_kinds(&self, others: &[GatewayKinds]) -> Result<()> {
        let mut manifests = Vec::new();
        let folder = checkout::path("deploy/crds");
        for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml") {
                manifests.push(std::fs::read_to_string(&path)?);
            }
        }
        for kind in Foreign::ALL {
            manifests.push(kind.manifest().await?);
        }
        for kinds in others {
            manifests.extend(kinds.manifests().await?);
        }
        let crds: Api<CustomResourceDefinition> = Api::all(self.client().await?);
        let mut names = Vec::new();
        for manifest in &manifests {
            let crd: CustomResourceDefinition = serde_saphyr::from_str(manifest)?;
            let name = crd.metadata.name.clone().context("a CustomResourceDefinition has a name")?;
            if names.contains(&name) {
                // Of the Gateway API ours meet some kinds, and a gateway wants all.
                continue;
            }
            crds.create(&PostParams::default(), &crd)
                .await
                .with_context(|| format!("the API server refuses {name}"))?;
            names.push(name);
        }
        for name in names {
            poll::until(&format!("{name} is served"), ESTABLISHED_DEADLINE, async || {
                let conditions = crds.get(&name).await.ok()?.status?.conditions?;
                conditions.iter().any(|found| found.type_ == "Established" && found.status == "True").then_some(())
            })
            .await?;
        }
        Ok(())
    }
}

/// How whoever has this kubeconfig file connects.
///
/// # Errors
/// When it cannot be read.
pub async fn config_of(kubeconfig: &Path) -> Result<kube::Config> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    Ok(kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?)
}

/// A flag with its value.
pub(super) fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

async fn start_servers(etcd: &Path, api_server: &Path, address: IpAddr) -> Result<ControlPlane> {
    let scratch = Scratch::new("cluster")?;
    let certificates = Certificates::new(address)?;
    let token = format!("{:032x}", rand::random::<u128>());
    for (name, text) in [
        ("ca.crt", &certificates.authority),
        ("tls.crt", &certificates.certificate),
        ("tls.key", &certificates.key),
        ("tokens.csv", &format!("{token},admin,admin,system:masters\n")),
    ] {
        std::fs::write(scratch.file(name), text)?;
    }
    let file = |name: &str| scratch.file(name).to_string_lossy().into_owned();
    // Socket files: no ports to be fought for, and gone with their folder. Nobody asks the member for its own address.
    let (socket, peer) = (format!("unix://{}", file("etcd.sock")), format!("unix://{}", file("peer.sock")));
    let advertised = "http://127.0.0.1:2380";
    let etcd = Program::new("etcd", etcd)
        .args(["--name=tests", "--unsafe-no-fsync", "--log-level=warn"])
        .args([flag("data-dir", file("etcd")), flag("initial-cluster", format!("tests={advertised}"))])
        .args([flag("listen-client-urls", &socket), flag("advertise-client-urls", advertised)])
        .args([flag("listen-peer-urls", &peer), flag("initial-advertise-peer-urls", advertised)])
        .sweep(scratch.path())
        .start()?;
    let port = free_port(address)?;
    let api_server = Program::new("kube-apiserver", api_server)
        .args(["--authorization-mode=RBAC", "--allow-privileged=true"])
        // Also what it tells of itself: a machine without a default route has no address to be found out.
        .args([flag("bind-address", address), flag("advertise-address", address)])
        .args([flag("etcd-servers", &socket), flag("secure-port", port)])
        .args([flag("tls-cert-file", file("tls.crt")), flag("tls-private-key-file", file("tls.key"))])
        .args([flag("client-ca-file", file("ca.crt")), flag("token-auth-file", file("tokens.csv"))])
        .args(["--service-cluster-ip-range=10.0.0.0/16", "--service-account-issuer=https://kubernetes.default.svc"])
        .args([flag("service-account-key-file", file("tls.crt"))])
        .args([flag("service-account-signing-key-file", file("tls.key"))])
        // Nobody makes service accounts and nobody takes taints off fresh nodes here.
        .args(["--disable-admission-plugins=ServiceAccount,TaintNodesByCondition", "--endpoint-reconciler-type=none"])
        .start()?;
    let url = format!("https://{}", SocketAddr::new(address, port));
    let kubeconfig = scratch.file("kubeconfig");
    write_kubeconfig(&kubeconfig, &url, &scratch.file("ca.crt"), &token)?;
    let plane = ControlPlane { others: Vec::new(), api_server, etcd, url, token, kubeconfig, _scratch: scratch };
    let client = plane.client().await?;
    let ready = poll::until("the API server's readiness", START_DEADLINE, async || {
        let ended = plane.api_server.try_exit_code().or_else(|| plane.etcd.try_exit_code());
        if let Some(code) = ended {
            return Some(Err(code));
        }
        let request = http::Request::get("/readyz").body(Vec::new()).ok()?;
        (client.request_text(request).await.ok()? == "ok").then_some(Ok(()))
    });
    let said = || {
        let said = [plane.etcd.output(), plane.api_server.output()].concat();
        format!("etcd and kube-apiserver said:\n{}", said.join("\n"))
    };
    if let Err(code) = ready.await.with_context(said)? {
        bail!("etcd or kube-apiserver ended with status {code}; {}", said());
    }
    Ok(plane)
}

/// Writes what a program needs to connect to `url`, trusting the PEM file `authority`, as the bearer of `token`.
pub(super) fn write_kubeconfig(path: &Path, url: &str, authority: &Path, token: &str) -> Result<()> {
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": {"server": url, "certificate-authority": authority}}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "admin"}}],
        "current-context": "tests",
    });
    std::fs::write(path, kubeconfig.to_string()).with_context(|| format!("cannot write {}", path.display()))
}

/// A port that was free a moment ago.
fn free_port(address: IpAddr) -> Result<u16> {
    Ok(TcpListener::bind((address, 0))?.local_addr()?.port())
}
