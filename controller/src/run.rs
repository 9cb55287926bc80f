//! The map of the process: what is built, bound, started, and how it ends. Only here is spawned.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Parser;
use controller_api::labels;
use controller_api::pod_group::PodGroup;
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use planning::attachment::Settings;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::admin::{self, Admin};
use crate::apply::Cluster;
use crate::args::Args;
use crate::attachment::routes::Routes;
use crate::attachment::servers::Servers;
use crate::attachment::{self, Attachments};
use crate::debug;
use crate::discovery::{self, Known};
use crate::events;
use crate::extension;
use crate::leader_worker_sets::{Adopter, LeaderWorkerSets};
use crate::lease::Candidate;
use crate::limiter::Limiter;
use crate::metrics::Metrics;
use crate::observe::Observer;
use crate::observe::store::Store;
use crate::queue::{Passes, Queue};
use crate::readiness::Readiness;
use crate::reconcile::Reconciler;
use crate::telemetry;
use crate::webhook;

/// How long running passes get to finish after SIGTERM.
const DRAIN: Duration = Duration::from_secs(20);

/// What must be listed before the first pass.
const WATCHED: &[&str] = &["ModelServing", "Pod", "Service", "ControllerRevision", "PodGroup"];

/// The whole process, from the command line to its end. What cannot be started, or ended before it should, is said on
/// standard error.
#[must_use]
pub fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let mut runtime = match std::thread::available_parallelism() {
        Ok(processors) if processors.get() == 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build()?;
    let ended = runtime.block_on(async {
        telemetry::install(args.log_format, args.log_filter()).context("--log-level")?;
        let signals = signals()?;
        Operator::bind(args).await?.serve(signals).await
    });
    // What still runs is a watch: nobody waits for it.
    runtime.shutdown_background();
    ended
}

/// Ends at the first SIGTERM or SIGINT.
fn signals() -> anyhow::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// An operator whose ports are bound and which waits to be served.
pub struct Operator {
    client: Client,
    writer: Client,
    namespace: String,
    identity: String,
    metrics_listener: TcpListener,
    debug_listener: Option<TcpListener>,
    webhook: Option<(TcpListener, webhook::Settings)>,
    extension: Option<(TcpListener, ::extension::translate::Settings)>,
    workers: u16,
    leader_elect: bool,
    serves: bool,
    /// What is attached to the Gateway API, and how.
    attaches: Option<Settings>,
    limiter: Limiter,
}

