//! `group`: keeps the prefill endpoints of the decode endpoint's group. Runs where prefill endpoints
//! are chosen.

use crate::endpoint::Endpoint;
use crate::filters::{Filter, Question};

#[derive(Debug)]
pub(crate) struct Group;

impl Filter for Group {
    fn filter(&self, question: &Question<'_>, kept: &mut Vec<usize>) {
        if let Some((pairing, group)) = question.group {
            kept.retain(|index| pairing.of_prefill(*index) == Some(group));
        }
    }

    fn reason(&self, _: &Question<'_>, _: &Endpoint) -> String {
        "the prefill pod is not of the decode pod's group".to_owned()
    }
}
