//! `ready`: keeps endpoints whose pod is ready and not being deleted. Always on.

use crate::endpoint::Endpoint;
use crate::filters::{Filter, Question};
use crate::refusal::RefusalKind;

#[derive(Debug)]
pub(crate) struct Ready;

impl Filter for Ready {
    fn filter(&self, question: &Question<'_>, kept: &mut Vec<usize>) {
        kept.retain(|index| question.candidates.get(*index).is_some_and(|candidate| candidate.ready));
    }

    fn reason(&self, _: &Question<'_>, _: &Endpoint) -> String {
        "the pod is not ready".to_owned()
    }

    fn refusal(&self, question: &Question<'_>, _: &'static str, _: &Endpoint) -> RefusalKind {
        RefusalKind::NoneReady(question.pool.to_string())
    }
}
