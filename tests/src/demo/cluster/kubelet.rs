//! **A fixture** in place of kubelet and scheduler: each pod of a ModelServing runs as a process at an address of its
//! own, and ends as it is told to.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;

use crate::client;
use crate::gateways::objects::{NAMESPACE, Objects};
use crate::gateways::sandbox::address;
use crate::poll;
use crate::process::{Process, Program, Signal};

/// The pods of ModelServings.
const LABEL: &str = "modelserving.volcano.sh/name";
/// What runs in them listens there.
const PORT: u16 = 8000;
/// The first pod's address; none is used twice, as gateways keep connections.
const FIRST: u8 = 40;
/// From the start of a process until it answers.
const START: Duration = Duration::from_secs(30);
/// As a pod's `terminationGracePeriodSeconds` would be.
const GRACE: Duration = Duration::from_secs(70);

/// Runs pods; dropping it ends them.
pub(super) struct Kubelet {
    pods: Api<Pod>,
    objects: Objects,
    engine: PathBuf,
    traces: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By UID: those whose start has begun.
    begun: HashSet<String>,
    /// By UID: those whose end has begun.
    ended: HashSet<String>,
    running: HashMap<String, Process>,
    /// Of all pods that there ever were: name and revision.
    names: BTreeMap<SocketAddr, (String, String)>,
}

impl Kubelet {
    /// One that runs `engine` in place of any container; its spans go to `traces`.
    pub(super) fn new(client: kube::Client, engine: PathBuf, traces: SocketAddr) -> Self {
        let pods = Api::namespaced(client.clone(), NAMESPACE);
        Self { pods, objects: Objects::new(client), engine, traces, state: Mutex::default() }
    }

    /// Looks after all pods, for ever.
    pub(super) async fn serve(&self) {
        watcher::watcher(self.pods.clone(), watcher::Config::default().labels(LABEL))
            .for_each_concurrent(None, async |event| {
                let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event else { return };
                if let Err(error) = self.look_after(&pod).await {
                    eprintln!("the stand-in for a kubelet: {error:#}");
                }
            })
            .await;
    }

    /// The name and the revision of the pod that is or was at an address.
    pub(super) fn pod_at(&self, address: SocketAddr) -> Option<(String, String)> {
        self.state.lock().names.get(&address).cloned()
    }

    async fn look_after(&self, pod: &Pod) -> Result<()> {
        let (Some(name), Some(uid)) = (&pod.metadata.name, &pod.metadata.uid) else { return Ok(()) };
        if pod.metadata.deletion_timestamp.is_some() {
            if self.state.lock().ended.insert(uid.clone()) {
                self.end(name, uid).await.with_context(|| format!("the end of {name}"))?;
            }
        } else if self.state.lock().begun.insert(uid.clone()) {
            self.begin(pod, name, uid).await.with_context(|| format!("the start of {name}"))?;
        }
        Ok(())
    }

    async fn begin(&self, pod: &Pod, name: &str, uid: &str) -> Result<()> {
        let container = pod.spec.as_ref().and_then(|spec| spec.containers.first()).context("no container")?;
        let labels = pod.metadata.labels.as_ref().context("no labels")?;
        let revision = labels.get("modelserving.volcano.sh/revision").cloned().unwrap_or_default();
        let at = {
            let mut state = self.state.lock();
            let at = SocketAddr::from((next(state.names.len())?, PORT));
            state.names.insert(at, (name.to_owned(), revision));
            at
        };
        self.objects.bind_pod(name).await?;
        let process = Program::new(name, &self.engine)
            .args(container.args.iter().flatten().map(|word| word.replace("$(POD_IP)", &at.ip().to_string())))
            .args(["--traces", &self.traces.to_string()])
            .start()?;
        self.state.lock().running.insert(uid.to_owned(), process);
        poll::until(&format!("{name} to answer"), START, async || {
            client::get(at, "/health").await.is_ok_and(|reply| reply.status == 200).then_some(())
        })
        .await?;
        let SocketAddr::V4(at) = at else { return Ok(()) };
        self.objects.run_pod(name, *at.ip()).await
    }

    async fn end(&self, name: &str, uid: &str) -> Result<()> {
        let process = self.state.lock().running.remove(uid);
        if let Some(process) = process {
            process.signal(Signal::Term)?;
            process.exit_code(GRACE).await?;
        }
        self.objects.remove_pod(name).await
    }
}

fn next(count: usize) -> Result<Ipv4Addr> {
    let host =
        u8::try_from(usize::from(FIRST) + count).ok().filter(|host| *host <= crate::gateways::sandbox::ADDRESSES);
    Ok(address(host.context("there are no addresses left for pods")?))
}
