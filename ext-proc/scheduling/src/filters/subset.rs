//! `subset`: keeps endpoints that the data plane's subset hint allows. Runs where there is a hint.

use crate::endpoint::Endpoint;
use crate::filters::{Filter, Question};
use crate::refusal::RefusalKind;

#[derive(Debug)]
pub(crate) struct Subset;

impl Filter for Subset {
    fn filter(&self, question: &Question<'_>, kept: &mut Vec<usize>) {
        if let Some(subset) = question.request.subset {
            kept.retain(|index| question.endpoint(*index).is_some_and(|endpoint| subset.allows(endpoint.address)));
        }
    }

    fn reason(&self, _: &Question<'_>, _: &Endpoint) -> String {
        "the gateway's subset hint does not allow it".to_owned()
    }

    fn refusal(&self, _: &Question<'_>, _: &'static str, _: &Endpoint) -> RefusalKind {
        RefusalKind::SubsetEmpty
    }
}
