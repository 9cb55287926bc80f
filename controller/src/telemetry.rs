//! The log, set up once.

use tracing_subscriber::Layer;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;

/// `--log-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Makes standard error the log of this process. `level` is a level or filter directives, as
/// `info,kthena_controller_manager=debug`.
///
/// # Errors
/// A level that is none, or a log that was set up before.
pub fn install(format: LogFormat, level: &str) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(level)?;
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = match format {
        LogFormat::Text => log.with_ansi(false).boxed(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    };
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(filter).with(log))?;
    Ok(())
}