impl std::fmt::Debug for Operator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Operator").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Operator {
    /// Finds the cluster and binds every port; says where in the first log line.
    ///
    /// # Errors
    /// What is wrong with the flags, the kubeconfig or the ports, and what to change.
    pub async fn bind(args: &Args) -> anyhow::Result<Self> {
        let mut config = config(args).await?;
        let namespace = args.pod_namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let server = config.cluster_url.clone();
        // Writes are tried again as the API server says; whoever watches or elects has a rhythm of its own.
        let writer = Client::try_from(config.clone()).context("the kubeconfig cannot be used")?;
        config.default_retry = false;
        let client = Client::try_from(config).context("the kubeconfig cannot be used")?;
        let identity = format!("{}_{:016x}", args.hostname, SmallRng::from_os_rng().random::<u64>());
        let metrics_listener = bind(args.bind_address, args.metrics_port).await.context("--metrics-port")?;
        let debug_listener = match args.debug_port {
            0 => None,
            port => Some(bind(IpAddr::V4(Ipv4Addr::LOCALHOST), port).await.context("--debug-port")?),
        };
        let webhook = match args.enable_webhook {
            true => Some((bind(args.bind_address, args.port).await.context("--port")?, settings(args, &namespace))),
            false => None,
        };
        let extension = match args.extension_server_port {
            0 => None,
            port => {
                let listener = bind(args.bind_address, port).await.context("--extension-server-port")?;
                Some((listener, ::extension::translate::Settings { endpoints: args.extension_target(&namespace) }))
            }
        };
        let webhook_address = webhook.as_ref().map(|(listener, _)| listener.local_addr()).transpose()?;
        info!(
            metricsAddress = %metrics_listener.local_addr()?,
            webhookAddress = webhook_address.map(tracing::field::display),
            %server,
            %namespace,
            %identity,
            "Listening."
        );
        let (qps, burst) = args.rate();
        Ok(Self {
            client,
            writer,
            namespace,
            identity,
            metrics_listener,
            debug_listener,
            webhook,
            extension,
            workers: args.workers,
            leader_elect: args.leader_elect,
            serves: args.controllers.serving,
            attaches: args.controllers.networking.then(|| args.attachment()),
            limiter: Limiter::new(qps, burst),
        })
    }

    /// Serves until `shutdown` ends, and then until the running passes have ended.
    ///
    /// # Errors
    /// Leadership that was lost, or a part that ended by itself: the process must not live on.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self {
            client,
            writer,
            namespace,
            identity,
            metrics_listener,
            debug_listener,
            webhook,
            extension,
            workers,
            leader_elect,
            serves,
            attaches,
            limiter,
        } = self;
        let (store, queue) = (Arc::<Store>::default(), Arc::<Queue>::default());
        let sets = Arc::<LeaderWorkerSets>::default();
        let attachments = Arc::<Attachments>::default();
        let metrics = Arc::new(Metrics::new(Arc::clone(&store), Arc::clone(&queue), Arc::clone(&attachments)));
        let (own, others_watched) =
            (serves.then_some(WATCHED), attaches.is_some().then_some(attachment::watch::WATCHED));
        let elsewhere = attaches.as_ref().and_then(|settings| settings.picker_namespace.as_ref());
        let elsewhere = elsewhere.map(|_| attachment::watch::WATCHED_ELSEWHERE);
        let wanted: Vec<&'static str> =
            own.into_iter().chain(others_watched).chain(elsewhere).flatten().copied().collect();
        let readiness = Arc::new(Readiness::new(&wanted));
        // Of its own: writes do not wait for it.
        let called = webhook.iter().map(|_| "webhook").chain(extension.iter().map(|_| extension::POOLS));
        let callable = Arc::new(Readiness::new(&called.collect::<Vec<_>>()));
        let (events, recorder) = events::channel(client.clone(), identity.clone(), metrics.events_dropped.clone());

        let mut others = Tasks::new();
        let admin = Admin {
            metrics: Arc::clone(&metrics),
            readiness: [Arc::clone(&readiness), Arc::clone(&callable)],
            queue: Arc::clone(&queue),
        };
        others.spawn("metrics", async { Ok(axum::serve(metrics_listener, admin::router(admin)).await?) });
        others.spawn("events", endless(recorder.run()));
        if let Some(listener) = debug_listener {
            let router = debug::router(Arc::clone(&store));
            others.spawn("debug", async { Ok(axum::serve(listener, router).await?) });
        }
        let observer = Observer {
            client: client.clone(),
            store: Arc::clone(&store),
            queue: Arc::clone(&queue),
            readiness: Arc::clone(&readiness),
            sets: Arc::clone(&sets),
            attachments: Arc::clone(&attachments),
            metrics: Arc::clone(&metrics),
        };
        if serves {
            watch_all(&mut others, &observer);
        }
        if let Some(settings) = &attaches {
            watch_attachments(&mut others, &observer, settings);
        }
        let (mut doors, shut) = (Tasks::new(), CancellationToken::new());
        if let Some((listener, settings)) = extension {
            let observer = Observer { readiness: Arc::clone(&callable), ..observer };
            doors.spawn("extension server", extension::serve(listener, settings, observer, shut.clone()));
        }
        if let Some((listener, settings)) = webhook {
            let ready = move || callable.reached("webhook");
            doors.spawn("webhook", webhook::serve(listener, settings, client.clone(), ready, shut.clone()));
        }
        let mut candidate = leader_elect.then(|| Candidate::new(client, &namespace, identity));
        let fence = candidate.as_ref().map(Candidate::fence).unwrap_or_default();
        let (limiter, counted) = (Arc::new(limiter), Arc::clone(&metrics));
        let cluster = Cluster::new(writer, Arc::clone(&store), limiter, counted, events.clone(), fence);
        let adopter =
            Adopter::new(Arc::clone(&sets), Arc::clone(&store), cluster.clone(), Arc::clone(&queue), events.clone());
        let attachers = attaches.map(|settings| {
            let servers = Servers::new(Arc::clone(&attachments), settings, cluster.clone(), events.clone());
            let routes = Routes::new(Arc::clone(&attachments), cluster.clone(), events.clone());
            (Arc::new(servers), Arc::new(routes))
        });
        let reconciler = Arc::new(Reconciler::new(store, cluster, events, Arc::clone(&metrics), Arc::clone(&sets)));

        let mut shutdown = std::pin::pin!(shutdown);
        let lead = async {
            readiness.all().await;
            info!("Everything is listed.");
            if let Some(candidate) = &mut candidate {
                candidate.elected().await;
            }
        };
        tokio::select! {
            () = &mut shutdown => return close(shut, doors).await,
            error = others.ended() => return Err(error),
            error = doors.ended() => return Err(error),
            () = lead => {}
        }
        info!("This replica leads.");
        metrics.set_leads(true);

        let stop = CancellationToken::new();
        let mut passes = Tasks::new();
        // What it has to do is little.
        passes.spawn("worker of LeaderWorkerSets", work(Arc::clone(&sets.queue), Arc::new(adopter), stop.clone()));
        for _ in 0..workers {
            passes.spawn("worker", work(Arc::clone(&queue), Arc::clone(&reconciler), stop.clone()));
            if let Some((servers, routes)) = &attachers {
                let queue = Arc::clone(&attachments.server_queue);
                passes.spawn("worker of ModelServers", work(queue, Arc::clone(servers), stop.clone()));
                let queue = Arc::clone(&attachments.route_queue);
                passes.spawn("worker of ModelRoutes", work(queue, Arc::clone(routes), stop.clone()));
            }
        }
        tokio::select! {
            () = &mut shutdown => {}
            error = others.ended() => return Err(error),
            error = doors.ended() => return Err(error),
            error = passes.ended() => return Err(error),
            error = lost(&mut candidate) => return Err(error),
        }
        info!("Stopping: running passes end first.");
        stop.cancel();
        tokio::select! {
            drained = tokio::time::timeout(DRAIN, passes.all_ended()) => match drained {
                Ok(result) => result?,
                Err(_) => warn!("Passes were cut off; the next leader goes on where they ended."),
            },
            error = lost(&mut candidate) => return Err(error),
        }
        drop(passes);
        if let Some(candidate) = candidate {
            candidate.release().await;
        }
        close(shut, doors).await
    }
}

