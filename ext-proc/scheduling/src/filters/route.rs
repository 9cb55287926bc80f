//! `route`: keeps endpoints of the ModelServer that the request's ModelRoute leads to. Runs where a
//! route matched.

use crate::endpoint::Endpoint;
use crate::filters::{Filter, Question};

#[derive(Debug)]
pub(crate) struct Route;

impl Filter for Route {
    fn filter(&self, question: &Question<'_>, kept: &mut Vec<usize>) {
        if let Some(members) = question.members {
            kept.retain(|index| members.contains(*index));
        }
    }

    fn reason(&self, question: &Question<'_>, _: &Endpoint) -> String {
        match question.resolution {
            Some(resolution) => format!("the ModelServer `{}` does not select it", resolution.server.name),
            None => "no ModelServer selects it".to_owned(),
        }
    }
}
