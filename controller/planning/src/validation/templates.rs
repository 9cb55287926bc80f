//! Whether pods can be made from a template.

use controller_api::labels;
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};

use super::Findings;

/// Labels that the operator finds its pods by, and therefore sets itself.
pub(super) const RESERVED: &[&str] = &[
    labels::NAME,
    labels::GROUP_NAME,
    labels::ROLE,
    labels::ROLE_ID,
    labels::ENTRY,
    labels::REVISION,
    labels::ROLE_TEMPLATE_HASH,
];

/// `used`: there are to be pods of it. What nobody uses may be left unfinished.
pub(super) fn check(path: &str, template: &PodTemplateSpec, used: bool, found: &mut Findings) {
    let labels = template.metadata.iter().filter_map(|metadata| metadata.labels.as_ref()).flatten();
    for (key, value) in labels.filter(|(_, value)| !is_label_value(value)) {
        found.add(
            format!("{path}.metadata.labels[{key}]"),
            format!(
                "{value:?} cannot be the value of a label: use at most 63 letters, digits, '-', '_' and '.', starting \
                 and ending with a letter or digit"
            ),
        );
    }
    let pod = template.spec.as_ref();
    if used && pod.is_none_or(|pod| pod.containers.is_empty()) {
        found.add(format!("{path}.spec.containers"), "containers must be specified: a pod needs at least one");
    }
    if let Some(pod) = pod {
        containers(&format!("{path}.spec.containers"), &pod.containers, found);
        containers(&format!("{path}.spec.initContainers"), pod.init_containers.as_deref().unwrap_or_default(), found);
    }
}

fn containers(path: &str, containers: &[Container], found: &mut Findings) {
    for (position, container) in containers.iter().enumerate() {
        // None at all is left to whoever fills it in on the way to the pod.
        let Some(image) = container.image.as_deref().filter(|image| !image.is_empty()) else { continue };
        let field = format!("{path}[{position}].image");
        if image.trim().is_empty() {
            found.add(field, "invalid container image reference: image cannot be empty or whitespace only");
        } else if image.contains(char::is_whitespace) {
            found.add(field, format!("invalid container image reference: {image:?} cannot contain spaces"));
        }
    }
}

fn is_label_value(value: &str) -> bool {
    let end = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = value.as_bytes();
    bytes.len() <= 63
        && end(bytes.first())
        && end(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}
