//! The page of metrics, read from the registries themselves: what they export once each family has a series.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use kthena_ext_proc::fleet::Fleet;
use kthena_ext_proc::metrics::{Metrics, SelfCounters, labels, prefill};
use scheduling::{Declared, DeclaredEndpoint, DeclaredPool, EngineKind, Event, Gauges, PoolName, Profile};

/// The value of a label that takes more values than a list can hold.
const SAMPLE: &str = "sample";

/// A label whose values are not a short list: the metrics that it is of, its name, what bounds it. The first line that
/// fits goes; no metrics are all.
type Open = (&'static [&'static str], &'static str, String);

/// Writes the page.
///
/// # Errors
/// A metric without a help text or without a series, and a label of which nothing says what bounds it.
pub(super) fn page() -> Result<String> {
    let mut text = format!(
        "{}# Metrics\n\n\
         Of the picker and of the operator, at `/metrics` of `--metrics-port` of each: OpenMetrics with exemplars where \
         that is asked for, else the older format of Prometheus. A histogram is three metrics, `_bucket` (by `le`), \
         `_sum` and `_count`. Prometheus itself adds what it knows of a target, such as `namespace` and `pod`.\n",
        super::NOTE
    );
    section(&mut text, "kthena-ext-proc", &picker()?, &picker_labels())?;
    section(&mut text, "kthena-controller-manager", &operator(), &operator_labels())?;
    Ok(text)
}

/// What the picker exports after one of everything.
fn picker() -> Result<String> {
    let (name, address) = (PoolName::new(SAMPLE, SAMPLE), "192.0.2.1:8000".parse()?);
    let endpoint = DeclaredEndpoint {
        address,
        name: SAMPLE.into(),
        labels: Arc::default(),
        ready: true,
        engine: EngineKind::Vllm,
    };
    let fleet = Arc::new(Fleet::new(Profile::default()));
    let pool = DeclaredPool { name: name.clone(), picker: None, endpoints: vec![endpoint] };
    fleet.apply(Event::Declared(Declared { pools: vec![pool], ..Declared::default() }));
    fleet.apply(Event::Scraped { address, gauges: Gauges { kv_usage: Some(0.5), ..Gauges::default() } });
    let metrics = Metrics::new(fleet, &SelfCounters::default());
    let model = metrics.model(&name, None);
    metrics.ended(&model, SAMPLE, None, SAMPLE, Duration::ZERO, None);
    metrics.prefix_matched(&model, 1, 1);
    drop(metrics.active(&model));
    metrics.prefill().called(&model, SAMPLE, prefill::OK, None, Duration::ZERO, None);
    metrics.prefill().decoded(&model, SAMPLE, None, Duration::ZERO, None);
    metrics.kv_events.follow(address, 0).heard(0.0);
    Ok(metrics.encode(true))
}

/// What the operator exports after one of everything.
fn operator() -> String {
    let metrics = kthena_controller_manager::metrics::Metrics::new(Arc::default(), Arc::default(), Arc::default());
    metrics.wrote(SAMPLE, SAMPLE, SAMPLE);
    metrics.passed(SAMPLE, Duration::ZERO);
    metrics.watch_failed(SAMPLE);
    metrics.page()
}

fn picker_labels() -> Vec<Open> {
    let listed = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let models = labels::MAX_MODELS;
    vec![
        (
            &[],
            "model",
            format!(
                "The name in the request, where a ModelRoute, a ModelServer or an engine of the pool has it too; \
                 `unknown` for every other, and where the body is not shown; `other` beyond {models} names"
            ),
        ),
        (&[], "path", format!("{}; `other` for every other", listed(&labels::PATHS))),
        (&[], "status_code", "The HTTP status; `unknown` where the data plane does not show responses".to_owned()),
        (
            &[],
            "error_type",
            "Kthena's names: `successful_request`; `request_parsing`, `model_server_matching`, `pod_discovery`, \
             `inference_pool_discovery` and `scheduling` for a refusal; `ext_proc` for a stream that broke"
                .to_owned(),
        ),
        (&[], "pool", "NAMESPACE/NAME of a pool that is served; its series leave with it".to_owned()),
        (&[], "endpoint", "IP:PORT of an endpoint of a pool; its series leave with it".to_owned()),
        (&[], "rank", "The data-parallel rank of the engine, below `--kv-events-ranks`".to_owned()),
        (&[], "version", "The release".to_owned()),
    ]
}

fn operator_labels() -> Vec<Open> {
    let writes: &[&str] = &["kthena_controller_writes_total"];
    let passes: &[&str] = &["kthena_controller_reconcile_duration_seconds"];
    let watches: &[&str] = &["kthena_controller_watch_errors_total"];
    vec![
        (writes, "verb", "`create`, `apply`, `patch`, `delete`".to_owned()),
        (writes, "kind", "The kind; `ModelServing/status` and so on for a status".to_owned()),
        (
            writes,
            "outcome",
            "`ok`, or why not: `conflict`, `exists`, `gone`, `forbidden`, `invalid`, `throttled`, `timeout`, `error`"
                .to_owned(),
        ),
        (
            passes,
            "outcome",
            "`settled`: nothing was to be written; `waiting`: a status may still change; `written`: all of it was; \
             `cut short`: it took too long, or the ModelServing changed meanwhile; `failed`: tried again; `refused`: \
             the API server refuses it, or a name is somebody else's; `gone`, `deleting`, `unreadable`: what the \
             ModelServing is"
                .to_owned(),
        ),
        (watches, "kind", "The kind, or what is watched of it, such as `PickerService`".to_owned()),
        (&[], "version", "The release".to_owned()),
    ]
}

