//! `outlier`: keeps endpoints that do not fail what they are sent, unless all do. Runs where one of
//! the candidates is an outlier (see `outlier.rs`).

use crate::endpoint::Endpoint;
use crate::filters::{Filter, Question};

#[derive(Debug)]
pub(crate) struct Outlier;

impl Filter for Outlier {
    fn filter(&self, question: &Question<'_>, kept: &mut Vec<usize>) {
        let sound = |index: &usize| question.candidates.get(*index).is_some_and(|candidate| !candidate.outlier);
        if kept.iter().any(sound) {
            kept.retain(sound);
        }
    }

    fn reason(&self, _: &Question<'_>, _: &Endpoint) -> String {
        "its last requests failed one after the other".to_owned()
    }
}