/// Closes what answers others, when all else has ended.
async fn close(shut: CancellationToken, mut doors: Tasks) -> anyhow::Result<()> {
    shut.cancel();
    match tokio::time::timeout(DRAIN, doors.all_ended()).await {
        Ok(ended) => ended,
        Err(_) => Ok(()),
    }
}

/// Starts every watch.
fn watch_all(tasks: &mut Tasks, observer: &Observer) {
    tasks.spawn("watch ModelServings", endless(observer.clone().servings()));
    tasks.spawn("watch pods", endless(observer.clone().children::<Pod>("Pod", labels::GROUP_NAME)));
    tasks.spawn("watch services", endless(observer.clone().children::<Service>("Service", labels::GROUP_NAME)));
    let revisions = observer.clone().children::<ControllerRevision>("ControllerRevision", labels::NAME);
    tasks.spawn("watch revisions", endless(revisions));
    let (sender, receiver) = watch::channel(Known::Nothing);
    tasks.spawn("find gangs", endless(discovery::follow(observer.client.clone(), discovery::POD_GROUPS, sender)));
    tasks.spawn("watch gangs", endless(gangs(observer.clone(), receiver)));
    let (sender, receiver) = watch::channel(Known::Nothing);
    let finder = discovery::follow(observer.client.clone(), discovery::LEADER_WORKER_SETS, sender);
    tasks.spawn("find LeaderWorkerSets", endless(finder));
    tasks.spawn("watch LeaderWorkerSets", endless(leader_worker_sets(observer.clone(), receiver)));
}

/// Starts every watch of what is attached to the Gateway API.
fn watch_attachments(tasks: &mut Tasks, observer: &Observer, settings: &Settings) {
    tasks.spawn("watch ModelServers", endless(observer.clone().model_servers()));
    tasks.spawn("watch ModelRoutes", endless(observer.clone().model_routes()));
    tasks.spawn("watch endpoints", endless(observer.clone().endpoints()));
    tasks.spawn("watch pickers", endless(observer.clone().pickers(settings.clone())));
    if let Some(namespace) = settings.picker_namespace.clone() {
        let watch = observer.clone().picker_endpoints(namespace, settings.picker_service.clone());
        tasks.spawn("watch the picker's endpoints", endless(watch));
        tasks.spawn("watch pools' endpoints", endless(observer.clone().pool_endpoints()));
    }
    tasks.spawn("watch pools' services", endless(observer.clone().pool_services()));
    let (sender, receiver) = watch::channel(Known::Nothing);
    let finder = discovery::follow(observer.client.clone(), discovery::INFERENCE_POOLS, sender);
    tasks.spawn("find InferencePools", endless(finder));
    tasks.spawn("watch InferencePools", endless(observer.clone().inference_pools(receiver)));
    let (sender, receiver) = watch::channel(Known::Nothing);
    let finder = discovery::follow(observer.client.clone(), discovery::HTTP_ROUTES, sender);
    tasks.spawn("find HTTPRoutes", endless(finder));
    tasks.spawn("watch HTTPRoutes", endless(observer.clone().http_routes(receiver)));
}

