//! `lora-affinity`: keeps endpoints whose engine lists the request's model (`/v1/models`).
//!
//! Where no endpoint lists it, those remain whose list is unknown. Where all lists are known and
//! lack it, an adapter has no endpoint; any other name is an alias that the engine serves under
//! another one, and then every endpoint remains.

use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;
use crate::filters::{Filter, Question};

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct LoraAffinity {}

impl Filter for LoraAffinity {
    fn filter(&self, question: &Question<'_>, kept: &mut Vec<usize>) {
        let Some(model) = question.model else { return };
        let lists = |index: &usize| question.endpoint(*index).and_then(|endpoint| lists(endpoint, model));
        let adapter = question.resolution.is_some_and(|resolution| resolution.adapter);
        if kept.iter().any(|index| lists(index) == Some(true)) {
            kept.retain(|index| lists(index) == Some(true));
        } else if adapter {
            kept.retain(|index| lists(index).is_none());
        }
    }

    fn reason(&self, question: &Question<'_>, _: &Endpoint) -> String {
        format!("the engine has not loaded `{}`", question.model.unwrap_or_default())
    }
}

/// Whether the engine lists the model; `None` when its list is unknown.
fn lists(endpoint: &Endpoint, model: &str) -> Option<bool> {
    let models = endpoint.gauges.as_ref()?.models.as_ref()?;
    Some(models.iter().any(|listed| **listed == *model))
}
