//! The command line. Every flag is also an environment variable, `KTHENA_` and its name.
//!
//! Values are parsed into types that cannot be wrong, so that nothing inward checks them again.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use scheduling::PoolName;

use crate::exchange::BodySend;
use crate::kv_events::Bind;
use crate::telemetry::LogFormat;

/// The endpoint picker: Envoy asks over `ext_proc`, it answers which endpoint serves a request.
#[derive(Clone, Debug, Parser)]
#[command(name = "kthena-ext-proc", version, max_term_width = 100)]
pub struct Args {
    /// Read pods, pools, ModelServers and ModelRoutes from the files of this directory, and again when they change
    #[arg(long, env = "KTHENA_CONFIG_DIR", value_name = "DIR", help_heading = "Fleet")]
    pub config_dir: Option<PathBuf>,
    /// Watch the cluster of this kubeconfig; without it and --config-dir, the cluster around this pod
    #[arg(long, env = "KTHENA_KUBECONFIG", value_name = "FILE", help_heading = "Fleet")]
    pub kubeconfig: Option<PathBuf>,
    /// Requests per second to the Kubernetes API; 0 is the client's default
    #[arg(long, env = "KTHENA_KUBE_API_QPS", value_name = "N", default_value_t = 0.0, value_parser = parse_rate, help_heading = "Fleet")]
    pub kube_api_qps: f32,
    /// Requests to the Kubernetes API in one burst; 0 is the client's default
    #[arg(long, env = "KTHENA_KUBE_API_BURST", value_name = "N", default_value_t = 0, help_heading = "Fleet")]
    pub kube_api_burst: u32,
    /// Serve this pool only, whatever the data plane says
    #[arg(long, env = "KTHENA_POOL_NAME", value_name = "NAME", help_heading = "Fleet")]
    pub pool_name: Option<String>,
    /// The namespace of --pool-name
    #[arg(
        long,
        env = "KTHENA_POOL_NAMESPACE",
        value_name = "NAMESPACE",
        default_value = "default",
        help_heading = "Fleet"
    )]
    pub pool_namespace: String,
    /// One more ext_proc port, for one pool, as `default/llama=9012`; repeatable
    #[arg(long, env = "KTHENA_POOL_PORT", value_name = "NS/NAME=PORT", value_delimiter = ',', help_heading = "Fleet")]
    pub pool_port: Vec<PoolPort>,

    /// Where all ports but the debug port are bound; `[::]` takes IPv4 too
    #[arg(long, env = "KTHENA_BIND_ADDRESS", value_name = "IP", default_value = "[::]", value_parser = parse_address, help_heading = "Ports (0 is chosen by the system)")]
    pub bind_address: IpAddr,
    /// `ext_proc`
    #[arg(
        long,
        env = "KTHENA_GRPC_PORT",
        value_name = "PORT",
        default_value_t = 9002,
        help_heading = "Ports (0 is chosen by the system)"
    )]
    pub grpc_port: u16,
    /// The step before the route: says a request's model in `x-gateway-model-name`; without a port it is not served
    #[arg(
        long,
        env = "KTHENA_MODEL_NAME_PORT",
        value_name = "PORT",
        help_heading = "Ports (0 is chosen by the system)"
    )]
    pub model_name_port: Option<u16>,
    /// gRPC health
    #[arg(
        long,
        env = "KTHENA_GRPC_HEALTH_PORT",
        value_name = "PORT",
        default_value_t = 9003,
        help_heading = "Ports (0 is chosen by the system)"
    )]
    pub grpc_health_port: u16,
    /// `/metrics`, `/healthz` and `/readyz`
    #[arg(
        long,
        env = "KTHENA_METRICS_PORT",
        value_name = "PORT",
        default_value_t = 9090,
        help_heading = "Ports (0 is chosen by the system)"
    )]
    pub metrics_port: u16,
    /// The debug page and its JSON; always on loopback
    #[arg(
        long,
        env = "KTHENA_DEBUG_PORT",
        value_name = "PORT",
        default_value_t = 15000,
        help_heading = "Ports (0 is chosen by the system)"
    )]
    pub debug_port: u16,

    /// What the ext_proc ports speak: `auto` is both TLS and plain text, on one port
    #[arg(long, env = "KTHENA_TLS", value_name = "MODE", value_enum, default_value_t = TlsMode::Auto, help_heading = "TLS")]
    pub tls: TlsMode,
    /// Where `tls.crt` and `tls.key` are; read again when they change. Without it the certificate is self-signed
    #[arg(long, env = "KTHENA_CERT_PATH", value_name = "DIR", help_heading = "TLS")]
    pub cert_path: Option<PathBuf>,

    /// Filters and scorers, in the format of Kthena's `routerConfiguration.yaml`; read again when it changes
    #[arg(long, env = "KTHENA_SCHEDULER_CONFIG", value_name = "FILE", help_heading = "Requests")]
    pub scheduler_config: Option<PathBuf>,
    /// Largest request body, as `16Mi`; a larger one is answered with 413
    #[arg(long, env = "KTHENA_MAX_BODY_SIZE", value_name = "SIZE", default_value = "16Mi", help_heading = "Requests")]
    pub max_body_size: Size,
    /// Longest time from the first message of an exchange to its answer, as `30s`
    #[arg(long, env = "KTHENA_EXCHANGE_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = parse_duration, help_heading = "Requests")]
    pub exchange_timeout: Duration,
    /// Longest time for the prefill of a request where it runs apart, further tries included; two thirds of --exchange-timeout if not given
    #[arg(long, env = "KTHENA_PREFILL_TIMEOUT", value_name = "DURATION", value_parser = parse_duration, help_heading = "Requests")]
    pub prefill_timeout: Option<Duration>,
    /// Longest time that running exchanges get to finish after SIGTERM, as `30s`
    #[arg(long, env = "KTHENA_DRAIN_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = parse_duration, help_heading = "Requests")]
    pub drain_timeout: Duration,
    /// How a data plane shows bodies that sends no `protocol_config`
    #[arg(long, env = "KTHENA_BODY_MODE_FALLBACK", value_name = "MODE", value_enum, default_value_t = BodyModeFallback::FullDuplex, help_heading = "Requests")]
    pub body_mode_fallback: BodyModeFallback,
    /// How many endpoints an answer names, best first; more than one needs a data plane that retries down the list
    #[arg(long, env = "KTHENA_DESTINATION_LIST", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16), help_heading = "Requests")]
    pub destination_list: u8,

    /// Tokenizers and chat templates as models have them, in `DIR/MODEL/`; for other models the engines' /tokenize is asked
    #[arg(long, env = "KTHENA_TOKENIZER_DIR", value_name = "DIR", help_heading = "Caches")]
    pub tokenizer_dir: Option<PathBuf>,
    /// Port where each engine publishes its KV events, for the scorer kvcache-aware; rank n does so n ports above
    #[arg(long, env = "KTHENA_KV_EVENTS_PORT", value_name = "PORT", default_value_t = 5557, value_parser = clap::value_parser!(u16).range(1..), help_heading = "Caches")]
    pub kv_events_port: u16,
    /// Where engines connect that publish to the picker, as `tcp://[::]:5557`, instead of being connected to; their topic, `kv@IP:PORT@MODEL`, says which they are
    #[arg(long, env = "KTHENA_KV_EVENTS_BIND", value_name = "ENDPOINT", help_heading = "Caches")]
    pub kv_events_bind: Option<Bind>,
    /// Port where each engine repeats its KV events; 0 if none does, then a lost event costs all that is known
    #[arg(long, env = "KTHENA_KV_REPLAY_PORT", value_name = "PORT", default_value_t = 5558, help_heading = "Caches")]
    pub kv_replay_port: u16,
    /// Only KV events whose topic begins so, as `kv@`
    #[arg(
        long,
        env = "KTHENA_KV_EVENTS_TOPIC",
        value_name = "PREFIX",
        default_value = "",
        hide_default_value = true,
        help_heading = "Caches"
    )]
    pub kv_events_topic: String,
    /// Data-parallel ranks behind each endpoint
    #[arg(long, env = "KTHENA_KV_EVENTS_RANKS", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64), help_heading = "Caches")]
    pub kv_events_ranks: u16,

    /// How log lines are written
    #[arg(long, env = "KTHENA_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text, help_heading = "Logs")]
    pub log_format: LogFormat,
    /// What is logged: a level, or directives as `info,kthena_ext_proc=debug`
    #[arg(long, env = "KTHENA_LOG_LEVEL", value_name = "FILTER", default_value = "info", help_heading = "Logs")]
    pub log_level: String,
}

