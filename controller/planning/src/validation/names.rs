//! Whether pods, services and labels can be named after a ModelServing and its roles.

use controller_api::v1alpha1::model_serving::ModelServing;
use kube::ResourceExt;

use super::Findings;

/// Of a pod's host name, a service and a label's value.
const LONGEST: usize = 63;

pub(super) fn check(serving: &ModelServing, found: &mut Findings) {
    let name = serving.name_any();
    if !is_label(&name) || !name.starts_with(|first: char| first.is_ascii_lowercase()) {
        found.add(
            "metadata.name",
            format!(
                "invalid name {name:?}: it must start with a lowercase letter, end with a letter or digit, and hold \
                 only lowercase letters, digits and '-', because services are named after it"
            ),
        );
    }
    for (position, role) in serving.spec.template.roles.iter().enumerate() {
        if !is_label(&role.name) || role.name.len() > 12 {
            found.add(
                format!("spec.template.roles[{position}].name"),
                format!(
                    "role name {:?} must be 1 to 12 lowercase letters, digits and '-', starting and ending with a \
                     letter or digit, because pods are named after it",
                    role.name
                ),
            );
        }
        // Kthena counts so too: the largest ordinal is one less, but an update may add groups.
        let longest = format!(
            "{name}-{}-{}-{}-{}",
            serving.spec.replicas.unwrap_or(1),
            role.name,
            role.replicas.unwrap_or(1),
            role.worker_replicas
        );
        if longest.len() > LONGEST {
            found.add(
                "metadata.name",
                format!(
                    "invalid name: a pod could be called {longest}, which has {} characters, and at most {LONGEST} are \
                     allowed; shorten metadata.name or the role's name",
                    longest.len()
                ),
            );
        }
    }
}

/// Whether it is lowercase letters, digits and `-` between letters or digits, as a DNS label is (RFC 1123 2.1) but for its
/// length.
#[must_use]
pub fn is_label(text: &str) -> bool {
    let end = |letter: Option<char>| letter.is_some_and(|it| it.is_ascii_lowercase() || it.is_ascii_digit());
    end(text.chars().next())
        && end(text.chars().next_back())
        && text.chars().all(|it| it.is_ascii_lowercase() || it.is_ascii_digit() || it == '-')
}
