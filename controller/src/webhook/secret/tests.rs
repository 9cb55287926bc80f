use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use super::{Material, bundle_patch, is_owned, owner, read, write};

fn material() -> Material {
    Material::make(&["webhook.ns.svc".to_owned()], Timestamp::UNIX_EPOCH, None).unwrap()
}

fn configuration(bundles: &[Option<&str>]) -> ValidatingWebhookConfiguration {
    let webhooks = bundles.iter().enumerate().map(|(number, bundle)| {
        json!({
            "name": format!("{number}.volcano.sh"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": "https://127.0.0.1", "caBundle": bundle}
        })
    });
    serde_json::from_value(json!({"webhooks": webhooks.collect::<Vec<_>>()})).unwrap()
}

#[test]
fn a_bundle_is_written_where_it_differs_and_nowhere_else() {
    // `right` and `wrong` in base 64.
    let patch = bundle_patch(&configuration(&[Some("cmlnaHQ="), Some("d3Jvbmc="), None]), b"right").unwrap();
    assert_eq!(
        patch,
        json!({"webhooks": [
            {"name": "1.volcano.sh", "clientConfig": {"caBundle": "cmlnaHQ="}},
            {"name": "2.volcano.sh", "clientConfig": {"caBundle": "cmlnaHQ="}}
        ]})
    );
    assert_eq!(bundle_patch(&configuration(&[Some("cmlnaHQ=")]), b"right"), None);
    assert_eq!(bundle_patch(&configuration(&[]), b"right"), None);
}

#[test]
fn a_secret_gives_back_what_was_written() {
    let made = material();
    let secret = write("ns", "certs", &made, None, None);
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"));
    assert_eq!(read(&secret), Some(made));
    assert_eq!(read(&Secret::default()), None);
}

#[test]
fn a_secret_is_replaced_only_as_it_was_seen() {
    let before: Secret = serde_json::from_value(json!({
        "metadata": {"name": "certs", "namespace": "ns", "resourceVersion": "7", "labels": {"team": "a"}},
        "type": "Opaque"
    }))
    .unwrap();
    let after = write("ns", "certs", &material(), Some(&before), None);
    assert_eq!(after.metadata.resource_version.as_deref(), Some("7"), "or a faster replica's certificate is lost");
    assert_eq!(after.type_.as_deref(), Some("Opaque"), "a Secret's type cannot be changed");
    assert_eq!(after.metadata.labels.unwrap()["team"], "a");
}

#[test]
fn a_secret_goes_with_the_configuration_that_it_is_for() {
    let mut configuration = configuration(&[None]);
    assert_eq!(owner(&configuration), None, "it is not there yet");
    configuration.metadata.name = Some("webhook".to_owned());
    configuration.metadata.uid = Some("1".to_owned());
    let first = owner(&configuration).unwrap();
    let secret = write("ns", "certs", &material(), None, Some(&first));
    assert!(is_owned(&secret, &first));
    assert!(is_owned(&write("ns", "certs", &material(), Some(&secret), None), &first), "it is not forgotten");
    configuration.metadata.uid = Some("2".to_owned());
    let second = owner(&configuration).unwrap();
    let renewed = write("ns", "certs", &material(), Some(&secret), Some(&second));
    assert!(is_owned(&renewed, &second) && !is_owned(&renewed, &first));
}
