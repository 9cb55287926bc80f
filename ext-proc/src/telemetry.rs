//! Logs and traces are set up here, once, from flags and the usual `OTEL_*` variables.
//!
//! A collector that is slow, dead or wrong costs spans, which are counted, and never a request's
//! time, a failed start, or more than [`Telemetry::shutdown`]'s limit at the end.

pub mod settings;

mod collector;
mod exporter;

use std::io::{self, Write};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler as SdkSampler, SdkTracerProvider, SpanExporter,
};
use prometheus_client::metrics::counter::Counter;
use tokio::runtime::Handle;
use tracing::{Dispatch, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt, LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};

use crate::access_log::{self, AccessLog};
use crate::metrics::SelfCounters;
use crate::trace::{TARGET, Tracing};
use collector::CollectorError;
use exporter::{Bounded, Console, Counted};
use settings::{Protocol, Sampler, Settings, Traces};

/// How long the end may wait for the last spans.
pub const SHUTDOWN_LIMIT: Duration = Duration::from_secs(2);

/// `--log-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What carries logs and traces.
#[derive(Debug)]
pub struct Telemetry {
    dispatch: Dispatch,
    provider: Option<SdkTracerProvider>,
    tracing: Option<Tracing>,
    notes: Vec<Note>,
}

/// What is to be said in the log, later.
#[derive(Debug)]
enum Note {
    Info(String),
    Warning(String),
}

impl Telemetry {
    /// Builds from this process's environment; nothing is installed or logged yet. Needs a
    /// runtime.
    ///
    /// `log_level` is a level or `tracing`'s filter directives (`info,kthena_ext_proc=debug`).
    #[must_use]
    pub fn from_environment(format: LogFormat, log_level: &str, counters: &SelfCounters) -> Self {
        let settings = Settings::read(&|name| std::env::var(name).ok());
        Self::new(&settings, format, log_level, counters, std::io::stderr)
    }

    /// Builds from settings; the log goes to `writer`. Tracing is off when the exporter cannot be
    /// built: [`Telemetry::announce`] says why.
    #[must_use]
    pub fn new<W, M>(
        settings: &Settings,
        format: LogFormat,
        log_level: &str,
        counters: &SelfCounters,
        writer: M,
    ) -> Self
    where
        W: Write + 'static,
        M: Fn() -> W + Send + Sync + 'static,
    {
        let (filter, bad_level) = match EnvFilter::try_new(log_level) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new("info"), Some(error)),
        };
        let (provider, failure) = match provider(settings, counters) {
            Ok(provider) => (provider, None),
            Err(error) => (None, Some(error)),
        };
        let tracer = provider.as_ref().map(|provider| provider.tracer("kthena"));
        let spans = tracer.clone().map(|tracer| {
            tracing_opentelemetry::layer()
                .with_tracer(tracer)
                .with_location(false)
                .with_threads(false)
                .with_target(false)
                .with_tracked_inactivity(false)
                .with_context_activation(false)
                .with_filter(filter_fn(for_trace).with_max_level_hint(LevelFilter::INFO))
        });
        let log = tracing_subscriber::fmt::layer().with_writer(writer);
        let log: Box<dyn Layer<Registry> + Send + Sync> = match format {
            LogFormat::Text => log.with_ansi(false).boxed(),
            LogFormat::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
        };
        // Our spans are for the trace; formatting them for a log that does not show them costs.
        let not_ours = filter_fn(|metadata| metadata.target() != TARGET).with_max_level_hint(LevelFilter::TRACE);
        let log = Registry::default().with(log.with_filter(filter.and(not_ours)));
        // Not `with(None)`: an absent layer takes every span of every library, and the HTTP/2 library
        // opens several for each message.
        let dispatch = match spans {
            Some(spans) => Dispatch::new(log.with(spans)),
            None => Dispatch::new(log),
        };
        let mut notes: Vec<Note> = settings.warnings.iter().cloned().map(Note::Warning).collect();
        if let Some(error) = bad_level {
            notes.push(Note::Warning(format!("the log level `{log_level}` is ignored, info is used: {error}")));
        }
        match (&settings.traces, failure) {
            (_, Some(error)) => {
                notes.push(Note::Warning(format!("tracing is off, the exporter cannot be built: {error}")));
            }
            (Traces::Otlp { endpoint, .. }, None) => {
                notes.push(Note::Info(format!("tracing is on, to {endpoint} as {}", settings.service_name)));
            }
            (Traces::Console, None) => notes.push(Note::Info("tracing is on, to standard output".to_owned())),
            (Traces::Off, None) => {}
        }
        let tracing = tracer.map(|tracer| Tracing::new(tracer, settings.propagate));
        Self { dispatch, provider, tracing, notes }
    }

    /// Logs what came of the settings. Not at once: the first line of the log says where the picker
    /// listens.
    pub fn announce(&mut self) {
        tracing::dispatcher::with_default(&self.dispatch, || {
            for note in self.notes.drain(..) {
                match note {
                    Note::Info(what) => tracing::info!(%what, "Telemetry is set up."),
                    Note::Warning(warning) => tracing::warn!(%warning, "A telemetry setting is ignored."),
                }
            }
        });
    }

    /// Starts the access log as this process's `ACCESS_LOG_*` variables say; `None` when it is switched
    /// off.
    ///
    /// # Errors
    /// As [`AccessLog::start`].
    pub fn access_log_from_environment(&mut self, dropped: Counter) -> io::Result<Option<AccessLog>> {
        let mut warnings = Vec::new();
        let settings = access_log::Settings::read(&|name| std::env::var(name).ok(), &mut warnings);
        self.notes.extend(warnings.into_iter().map(Note::Warning));
        AccessLog::start(&settings, dropped)
    }

    /// Makes this the process's log and trace. Only the first of a process can be.
    ///
    /// # Errors
    /// When another was installed before.
    pub fn install(&self) -> Result<(), tracing::dispatcher::SetGlobalDefaultError> {
        tracing::dispatcher::set_global_default(self.dispatch.clone())
    }

    /// The subscriber, for a scope instead of the process.
    #[must_use]
    pub fn dispatch(&self) -> &Dispatch {
        &self.dispatch
    }

    /// What makes spans; `None` when tracing is off.
    #[must_use]
    pub fn tracing(&self) -> Option<Tracing> {
        self.tracing.clone()
    }

    /// Sends the last spans, for at most [`SHUTDOWN_LIMIT`]. Blocks, and needs the runtime's other threads.
    pub fn shutdown(self) {
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown_with_timeout(SHUTDOWN_LIMIT)
        {
            tracing::warn!(%error, "The last spans were not exported.");
        }
    }
}

