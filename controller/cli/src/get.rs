//! `kthena get`: what there is.

mod objects;

use anyhow::Result;
use controller_api::v1alpha1::model_route::ModelRoute;
use controller_api::v1alpha1::model_server::ModelServer;
use controller_api::v1alpha1::model_serving::ModelServing;
use serde::Serialize;

use crate::args::{ClusterArgs, Format, Get};
use crate::cluster::Cluster;
use crate::templates::{self, Declared, Template};
use crate::{Outcome, print};

pub(crate) async fn run(args: &ClusterArgs, what: Get) -> Result<Outcome> {
    match what {
        Get::Templates { name: None, output } => list(&templates::all()?, output)?,
        Get::Templates { name: Some(name), output } => one(&templates::named(&name)?, output)?,
        Get::ModelServings(asked) => objects::list::<ModelServing>(&Cluster::connect(args).await?, &asked).await?,
        Get::ModelServers(asked) => objects::list::<ModelServer>(&Cluster::connect(args).await?, &asked).await?,
        Get::ModelRoutes(asked) => objects::list::<ModelRoute>(&Cluster::connect(args).await?, &asked).await?,
    }
    Ok(Outcome::Done)
}

/// A template, for programs.
#[derive(Serialize)]
pub(crate) struct View<'a> {
    name: &'a str,
    description: &'a str,
    values: &'a [Declared],
}

impl<'a> View<'a> {
    pub(crate) fn of(template: &'a Template) -> Self {
        Self { name: template.name, description: template.description(), values: template.values() }
    }
}

fn list(all: &[Template], output: Option<Format>) -> Result<()> {
    if let Some(format) = output {
        let views: Vec<View<'_>> = all.iter().map(View::of).collect();
        return print::data(&views, format);
    }
    let rows: Vec<[String; 2]> =
        all.iter().map(|template| [template.name.to_owned(), template.description().to_owned()]).collect();
    print::table(["NAME", "DESCRIPTION"], &rows)
}

fn one(template: &Template, output: Option<Format>) -> Result<()> {
    match output {
        Some(format) => print::data(&View::of(template), format),
        None => print::line(template.text.trim_end()),
    }
}
