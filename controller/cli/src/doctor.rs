//! `kthena doctor`: the usual mistakes, found before or while they hurt, each with its remedy.
//!
//! `read` gathers [`facts`] from a cluster, a folder, an Envoy and a picker; `checks` are pure functions of them.

mod checks;
mod facts;
mod read;
mod report;

use anyhow::Result;

use crate::args::{ClusterArgs, DoctorArgs};
use crate::{Outcome, print};

/// Where an endpoint picker's pick is written: a request header, and a key of `envoy.lb` metadata (endpoint-picker
/// protocol 1.0).
const DESTINATION: &str = "x-gateway-destination-endpoint";

/// The ids of all checks.
pub(crate) fn ids() -> Vec<&'static str> {
    checks::CHECKS.iter().map(|check| check.id).collect()
}

pub(crate) async fn run(cluster: &ClusterArgs, args: &DoctorArgs) -> Result<Outcome> {
    if args.list {
        let rows: Vec<[String; 2]> =
            checks::CHECKS.iter().map(|check| [check.id.to_owned(), check.about.to_owned()]).collect();
        print::table(["CHECK", "WHAT IT FINDS"], &rows)?;
        return Ok(Outcome::Done);
    }
    let report = checks::examine(&read::all(cluster, args).await, &args.skip);
    match args.output {
        Some(format) => print::data(&report, format)?,
        None => print::line(report.to_string().trim_end())?,
    }
    Ok(if report.errors() > 0 { Outcome::Wrong } else { Outcome::Done })
}