/// What the trace takes: our spans, and what our own code logs within them.
fn for_trace(metadata: &Metadata<'_>) -> bool {
    metadata.target() == TARGET
        || metadata.is_event()
            && *metadata.level() <= tracing::Level::INFO
            && metadata.target().starts_with("kthena_ext_proc")
}

fn provider(settings: &Settings, counters: &SelfCounters) -> Result<Option<SdkTracerProvider>, CollectorError> {
    Ok(match &settings.traces {
        Traces::Off => None,
        Traces::Console => Some(build(settings, counters, Console)),
        Traces::Otlp { protocol: Protocol::Grpc, endpoint, timeout, tls } => {
            Some(build(settings, counters, collector::grpc(endpoint, *timeout, tls)?))
        }
        Traces::Otlp { protocol: Protocol::Http, endpoint, timeout, tls } => {
            Some(build(settings, counters, collector::http(endpoint, *timeout, tls)?))
        }
    })
}

fn build<E: SpanExporter + 'static>(settings: &Settings, counters: &SelfCounters, inner: E) -> SdkTracerProvider {
    let exporter = Bounded {
        inner,
        runtime: Handle::current(),
        timeout: settings.batch.export_timeout,
        counters: counters.clone(),
        failing: AtomicBool::new(false),
    };
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(settings.batch.queue)
        .with_max_export_batch_size(settings.batch.size)
        .with_scheduled_delay(settings.batch.delay)
        .build();
    let inner = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    SdkTracerProvider::builder()
        .with_span_processor(Counted { inner, counters: counters.clone() })
        .with_sampler(sampler(settings.sampler))
        .with_resource(resource(settings))
        .build()
}

fn sampler(sampler: Sampler) -> SdkSampler {
    let parent_based = |root| SdkSampler::ParentBased(Box::new(root));
    match sampler {
        Sampler::AlwaysOn => SdkSampler::AlwaysOn,
        Sampler::AlwaysOff => SdkSampler::AlwaysOff,
        Sampler::Ratio(ratio) => SdkSampler::TraceIdRatioBased(ratio),
        Sampler::ParentBasedAlwaysOn => parent_based(SdkSampler::AlwaysOn),
        Sampler::ParentBasedAlwaysOff => parent_based(SdkSampler::AlwaysOff),
        Sampler::ParentBasedRatio(ratio) => parent_based(SdkSampler::TraceIdRatioBased(ratio)),
    }
}

fn resource(settings: &Settings) -> Resource {
    let instance = format!("{:032x}", rand::random::<u128>());
    let ours =
        [KeyValue::new("service.version", env!("CARGO_PKG_VERSION")), KeyValue::new("service.instance.id", instance)];
    let given = settings.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    // Later ones win.
    Resource::builder()
        .with_attributes(ours)
        .with_attributes(given)
        .with_service_name(settings.service_name.clone())
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_tracing_no_span_of_a_library_is_made() {
        let settings = Settings::read(&|_| None);
        let telemetry = Telemetry::new(&settings, LogFormat::Text, "info", &SelfCounters::default(), std::io::sink);
        tracing::dispatcher::with_default(telemetry.dispatch(), || {
            assert!(tracing::trace_span!(target: "h2::proto", "poll").is_disabled());
            assert!(tracing::debug_span!("ours").is_disabled());
            assert!(!tracing::info_span!("for the log").is_disabled());
        });
    }
}