impl Args {
    /// The longest time for the prefill of a request. Unless one is given, a request whose prefill has
    /// failed still has a third of its time.
    ///
    /// # Errors
    /// When one is given that leaves no time for decode.
    pub fn prefill_timeout(&self) -> Result<Duration, TooLong> {
        let (given, whole) = (self.prefill_timeout, self.exchange_timeout);
        match given {
            None => Ok(whole * 2 / 3),
            Some(given) if given < whole => Ok(given),
            Some(given) => Err(TooLong { given, whole }),
        }
    }
}

/// A part of an exchange that would take all its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} must be below --exchange-timeout, which is {whole:?}")]
pub struct TooLong {
    given: Duration,
    whole: Duration,
}

/// What the ext_proc ports speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsMode {
    /// TLS and plain text, told apart by the first byte.
    Auto,
    /// TLS only.
    Required,
    /// Plain text only.
    Off,
}

/// How a data plane shows bodies that does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BodyModeFallback {
    /// Not at all.
    None,
    /// Whole, in one message.
    Buffered,
    /// In pieces, each answered.
    Streamed,
    /// In pieces, which we send back.
    FullDuplex,
}

impl From<BodyModeFallback> for BodySend {
    fn from(mode: BodyModeFallback) -> Self {
        match mode {
            BodyModeFallback::None => Self::None,
            BodyModeFallback::Buffered => Self::Buffered,
            BodyModeFallback::Streamed => Self::Streamed,
            BodyModeFallback::FullDuplex => Self::FullDuplex,
        }
    }
}

