//! From `OpenMetrics` 1.0 to the older Prometheus text format 0.0.4, for scrapers that do not ask
//! for the newer one.

use std::collections::HashSet;

/// The content type of the Prometheus text format.
pub const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
/// The content type of `OpenMetrics`.
pub const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Whether an `Accept` header asks for `OpenMetrics`.
#[must_use]
pub fn wants_openmetrics(accept: Option<&str>) -> bool {
    accept.is_some_and(|accept| {
        accept.split(',').any(|kind| {
            let mut parts = kind.split(';').map(str::trim);
            parts.next() == Some("application/openmetrics-text") && !parts.any(|part| matches!(part, "q=0" | "q=0.0"))
        })
    })
}

/// Rewrites `OpenMetrics` text: a counter's metadata names the series (`_total`), exemplars and the
/// end mark go.
#[must_use]
pub fn to_prometheus(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let counters: HashSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    for line in text.lines() {
        if let Some(metadata) = line.strip_prefix("# ") {
            let mut words = metadata.splitn(3, ' ');
            if let (Some(kind @ ("HELP" | "TYPE")), Some(name), Some(rest)) = (words.next(), words.next(), words.next())
            {
                let suffix = if counters.contains(name) { "_total" } else { "" };
                out.extend(["# ", kind, " ", name, suffix, " ", rest, "\n"]);
            }
        } else {
            out.extend([without_exemplar(line), "\n"]);
        }
    }
    out
}

/// A sample line without ` # {…} value`. A label value may hold the same characters, so the cut is
/// looked for behind the labels' closing brace.
fn without_exemplar(line: &str) -> &str {
    let mut quoted = false;
    let mut escaped = false;
    for (index, byte) in line.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => return line.get(..index).unwrap_or(line).trim_end(),
            _ => {}
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_becomes_prometheus_text() {
        let open = concat!(
            "# HELP a_b Things.\n# TYPE a_b counter\n",
            "a_b_total{m=\"x # \\\" {y\"} 3 # {trace_id=\"0f\"} 1.0\n",
            "# HELP h Time.\n# TYPE h histogram\n# UNIT h seconds\nh_bucket{le=\"1.0\"} 4 # {trace_id=\"0f\"} 0.5\n# EOF\n",
        );
        assert_eq!(
            to_prometheus(open),
            concat!(
                "# HELP a_b_total Things.\n# TYPE a_b_total counter\na_b_total{m=\"x # \\\" {y\"} 3\n",
                "# HELP h Time.\n# TYPE h histogram\nh_bucket{le=\"1.0\"} 4\n",
            )
        );
    }

    #[test]
    fn openmetrics_is_sent_only_to_who_asks() {
        assert!(wants_openmetrics(Some("text/plain;q=0.5, application/openmetrics-text; version=1.0.0;q=0.8")));
        assert!(!wants_openmetrics(Some("application/openmetrics-text;q=0, */*")));
        assert!(!wants_openmetrics(Some("*/*")));
        assert!(!wants_openmetrics(None));
    }
}
