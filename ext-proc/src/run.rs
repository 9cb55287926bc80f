//! The map of the process: what is built, bound, started, and how it ends. Only here is spawned.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::Parser;
use scheduling::{PoolName, Profile};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tracing::{info, warn};

use crate::access_log::AccessLog;
use crate::admin;
use crate::args::{Args, PoolPort, TlsMode};
use crate::cluster::Cluster;
use crate::debug;
use crate::declarations::Declarations;
use crate::files::ConfigDir;
use crate::fleet::Fleet;
use crate::health::{self, Readiness};
use crate::kv_events::{Sources, Subscriber};
use crate::listen::{bind, connections};
use crate::metrics::{Metrics, ReloadSource, SelfCounters};
use crate::observer::Observer;
use crate::pools::AuthorityLayer;
pub use crate::ports::Addresses;
use crate::ports::Listeners;
use crate::profile_file::ProfileFile;
use crate::recent::Recent;
use crate::scrape::Scraper;
use crate::service::{Service, Settings};
use crate::telemetry::Telemetry;
use crate::tls::Certificate;
use crate::tokens::Tokenizers;
use crate::trace::Tracing;
use crate::xds::Endpoints;

/// How long new exchanges are still taken after readiness was given up, so that data planes and
/// kubelets see it first.
const GRACE: Duration = Duration::from_secs(1);

/// How long the end may wait for the last lines of the access log.
const FLUSH: Duration = Duration::from_secs(2);

/// Flow control for a stream that carries a large body, and for a connection that carries many.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// Each exchange is a stream as long as its request: a data plane has thousands on a connection.
const STREAMS: u32 = 1 << 16;

/// Clients that go away reset streams that were not accepted yet; the library's 20 of them would
/// end the connection of everybody else.
const PENDING_RESETS: usize = 4096;

