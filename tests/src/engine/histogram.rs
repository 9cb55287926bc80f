//! A histogram in Prometheus' text format.

use std::fmt::Write as _;
use std::time::Duration;

#[derive(Debug)]
pub(super) struct Histogram {
    name: &'static str,
    help: &'static str,
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    pub(super) fn new(name: &'static str, help: &'static str, bounds: &'static [f64]) -> Self {
        Self { name, help, bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    pub(super) fn observe(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = self.bounds.partition_point(|&bound| bound < seconds);
        self.counts[bucket] += 1;
        self.sum += seconds;
    }

    pub(super) fn write(&self, labels: &str, text: &mut String) {
        let name = self.name;
        let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} histogram", self.help);
        let mut total = 0;
        for (index, count) in self.counts.iter().enumerate() {
            total += count;
            let bound = self.bounds.get(index).map_or_else(|| "+Inf".to_owned(), |bound| format!("{bound:?}"));
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {total:?}.0");
        }
        let _ = writeln!(text, "{name}_count{{{labels}}} {total}.0\n{name}_sum{{{labels}}} {:?}", self.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_bounds_are_inclusive() {
        let mut histogram = Histogram::new("h", "help", &[0.1, 1.0]);
        for millis in [50, 100, 500, 5_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let mut text = String::new();
        histogram.write("a=\"b\"", &mut text);
        let expected = "# HELP h help\n# TYPE h histogram\nh_bucket{a=\"b\",le=\"0.1\"} 2.0\nh_bucket{a=\"b\",le=\"1.0\"} 3.0\n\
                        h_bucket{a=\"b\",le=\"+Inf\"} 4.0\nh_count{a=\"b\"} 4.0\nh_sum{a=\"b\"} 5.65\n";
        assert_eq!(text, expected);
    }
}