/// Watches gangs while the cluster has them.
async fn gangs(observer: Observer, known: watch::Receiver<Known>) {
    let observer = &observer;
    let watching = |now: Known| async move {
        if observer.store.set_gangs(now.gangs()) {
            let keys = observer.store.servings().keys();
            observer.queue.wake(keys);
        }
        match now {
            Known::Nothing => {}
            Known::Absent => {
                observer.queue.wake(observer.store.forget::<PodGroup>());
                observer.readiness.reached("PodGroup");
            }
            Known::Served { .. } => observer.clone().pod_groups().await,
        }
    };
    discovery::whenever(known, watching).await;
}

/// Watches LeaderWorkerSets while the cluster has them.
async fn leader_worker_sets(observer: Observer, known: watch::Receiver<Known>) {
    let observer = &observer;
    let watching = |now| async move {
        match now {
            Known::Nothing => {}
            Known::Absent => observer.sets.forget(),
            Known::Served { newer } => {
                observer.sets.set_generation(newer);
                observer.clone().leader_worker_sets().await;
            }
        }
    };
    discovery::whenever(known, watching).await;
}

/// One worker.
async fn work(queue: Arc<Queue>, passes: Arc<impl Passes>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut chance = SmallRng::from_os_rng();
    loop {
        let key = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            key = queue.next() => key,
        };
        let outcome = passes.reconcile(&key).await;
        queue.done(&key, outcome, chance.random());
    }
}

/// Ends when leadership is lost.
async fn lost(candidate: &mut Option<Candidate>) -> anyhow::Error {
    match candidate {
        Some(candidate) => candidate.hold().await.into(),
        None => std::future::pending().await,
    }
}

/// What the flags say of the webhook.
fn settings(args: &Args, namespace: &str) -> webhook::Settings {
    webhook::Settings {
        timeout: Duration::from_secs(args.webhook_timeout),
        certificate_file: args.tls_cert_file.clone(),
        key_file: args.tls_private_key_file.clone(),
        namespace: namespace.to_owned(),
        secret: args.cert_secret_name.clone(),
        service: args.service_name.clone(),
    }
}

/// The cluster that the flags name.
async fn config(args: &Args) -> anyhow::Result<Config> {
    let mut config = if args.kubeconfig.is_empty() {
        Config::infer().await.context("no cluster is known: give --kubeconfig FILE")?
    } else {
        let kubeconfig = Kubeconfig::read_from(&args.kubeconfig).context("--kubeconfig")?;
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.context("--kubeconfig")?
    };
    if !args.master.is_empty() {
        config.cluster_url = args.master.parse().context("--master is not a URL, as https://10.0.0.1:6443")?;
    }
    if config.cluster_url.host().is_none() {
        bail!("--master has no host: write it as https://10.0.0.1:6443");
    }
    Ok(config)
}

/// Binds a TCP port. `[::]` takes IPv4 too, and becomes `0.0.0.0` on a host without IPv6.
async fn bind(address: IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    let bound = match TcpListener::bind((address, port)).await {
        Err(error) if address == Ipv6Addr::UNSPECIFIED && error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        bound => bound,
    };
    bound.with_context(|| format!("cannot listen on port {port} of {address}"))
}

/// A task that has nothing to return.
async fn endless(work: impl Future<Output = ()>) -> anyhow::Result<()> {
    work.await;
    Ok(())
}

/// Tasks with names; dropping them ends them.
struct Tasks(JoinSet<(&'static str, anyhow::Result<()>)>);

impl Tasks {
    fn new() -> Self {
        Self(JoinSet::new())
    }

    fn spawn(&mut self, name: &'static str, work: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
        self.0.spawn(async move { (name, work.await) });
    }

    /// Waits for the first task that ends, which none should.
    async fn ended(&mut self) -> anyhow::Error {
        match self.0.join_next().await {
            None => std::future::pending().await,
            Some(Err(error)) => anyhow!(error).context("a task died"),
            Some(Ok((name, Ok(())))) => anyhow!("the task `{name}` ended"),
            Some(Ok((name, Err(error)))) => error.context(format!("the task `{name}` failed")),
        }
    }

    /// Waits for all tasks.
    async fn all_ended(&mut self) -> anyhow::Result<()> {
        while let Some(ended) = self.0.join_next().await {
            let (name, result) = ended?;
            result.with_context(|| format!("the task `{name}` failed"))?;
        }
        Ok(())
    }
}
