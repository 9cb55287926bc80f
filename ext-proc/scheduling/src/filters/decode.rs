//! `decode`: keeps the decode endpoints of the ModelServer. Runs where a ModelServer with a `pdGroup`
//! is concerned: the gateway must send no request to a prefill pod, also when the pool selects it.

use crate::endpoint::Endpoint;
use crate::filters::{Filter, Question};
use crate::refusal::RefusalKind;
use crate::routing::ModelServer;

#[derive(Debug)]
pub(crate) struct Decode;

impl Filter for Decode {
    fn filter(&self, question: &Question<'_>, kept: &mut Vec<usize>) {
        if let Some(decodes) = question.decodes {
            kept.retain(|index| decodes.members.contains(*index));
        }
    }

    fn reason(&self, question: &Question<'_>, endpoint: &Endpoint) -> String {
        match question.decodes.and_then(|decodes| decodes.server) {
            Some((server, _)) if server.selects(endpoint) => {
                format!("the pod lacks {} of the ModelServer `{}`", wanted(server), server.name)
            }
            Some((server, _)) => format!("the ModelServer `{}` does not select it", server.name),
            None => "it is a prefill pod of a ModelServer with a pdGroup".to_owned(),
        }
    }

    fn refusal(&self, question: &Question<'_>, name: &'static str, last: &Endpoint) -> RefusalKind {
        let reason = match question.decodes.and_then(|decodes| decodes.server) {
            Some((server, _)) => {
                format!("no pod of the pool that the ModelServer `{}` selects has {}", server.name, wanted(server))
            }
            None => self.reason(question, last),
        };
        RefusalKind::FilteredOut { filter: name.to_owned(), reason }
    }
}

/// `decodeLabels role=decode and a value for groupKey group`.
fn wanted(server: &ModelServer) -> String {
    let Some(group) = &server.pd_group else { return "a pdGroup".to_owned() };
    let labels: Vec<String> = group.decode_labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let key = group.group_key.as_ref().map(|key| format!(" and a value for groupKey {key}")).unwrap_or_default();
    format!("decodeLabels {}{key}", labels.join(","))
}