/// The whole process, from the command line to its end. What cannot be started, or ended before
/// it should, is said on standard error.
#[must_use]
pub fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    // With one processor the worker pool brings no speed, only switches: measured, 8 % of Envoy's and the
    // picker's time together.
    let mut runtime = match std::thread::available_parallelism() {
        Ok(processors) if processors.get() == 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = runtime.enable_all().build()?;
    runtime.block_on(async {
        let counters = SelfCounters::default();
        let mut telemetry = Telemetry::from_environment(args.log_format, &args.log_level, &counters);
        telemetry.install()?;
        let dropped = counters.access_log_dropped.clone();
        let access_log = telemetry.access_log_from_environment(dropped).context("ACCESS_LOG_OUTPUT")?;
        let signals = signals()?;
        let instruments = Instruments { counters, access_log: access_log.clone(), tracing: telemetry.tracing() };
        let picker = Picker::bind(args, instruments).await;
        telemetry.announce();
        let served = picker?.serve(signals).await;
        if let Some(access_log) = access_log
            && !tokio::task::spawn_blocking(move || access_log.flush(FLUSH)).await?
        {
            warn!("The last lines of the access log were not written.");
        }
        tokio::task::spawn_blocking(|| telemetry.shutdown()).await?;
        served
    })
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

/// Where a picker tells what it does, besides its log. The default tells nobody but `/metrics` and
/// the debug port.
#[derive(Debug, Default)]
pub struct Instruments {
    /// What telemetry itself counts.
    pub counters: SelfCounters,
    /// One line for each exchange.
    pub access_log: Option<AccessLog>,
    /// What makes spans.
    pub tracing: Option<Tracing>,
}

/// A picker whose ports are bound and which waits to be served.
#[derive(Debug)]
pub struct Picker {
    addresses: Addresses,
    listeners: Listeners,
    certificate: Option<Certificate>,
    tls: TlsMode,
    source: Source,
    profile_file: Option<ProfileFile>,
    fleet: Arc<Fleet>,
    metrics: Arc<Metrics>,
    instruments: Instruments,
    settings: Settings,
    kv_sources: Sources,
    readiness: Readiness,
    drain_timeout: Duration,
}

/// Where the fleet comes from.
#[derive(Debug)]
enum Source {
    Directory(ConfigDir),
    Cluster(Box<Cluster>),
}

impl Source {
    fn declarations(&self) -> Arc<Declarations> {
        match self {
            Self::Directory(directory) => directory.declarations(),
            Self::Cluster(cluster) => cluster.declarations(),
        }
    }
}

impl Picker {
    /// Builds everything and binds every port; says where in the first log line.
    ///
    /// # Errors
    /// What is wrong with the flags, the files or the ports, and what to change.
    pub async fn bind(args: Args, instruments: Instruments) -> anyhow::Result<Self> {
        let prefill_timeout = args.prefill_timeout().context("--prefill-timeout")?;
        let Args {
            config_dir,
            kubeconfig,
            kube_api_qps,
            kube_api_burst,
            pool_name,
            pool_namespace,
            pool_port,
            bind_address,
            grpc_port,
            model_name_port,
            grpc_health_port,
            metrics_port,
            debug_port,
            tls,
            cert_path,
            scheduler_config,
            max_body_size,
            exchange_timeout,
            prefill_timeout: _,
            drain_timeout,
            body_mode_fallback,
            destination_list,
            tokenizer_dir,
            kv_events_port,
            kv_events_bind,
            kv_replay_port,
            kv_events_topic,
            kv_events_ranks,
            log_format: _,
            log_level: _,
        } = args;
        let source = match (&config_dir, &kubeconfig) {
            (Some(_), Some(_)) => bail!("--config-dir and --kubeconfig are both given: the fleet has one source"),
            (Some(directory), None) => Source::Directory(ConfigDir::new(directory).context("--config-dir")?),
            (None, kubeconfig) => {
                // A picker of one pool needs the rights for that pool's namespace only.
                let namespace = pool_name.is_some().then_some(pool_namespace.as_str());
                let cluster = Cluster::connect(kubeconfig.as_deref(), namespace, kube_api_qps, kube_api_burst);
                Source::Cluster(Box::new(cluster.await?))
            }
        };
        let kv_sources = Sources {
            port: kv_events_port,
            replay_port: Some(kv_replay_port).filter(|port| *port > 0),
            topic: kv_events_topic.into(),
            ranks: kv_events_ranks,
        };
        kv_sources.check()?;
        let (profile, profile_file) = ProfileFile::open(scheduler_config).context("--scheduler-config")?;
        let certificate = match (tls, cert_path) {
            (TlsMode::Off, _) => None,
            (_, Some(directory)) => Some(Certificate::from_files(&directory).context("--cert-path")?),
            (_, None) => Some(Certificate::self_signed()?),
        };
        let mut grpc = vec![(None, bind(bind_address, grpc_port).await.context("--grpc-port")?)];
        for PoolPort { pool, port } in pool_port {
            grpc.push((Some(pool), bind(bind_address, port).await.context("--pool-port")?));
        }
        let model_name = match model_name_port {
            Some(port) => Some(bind(bind_address, port).await.context("--model-name-port")?),
            None => None,
        };
        let listeners = Listeners {
            grpc,
            model_name,
            grpc_health: bind(bind_address, grpc_health_port).await.context("--grpc-health-port")?,
            metrics: bind(bind_address, metrics_port).await.context("--metrics-port")?,
            debug: bind(IpAddr::V4(Ipv4Addr::LOCALHOST), debug_port).await.context("--debug-port")?,
            kv_events: match kv_events_bind {
                Some(bind) => Some(bind.listen(kv_events_ranks).await.context("--kv-events-bind")?),
                None => None,
            },
        };
        let addresses = listeners.addresses()?;
        addresses.log();
        let fleet = Arc::new(Fleet::new(profile));
        let metrics = Arc::new(Metrics::new(Arc::clone(&fleet), &instruments.counters));
        let tokenizers =
            Tokenizers::open(tokenizer_dir.as_deref(), Arc::clone(&metrics.tokens)).context("--tokenizer-dir")?;
        let settings = Settings {
            tokenizers: Some(Arc::new(tokenizers)),
            body_mode_fallback: body_mode_fallback.into(),
            max_body_size: max_body_size.0,
            exchange_timeout,
            prefill_timeout,
            destinations: usize::from(destination_list),
            pool: pool_name.map(|name| PoolName::new(&pool_namespace, &name)),
            ..Settings::default()
        };
        Ok(Self {
            addresses,
            listeners,
            certificate,
            tls,
            source,
            profile_file,
            fleet,
            metrics,
            instruments,
            settings,
            kv_sources,
            readiness: Readiness::default(),
            drain_timeout,
        })
    }

    /// Where the picker listens.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Serves until `shutdown` ends, and then until the running exchanges have ended or
    /// `--drain-timeout` is over.
    ///
    /// # Errors
    /// A part that ended by itself: the process must not live on without it.
    pub async fn serve(self, shutdown: impl Future<Output = ()>) -> anyhow::Result<()> {
        let Self {
            addresses: _,
            listeners:
                Listeners {
                    grpc,
                    model_name,
                    grpc_health,
                    metrics: metrics_listener,
                    debug: debug_listener,
                    kv_events: callers,
                },
            certificate,
            tls,
            source,
            profile_file,
            fleet,
            metrics,
            instruments: Instruments { counters: _, access_log, tracing },
            settings,
            kv_sources,
            readiness,
            drain_timeout,
        } = self;
        let stop = CancellationToken::new();
        let recent = Arc::new(Recent::default());
        let observer = Observer::new(Arc::clone(&metrics), Arc::clone(&recent), access_log, tracing);
        let tokenizers = settings.tokenizers.clone();
        let endpoints =
            Endpoints::new(Arc::clone(&fleet), settings.pool.clone(), Arc::clone(&metrics.xds), stop.clone());
        let service = Service::new(settings, Arc::clone(&fleet), observer);

        let mut exchanges = Tasks::new();
        for (pool, listener) in grpc {
            let service = pool.map_or_else(|| service.clone(), |pool| service.bound_to(pool));
            let routes = Routes::new(service.into_server())
                .add_service(health::server(readiness.clone()))
                .add_service(endpoints.clone().into_server());
            let incoming = connections(listener, certificate.clone(), tls);
            exchanges.spawn("ext_proc", serve_grpc(routes, incoming, stop.clone().cancelled_owned()));
        }
        if let Some(listener) = model_name {
            let names = service.model_names(Arc::clone(&metrics.model_names));
            let routes = Routes::new(names.into_server()).add_service(health::server(readiness.clone()));
            let incoming = connections(listener, certificate.clone(), tls);
            exchanges.spawn("model names", serve_grpc(routes, incoming, stop.clone().cancelled_owned()));
        }

        // What follows lives until the process ends: it must answer while exchanges drain.
        let mut others = Tasks::new();
        let either = if certificate.is_some() { TlsMode::Auto } else { TlsMode::Off };
        let incoming = connections(grpc_health, certificate.clone(), either);
        let routes = Routes::new(health::server(readiness.clone()));
        others.spawn("gRPC health", serve_grpc(routes, incoming, std::future::pending()));
        let ready = readiness.clone();
        let ready = move || if ready.is_ready() { Ok(()) } else { Err(ready.reason()) };
        let admin = admin::router(Arc::clone(&metrics), Arc::new(ready));
        others.spawn("metrics", async { Ok(axum::serve(metrics_listener, admin).await?) });
        let (declarations, kv_events) = (source.declarations(), Arc::clone(&metrics.kv_events));
        let debug = debug::router(Arc::clone(&fleet), recent, declarations, kv_events, tokenizers.clone());
        others.spawn("debug", async { Ok(axum::serve(debug_listener, debug).await?) });
        let (holder, held_fleet) = (service.holder(), Arc::clone(&fleet));
        others.spawn("held load", async move {
            holder.run(&held_fleet, CancellationToken::new()).await;
            Ok(())
        });
        let alongside = service.alongside();
        others.spawn("prefills beside decode", async move {
            alongside.run().await;
            Ok(())
        });
        let failed = Arc::clone(&metrics);
        let scraper = Scraper::new(Arc::clone(&fleet), move |address| failed.scrape_failed(address));
        others.spawn("scraper", endless(scraper.run()));
        let mut subscriber =
            Subscriber::new(Arc::clone(&fleet), kv_sources, Arc::clone(&metrics.kv_events), Profile::uses_kv_events);
        if let Some(listeners) = callers {
            subscriber = subscriber.called_at(listeners);
        }
        others.spawn("KV events", endless(subscriber.run()));
        let failed = |source| {
            let metrics = Arc::clone(&metrics);
            move || metrics.reload_failed(source)
        };
        match source {
            Source::Directory(directory) => {
                let failed = Arc::new(failed(ReloadSource::ConfigDir));
                let follow = directory.follow(Arc::clone(&fleet), readiness.clone(), failed);
                others.spawn("configuration", async { Ok(follow.await?) });
            }
            Source::Cluster(cluster) => {
                let failed = Arc::new(failed(ReloadSource::Cluster));
                others.spawn("cluster", endless(cluster.follow(Arc::clone(&fleet), readiness.clone(), failed)));
            }
        }
        if let Some(file) = profile_file {
            let follow = file.follow(Arc::clone(&fleet), failed(ReloadSource::SchedulerConfig));
            others.spawn("scheduler configuration", endless(follow));
        }
        if let Some(tokenizers) = &tokenizers {
            let failed = failed(ReloadSource::Tokenizers);
            others.spawn("tokenizers", endless(tokenizers.follow(failed)));
        }
        if let Some(certificate) = certificate {
            let failed = failed(ReloadSource::Certificate);
            others.spawn("certificate", endless(certificate.follow(move |_| failed())));
        }

        tokio::select! {
            () = shutdown => {}
            error = exchanges.ended() => return Err(error),
            error = others.ended() => return Err(error),
        }
        readiness.drain();
        info!("Draining: the picker is no longer ready.");
        tokio::time::sleep(GRACE.min(drain_timeout)).await;
        stop.cancel();
        tokio::select! {
            drained = tokio::time::timeout(drain_timeout, exchanges.all_ended()) => match drained {
                Ok(result) => {
                    result?;
                    info!("Drained: every exchange has ended.");
                }
                Err(_) => warn!(?drain_timeout, "The drain timed out: exchanges were cut off."),
            },
            error = others.ended() => return Err(error),
        }
        Ok(())
    }
}

/// Serves until `stop` ends and the streams that were open then have ended.
async fn serve_grpc(
    routes: Routes,
    incoming: impl futures_util::Stream<Item = std::io::Result<crate::listen::Connection>>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let mut server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .layer(AuthorityLayer);
    Ok(server.add_routes(routes).serve_with_incoming_shutdown(incoming, stop).await?)
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