/// A listener of one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPort {
    /// The pool.
    pub pool: PoolName,
    /// Its port; 0 is chosen by the system.
    pub port: u16,
}

impl FromStr for PoolPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = || {
            let (pool, port) = text.split_once('=')?;
            let (namespace, name) = pool.split_once('/')?;
            let named = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
            Some(Self { pool: PoolName::new(namespace, name), port: port.parse().ok()? }).filter(|_| named)
        };
        parsed().ok_or_else(|| "write it as NAMESPACE/NAME=PORT, for example `default/llama=9012`".to_owned())
    }
}

/// A number of bytes, written as a Kubernetes quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let parsed = || {
            let (number, suffix) = text.split_at_checked(digits)?;
            let unit: usize = match suffix {
                "" => 1,
                "k" => 1_000,
                "M" => 1_000_000,
                "G" => 1_000_000_000,
                "Ki" => 1 << 10,
                "Mi" => 1 << 20,
                "Gi" => 1 << 30,
                _ => return None,
            };
            number.parse::<usize>().ok()?.checked_mul(unit).filter(|bytes| *bytes > 0).map(Self)
        };
        parsed().ok_or_else(|| {
            "write it as a whole number of bytes above 0 with k, M, G, Ki, Mi, Gi or nothing behind it, for example `16Mi`"
                .to_owned()
        })
    }
}

/// A duration as Go and Kubernetes write it, of whole numbers: `1h30m`, `500ms`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed = || {
        let mut rest = text;
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at_checked(digits)?;
            let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
            let (unit, tail) = tail.split_at_checked(letters)?;
            let milliseconds = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                _ => return None,
            };
            let number = number.parse::<u64>().ok()?.checked_mul(milliseconds)?;
            total = total.checked_add(Duration::from_millis(number))?;
            rest = tail;
        }
        Some(total).filter(|total| !total.is_zero() && *total <= Duration::from_hours(24))
    };
    parsed().ok_or_else(|| {
        "write it as whole numbers with h, m, s or ms behind them, above 0 and at most 24h, for example `30s`"
            .to_owned()
    })
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let parsed = bare.map_or_else(|| text.parse().ok(), |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6));
    parsed.ok_or_else(|| "write it as an IP address, for example `[::]`, `0.0.0.0` or `127.0.0.1`".to_owned())
}

