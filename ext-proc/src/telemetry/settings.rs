//! The `OTEL_*` variables, read as values: a pure function from variables to settings. A value that
//! cannot be used gives a warning that names the variable, and the default.
//!
//! What the OTLP exporter and the SDK read themselves is left to them: `OTEL_EXPORTER_OTLP_HEADERS` and
//! `_COMPRESSION` (`gzip`) with their `_TRACES_` forms, `OTEL_SPAN_*_LIMIT`.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// What OpenTelemetry is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where spans go.
    pub traces: Traces,
    /// `service.name`.
    pub service_name: String,
    /// Other attributes of the resource.
    pub resource: Vec<(String, String)>,
    /// Which traces without a sampled parent are recorded.
    pub sampler: Sampler,
    /// The queue before the exporter.
    pub batch: Batch,
    /// Whether W3C trace context is read from the data plane and written to requests.
    pub propagate: bool,
    /// What was wrong with the variables, to be logged once.
    pub warnings: Vec<String>,
}

/// Where spans go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Traces {
    /// Nowhere: no span is made.
    Off,
    /// To standard output, one line for each span.
    Console,
    /// To a collector.
    Otlp {
        /// The transport.
        protocol: Protocol,
        /// The complete URL: for HTTP with its path.
        endpoint: String,
        /// For one export.
        timeout: Duration,
        /// For a URL with `https`.
        tls: TlsFiles,
    },
}

/// PEM files for a collector behind TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// `OTEL_EXPORTER_OTLP_CERTIFICATE`: who may have signed the collector's certificate; `None` trusts
    /// whom the system trusts.
    pub authority: Option<PathBuf>,
    /// `OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE`: ours, where the collector asks for one.
    pub client_certificate: Option<PathBuf>,
    /// `OTEL_EXPORTER_OTLP_CLIENT_KEY`: its key.
    pub client_key: Option<PathBuf>,
}

/// OTLP's transports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// gRPC.
    Grpc,
    /// Protobuf over HTTP.
    Http,
}

/// `OTEL_TRACES_SAMPLER` with its argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// `always_on`.
    AlwaysOn,
    /// `always_off`.
    AlwaysOff,
    /// `traceidratio`.
    Ratio(f64),
    /// `parentbased_always_on`, the default.
    ParentBasedAlwaysOn,
    /// `parentbased_always_off`.
    ParentBasedAlwaysOff,
    /// `parentbased_traceidratio`.
    ParentBasedRatio(f64),
}

/// `OTEL_BSP_*`: spans beyond the queue are dropped, and counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// `OTEL_BSP_MAX_QUEUE_SIZE`.
    pub queue: usize,
    /// `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
    pub size: usize,
    /// `OTEL_BSP_SCHEDULE_DELAY`.
    pub delay: Duration,
    /// `OTEL_BSP_EXPORT_TIMEOUT`.
    pub export_timeout: Duration,
}

impl Default for Batch {
    fn default() -> Self {
        Self { queue: 2_048, size: 512, delay: Duration::from_secs(5), export_timeout: Duration::from_secs(30) }
    }
}

impl Settings {
    /// Reads the settings. An empty variable counts as unset, as the OpenTelemetry specification asks.
    #[must_use]
    pub fn read(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let mut reader = Reader { variable, warnings: Vec::new() };
        let mut resource = reader.pairs("OTEL_RESOURCE_ATTRIBUTES");
        let named = resource.iter().position(|(key, _)| key == "service.name").map(|index| resource.remove(index).1);
        Self {
            traces: reader.traces(),
            service_name: reader.get("OTEL_SERVICE_NAME").or(named).unwrap_or_else(|| "kthena-ext-proc".to_owned()),
            resource,
            sampler: reader.sampler(),
            batch: reader.batch(),
            propagate: reader.propagate(),
            warnings: reader.warnings,
        }
    }
}

struct Reader<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<String>,
}