/// A metric as it is exported.
#[derive(Debug)]
struct Metric {
    name: String,
    kind: String,
    help: String,
    /// By name, with the values seen.
    labels: BTreeMap<String, BTreeSet<String>>,
    series: usize,
}

fn section(text: &mut String, program: &str, exposition: &str, open: &[Open]) -> Result<()> {
    let mut metrics = metrics(exposition)?;
    metrics.sort_by(|one, other| one.name.cmp(&other.name));
    let _ = writeln!(text, "\n## {program}\n\n| metric | type | unit | labels | |\n|---|---|---|---|---|");
    let mut said: Vec<(&Open, Vec<&str>)> = Vec::new();
    for metric in &metrics {
        let name = &metric.name;
        if metric.help.is_empty() {
            bail!("{name} has no help text: say what it counts where it is registered");
        }
        if metric.series == 0 {
            bail!("{name} has no series, so its labels are not known: give it one in {}", file!());
        }
        let mut kind = metric.kind.clone();
        let mut cells = Vec::new();
        for (label, values) in &metric.labels {
            if label == "le" {
                let bounds: Vec<f64> = values.iter().filter_map(|value| value.parse().ok()).collect();
                let finite = bounds.iter().copied().filter(|bound| bound.is_finite());
                let (least, most) = (finite.clone().fold(f64::MAX, f64::min), finite.fold(0.0, f64::max));
                let _ = write!(kind, ", {least} to {most}");
                continue;
            }
            let fits = |open: &&Open| open.1 == label && (open.0.is_empty() || open.0.contains(&name.as_str()));
            if let Some(open) = open.iter().find(fits) {
                cells.push(format!("`{label}`"));
                match said.iter_mut().find(|(known, _)| *known == open) {
                    Some((_, metrics)) => metrics.push(name),
                    None => said.push((open, vec![name])),
                }
            } else if values.iter().any(|value| value.contains(SAMPLE)) {
                bail!("nothing says what bounds the label {label} of {name}: add it to the labels in {}", file!());
            } else {
                let values = values.iter().filter(|value| !value.is_empty()).map(|value| format!("`{value}`"));
                cells.push(format!("`{label}`: {}", values.collect::<Vec<_>>().join(", ")));
            }
        }
        let help = super::escaped(metric.help.trim_end_matches('.'));
        let _ = writeln!(text, "| `{name}` | {kind} | {} | {} | {help} |", unit(name), cells.join("; "));
    }
    text.push_str("\n| label | of | its values |\n|---|---|---|\n");
    for (open, of) in said {
        let of = if open.0.is_empty() { "all".to_owned() } else { format!("`{}`", of.join("`, `")) };
        let _ = writeln!(text, "| `{}` | {of} | {} |", open.1, super::escaped(&open.2));
    }
    Ok(())
}

/// The unit, which a name says as `OpenMetrics` has it.
fn unit(name: &str) -> &'static str {
    match name.trim_end_matches("_total").rsplit('_').next() {
        Some("seconds") => "seconds",
        Some("bytes") => "bytes",
        Some("ratio") => "0 to 1",
        _ => "",
    }
}

/// Reads `OpenMetrics`: a family's series follow its description.
fn metrics(exposition: &str) -> Result<Vec<Metric>> {
    let mut found: Vec<Metric> = Vec::new();
    for line in exposition.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            let (name, help) = described.split_once(' ').unwrap_or((described, ""));
            found.push(Metric {
                name: name.to_owned(),
                kind: String::new(),
                help: help.to_owned(),
                labels: BTreeMap::new(),
                series: 0,
            });
        } else if let Some(typed) = line.strip_prefix("# TYPE ") {
            let (name, kind) = typed.split_once(' ').context("a TYPE without a type")?;
            let metric = found.last_mut().filter(|metric| metric.name == name).context("a TYPE without its HELP")?;
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            metric.name.push_str(suffix);
            kind.clone_into(&mut metric.kind);
        } else if !line.starts_with('#') {
            let metric = found.last_mut().with_context(|| format!("no metric has been described before {line}"))?;
            metric.series += 1;
            let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once("\"}")).unwrap_or_default().0;
            for (label, value) in labels.split("\",").filter_map(|label| label.split_once("=\"")) {
                metric.labels.entry(label.to_owned()).or_default().insert(value.to_owned());
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: &str = "# HELP a_things Things.\n# TYPE a_things counter\na_things_total{kind=\"x\"} 1\n";

    #[test]
    fn closed_labels_are_listed_and_open_ones_are_explained() {
        let mut text = String::new();
        let open: [Open; 1] = [(&[], "who", "Whoever".to_owned())];
        let exposition = format!("{KINDS}a_things_total{{kind=\"y\",who=\"sample\"}} 0\n# EOF\n");
        section(&mut text, "p", &exposition, &open).unwrap();
        assert!(text.contains("| `a_things_total` | counter |  | `kind`: `x`, `y`; `who` | Things |\n"), "{text}");
        assert!(text.ends_with("| `who` | all | Whoever |\n"), "{text}");
    }

    #[test]
    fn what_cannot_be_told_of_a_metric_is_an_error() {
        for (exposition, wanted) in [
            ("# HELP a_b \n# TYPE a_b gauge\na_b 1\n", "a_b has no help text"),
            ("# HELP a_b Help.\n# TYPE a_b gauge\n", "a_b has no series"),
            ("# HELP a_b Help.\n# TYPE a_b gauge\na_b{x=\"sample\"} 1\n", "what bounds the label x of a_b"),
        ] {
            let error = section(&mut String::new(), "p", exposition, &[]).unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
    }
}