fn parse_rate(text: &str) -> Result<f32, String> {
    text.parse::<f32>()
        .ok()
        .filter(|rate| rate.is_finite() && *rate >= 0.0)
        .ok_or_else(|| "write it as a number of requests per second, for example `50`".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(args: &[&str]) -> Result<Args, String> {
        let command = std::iter::once(&"kthena-ext-proc").chain(args);
        Args::try_parse_from(command).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_consistent_and_every_flag_has_its_environment_variable_and_heading() {
        let command = Args::command();
        command.clone().debug_assert();
        for flag in command.get_arguments().filter(|flag| !["help", "version"].contains(&flag.get_id().as_str())) {
            let expected = format!("KTHENA_{}", flag.get_id().as_str().to_uppercase());
            assert_eq!(flag.get_env().and_then(|name| name.to_str()), Some(expected.as_str()));
            assert!(flag.get_help_heading().is_some(), "{} has no heading", flag.get_id());
        }
    }

    #[test]
    fn defaults_are_those_of_the_design() {
        let args = parse(&[]).unwrap();
        assert_eq!(
            (args.grpc_port, args.grpc_health_port, args.metrics_port, args.debug_port),
            (9002, 9003, 9090, 15000)
        );
        assert_eq!(args.bind_address, IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        assert_eq!(args.max_body_size, Size(16 << 20));
        assert_eq!((args.exchange_timeout, args.drain_timeout), (Duration::from_secs(30), Duration::from_secs(30)));
        assert_eq!((args.tls, args.destination_list), (TlsMode::Auto, 1));
    }

    #[test]
    fn a_prefill_leaves_time_for_decode() {
        let timeout = |args: &[&str]| parse(args).unwrap().prefill_timeout().map_err(|error| error.to_string());
        assert_eq!(timeout(&[]), Ok(Duration::from_secs(20)));
        assert_eq!(timeout(&["--exchange-timeout=3s"]), Ok(Duration::from_secs(2)));
        assert_eq!(timeout(&["--prefill-timeout=29s"]), Ok(Duration::from_secs(29)));
        let error = timeout(&["--prefill-timeout=30s"]).unwrap_err();
        assert_eq!(error, "30s must be below --exchange-timeout, which is 30s");
    }

    #[test]
    fn values_become_types() {
        let args = parse(&[
            "--pool-port=a/b=0",
            "--pool-port=c/d=9012",
            "--bind-address=127.0.0.1",
            "--max-body-size=512Ki",
            "--drain-timeout=1m500ms",
        ])
        .unwrap();
        assert_eq!(args.pool_port.len(), 2);
        assert_eq!(args.pool_port[1], PoolPort { pool: PoolName::new("c", "d"), port: 9012 });
        assert_eq!(args.max_body_size, Size(512 * 1024));
        assert_eq!(args.drain_timeout, Duration::from_millis(60_500));
    }

    #[test]
    fn a_bad_value_is_an_error_that_names_the_flag_and_an_example() {
        for (flag, value, example) in [
            ("--pool-port", "llama=9012", "default/llama=9012"),
            ("--pool-port", "a/b/c=9012", "default/llama=9012"),
            ("--pool-port", "a/b=70000", "default/llama=9012"),
            ("--max-body-size", "16MiB", "16Mi"),
            ("--max-body-size", "0", "16Mi"),
            ("--max-body-size", "99999999999Gi", "16Mi"),
            ("--drain-timeout", "30", "30s"),
            ("--drain-timeout", "0s", "30s"),
            ("--exchange-timeout", "s", "30s"),
            ("--bind-address", "localhost", "0.0.0.0"),
            ("--bind-address", "[1.2.3.4]", "0.0.0.0"),
            ("--kube-api-qps", "NaN", "50"),
            ("--kv-events-bind", "[::]:5557", "tcp://[::]:5557"),
        ] {
            let error = parse(&[flag, value]).unwrap_err();
            assert!(error.contains(flag) && error.contains(example), "{flag} {value}: {error}");
        }
        assert!(parse(&["--destination-list=0"]).unwrap_err().contains("1..=16"));
    }
}
