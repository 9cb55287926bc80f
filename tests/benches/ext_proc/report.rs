//! The table at the end.

use std::collections::BTreeMap;

use crate::Args;
use crate::gateway::Mode;

/// What one cell cost in one round, in microseconds of processor time per request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measure {
    pub(crate) requests: u64,
    pub(crate) envoy: f64,
    pub(crate) picker: f64,
}

/// All measures; a cell's are in the order of the rounds.
#[derive(Debug)]
pub(crate) struct Report {
    head: String,
    /// The two that are compared, the first as what the second is measured by.
    names: [&'static str; 2],
    cells: BTreeMap<(&'static str, usize), BTreeMap<&'static str, Vec<Measure>>>,
}

impl Report {
    pub(crate) fn new(pinned: bool, args: &Args, names: [&'static str; 2]) -> Self {
        let place = if pinned {
            "Envoy and the picker share one processor, load and endpoints have another"
        } else {
            "nothing is pinned (no second processor or no taskset): expect more noise"
        };
        let head = format!(
            "processor time per request in µs, median [min–max] of {} rounds of {} s, {} connections; {place}",
            args.rounds, args.seconds, args.connections,
        );
        Self { head, names, cells: BTreeMap::new() }
    }

    pub(crate) fn add(&mut self, kilobytes: usize, mode: Mode, picker: &'static str, measure: Measure) {
        self.cells.entry((mode.name(), kilobytes)).or_default().entry(picker).or_default().push(measure);
    }

    pub(crate) fn print(&self) {
        let [first, second] = self.names;
        println!("\n{}", self.head);
        println!(
            "{:<21} {:>7}  {:<35} {:<35} {:<19} {:>15} {:>11}",
            "body mode",
            "body",
            format!("{first}: Envoy + picker = sum"),
            format!("{second}: Envoy + picker = sum"),
            format!("{second} / {first}"),
            "added µs",
            "req/s"
        );
        for ((mode, kilobytes), pickers) in &self.cells {
            let (Some(one), Some(other)) = (pickers.get(first), pickers.get(second)) else { continue };
            // Round by round, so that what slows a whole round down slows both.
            let ratios = one.iter().zip(other).map(|(one, other)| sum(other) / sum(one));
            let added = one.iter().zip(other).map(|(one, other)| sum(other) - sum(one));
            println!(
                "{mode:<21} {:>7}  {:<35} {:<35} {:<19} {:>15} {:>11.0}",
                format!("{kilobytes} KB"),
                costs(one),
                costs(other),
                Spread::of(ratios).show(2),
                Spread::of(added).show(0),
                1e6 / Spread::of(other.iter().map(sum)).median,
            );
        }
        let requests: u64 =
            self.cells.values().flat_map(BTreeMap::values).flatten().map(|measure| measure.requests).sum();
        println!(
            "req/s is what one whole processor would do for {second}. {requests} requests were measured, all answered 200."
        );
    }
}

fn sum(measure: &Measure) -> f64 {
    measure.envoy + measure.picker
}

fn costs(measures: &[Measure]) -> String {
    let envoy = Spread::of(measures.iter().map(|measure| measure.envoy)).median;
    let picker = Spread::of(measures.iter().map(|measure| measure.picker)).median;
    format!("{envoy:.0} + {picker:.0} = {}", Spread::of(measures.iter().map(sum)).show(0))
}

/// The middle and the ends of some figures.
#[derive(Clone, Copy, Debug)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(figures: impl Iterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.collect();
        figures.sort_by(f64::total_cmp);
        let at = |index: usize| figures.get(index).copied().unwrap_or(f64::NAN);
        let (low, high) = (at(figures.len().saturating_sub(1) / 2), at(figures.len() / 2));
        Self { median: f64::midpoint(low, high), min: at(0), max: at(figures.len().saturating_sub(1)) }
    }

    fn show(self, digits: usize) -> String {
        format!("{:.digits$} [{:.digits$}–{:.digits$}]", self.median, self.min, self.max)
    }
}