impl Reader<'_> {
    fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// The variable for traces, else the one for all signals, with the name it was found under.
    fn otlp(&self, suffix: &str) -> Option<(String, String)> {
        [format!("OTEL_EXPORTER_OTLP_TRACES_{suffix}"), format!("OTEL_EXPORTER_OTLP_{suffix}")]
            .into_iter()
            .find_map(|name| self.get(&name).map(|value| (name, value)))
    }

    fn warn(&mut self, name: &str, value: &str, allowed: &str, instead: impl Display) {
        self.warnings.push(format!("{name} must be {allowed}, not `{value}`: {instead} is used"));
    }

    fn number<T: FromStr + Display + PartialOrd + From<u8>>(&mut self, name: &str, default: T) -> T {
        let Some(value) = self.get(name) else { return default };
        match value.parse::<T>() {
            Ok(number) if number >= T::from(1) => number,
            _ => {
                self.warn(name, &value, "a whole number above 0", &default);
                default
            }
        }
    }

    fn traces(&mut self) -> Traces {
        match self.get("OTEL_SDK_DISABLED").as_deref().map(str::to_ascii_lowercase).as_deref() {
            Some("true") => return Traces::Off,
            None | Some("false") => {}
            Some(other) => self.warn("OTEL_SDK_DISABLED", other, "true or false", "false"),
        }
        let endpoint = self.otlp("ENDPOINT");
        match self.get("OTEL_TRACES_EXPORTER").as_deref() {
            Some("none") => Traces::Off,
            Some("console") => Traces::Console,
            Some("otlp") => self.collector(endpoint),
            None if endpoint.is_some() => self.collector(endpoint),
            None => Traces::Off,
            Some(other) => {
                self.warn("OTEL_TRACES_EXPORTER", other, "otlp, console or none", "none");
                Traces::Off
            }
        }
    }

    fn collector(&mut self, endpoint: Option<(String, String)>) -> Traces {
        let timeout = match self.otlp("TIMEOUT") {
            Some((name, _)) => self.number(&name, 10_000_u64),
            None => 10_000,
        };
        let protocol = self.protocol(endpoint.as_ref().map(|(_, url)| url.as_str()));
        let endpoint = match (endpoint, protocol) {
            (None, Protocol::Grpc) => "http://localhost:4317".to_owned(),
            (None, Protocol::Http) => "http://localhost:4318/v1/traces".to_owned(),
            // The endpoint of all signals is a base URL, that of one signal is used as it is.
            (Some((name, url)), Protocol::Http) if !name.contains("_TRACES_") => {
                format!("{}/v1/traces", url.trim_end_matches('/'))
            }
            // gRPC may have host and port only. Plain text then, as most collectors nearby speak it, unless
            // the variable asks for TLS.
            (Some((_, url)), Protocol::Grpc) if !url.contains("://") => {
                let secure = self.otlp("INSECURE").is_some_and(|(_, value)| value.eq_ignore_ascii_case("false"));
                format!("{}://{url}", if secure { "https" } else { "http" })
            }
            (Some((_, url)), _) => url,
        };
        let file = |suffix| self.otlp(suffix).map(|(_, path)| PathBuf::from(path));
        let tls = TlsFiles {
            authority: file("CERTIFICATE"),
            client_certificate: file("CLIENT_CERTIFICATE"),
            client_key: file("CLIENT_KEY"),
        };
        Traces::Otlp { protocol, endpoint, timeout: Duration::from_millis(timeout), tls }
    }

    /// Without the variable, the registered gRPC port 4317 means gRPC: a frequent way to set only
    /// the endpoint. Everything else is HTTP, the specification's default.
    fn protocol(&mut self, endpoint: Option<&str>) -> Protocol {
        let default = match endpoint.and_then(|url| url.trim_end_matches('/').rsplit_once(':')) {
            Some((_, "4317")) => Protocol::Grpc,
            _ => Protocol::Http,
        };
        match self.otlp("PROTOCOL") {
            None => default,
            Some((_, value)) if value == "grpc" => Protocol::Grpc,
            Some((_, value)) if value == "http/protobuf" => Protocol::Http,
            Some((name, value)) => {
                self.warn(&name, &value, "grpc or http/protobuf", "http/protobuf");
                Protocol::Http
            }
        }
    }

    fn sampler(&mut self) -> Sampler {
        let Some(name) = self.get("OTEL_TRACES_SAMPLER") else { return Sampler::ParentBasedAlwaysOn };
        match name.as_str() {
            "always_on" => Sampler::AlwaysOn,
            "always_off" => Sampler::AlwaysOff,
            "traceidratio" => Sampler::Ratio(self.ratio()),
            "parentbased_always_on" => Sampler::ParentBasedAlwaysOn,
            "parentbased_always_off" => Sampler::ParentBasedAlwaysOff,
            "parentbased_traceidratio" => Sampler::ParentBasedRatio(self.ratio()),
            other => {
                let allowed = "[parentbased_]always_on, [parentbased_]always_off or [parentbased_]traceidratio";
                self.warn("OTEL_TRACES_SAMPLER", other, allowed, "parentbased_always_on");
                Sampler::ParentBasedAlwaysOn
            }
        }
    }

    fn ratio(&mut self) -> f64 {
        let name = "OTEL_TRACES_SAMPLER_ARG";
        let Some(value) = self.get(name) else { return 1.0 };
        match value.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
            _ => {
                self.warn(name, &value, "a number from 0 to 1", 1.0);
                1.0
            }
        }
    }

    fn batch(&mut self) -> Batch {
        let default = Batch::default();
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let queue = self.number("OTEL_BSP_MAX_QUEUE_SIZE", default.queue);
        let size = self.number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", default.size.min(queue));
        if size > queue {
            self.warn("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", &size.to_string(), "at most OTEL_BSP_MAX_QUEUE_SIZE", queue);
        }
        let delay = self.number("OTEL_BSP_SCHEDULE_DELAY", millis(default.delay));
        let export_timeout = self.number("OTEL_BSP_EXPORT_TIMEOUT", millis(default.export_timeout));
        Batch {
            queue,
            size: size.min(queue),
            delay: Duration::from_millis(delay),
            export_timeout: Duration::from_millis(export_timeout),
        }
    }

    fn propagate(&mut self) -> bool {
        let name = "OTEL_PROPAGATORS";
        let Some(value) = self.get(name) else { return true };
        let mut propagate = false;
        for propagator in value.split(',').map(str::trim) {
            match propagator {
                "tracecontext" => propagate = true,
                // Baggage travels in the request's own headers, which we do not touch.
                "baggage" | "none" | "" => {}
                other => self.warn(name, other, "of tracecontext, baggage and none", "nothing else"),
            }
        }
        propagate
    }

    /// A list `key=value,…` with percent-encoded values.
    fn pairs(&mut self, name: &str) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        for pair in self.get(name).unwrap_or_default().split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').map(|(key, value)| (key.trim(), decode(value.trim()))) {
                Some((key, Some(value))) if !key.is_empty() => pairs.push((key.to_owned(), value)),
                _ => self.warn(name, pair, "a list of key=value", "nothing of it"),
            }
        }
        pairs
    }
}

/// Undoes percent-encoding; `None` when the result is no text.
fn decode(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escaped = match (first, tail) {
            (b'%', [high, low, ..]) => {
                std::str::from_utf8(&[*high, *low]).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
