//! The schema of a pod template inside a kind of ours.
//!
//! Kubernetes' own, but without the descriptions: two templates with them are more than the 256 KiB that a client-side
//! apply may write into an annotation. What the OpenAPI document says beside the types, and the Rust bindings leave
//! out, is added again: which lists are merged by key, which objects are replaced whole, and the defaults. They are
//! the same in every CRD that embeds a pod template and is generated from the Go types, so an object that is written
//! under one definition reads the same under another.

use k8s_openapi::api::core::v1::PodSpec;
use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

/// Lists that are merged by key, by the type that has them. All others are replaced whole.
///
/// `PodSpec.hostAliases` has the key `ip` in Kubernetes, where it is not enforced; a CRD would refuse two lines of
/// `/etc/hosts` for one address, so it is left out.
const KEYED_LISTS: &[(&str, &str, &[&str])] = &[
    ("Container", "env", &["name"]),
    ("Container", "ports", &["containerPort", "protocol"]),
    ("Container", "volumeDevices", &["devicePath"]),
    ("Container", "volumeMounts", &["mountPath"]),
    ("PodSpec", "containers", &["name"]),
    ("PodSpec", "imagePullSecrets", &["name"]),
    ("PodSpec", "initContainers", &["name"]),
    ("PodSpec", "resourceClaims", &["name"]),
    ("PodSpec", "schedulingGates", &["name"]),
    ("PodSpec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("PodSpec", "volumes", &["name"]),
    ("ResourceRequirements", "claims", &["name"]),
];

/// Lists that are merged as sets, by the type that has them.
const SETS: &[(&str, &str)] = &[("ContainerRestartRuleOnExitCodes", "values")];

/// Types whose objects are replaced whole.
const ATOMIC: &[&str] = &[
    "ConfigMapEnvSource",
    "ConfigMapKeySelector",
    "ConfigMapProjection",
    "ConfigMapVolumeSource",
    "FileKeySelector",
    "LabelSelector",
    "LocalObjectReference",
    "NodeSelector",
    "NodeSelectorTerm",
    "ObjectFieldSelector",
    "ResourceFieldSelector",
    "SecretEnvSource",
    "SecretKeySelector",
    "SecretProjection",
    "SecretReference",
    "TypedLocalObjectReference",
];

/// Values that the API server fills in, by type and property.
const DEFAULTS: &[(&str, &str, &str)] = &[
    ("AzureDiskVolumeSource", "fsType", "ext4"),
    ("ConfigMapEnvSource", "name", ""),
    ("ConfigMapKeySelector", "name", ""),
    ("ConfigMapProjection", "name", ""),
    ("ConfigMapVolumeSource", "name", ""),
    ("ContainerPort", "protocol", "TCP"),
    ("GRPCAction", "service", ""),
    ("ISCSIVolumeSource", "iscsiInterface", "default"),
    ("LocalObjectReference", "name", ""),
    ("RBDVolumeSource", "keyring", "/etc/ceph/keyring"),
    ("RBDVolumeSource", "pool", "rbd"),
    ("RBDVolumeSource", "user", "admin"),
    ("ScaleIOVolumeSource", "fsType", "xfs"),
    ("ScaleIOVolumeSource", "storageMode", "ThinProvisioned"),
    ("SecretEnvSource", "name", ""),
    ("SecretKeySelector", "name", ""),
    ("SecretProjection", "name", ""),
];

/// Properties that the API server sets to `false`, by type.
const FALSE_BY_DEFAULT: &[(&str, &str)] = &[("AzureDiskVolumeSource", "readOnly"), ("FileKeySelector", "optional")];

/// The form of a quantity, as `apimachinery` parses it: a number, then a binary or decimal unit or an exponent.
const QUANTITY: &str = r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$";

/// What may be said of the metadata of an object that is made from a template.
fn metadata() -> Value {
    let strings = json!({"type": "object", "additionalProperties": {"type": "string"}});
    json!({"type": "object", "properties": {"annotations": strings.clone(), "labels": strings}})
}

/// The schema of a pod template: labels, annotations and the whole `PodSpec`, but for `ephemeralContainers`, with
/// which a pod cannot be created.
pub(crate) fn schema(_: &mut SchemaGenerator) -> Schema {
    // A generator of its own: named definitions can be amended by type before they are put in place.
    let mut generator = SchemaSettings::openapi3().into_generator();
    let mut pod_spec = generator.subschema_for::<PodSpec>().to_value();
    let mut definitions = generator.take_definitions(false);
    for (name, definition) in &mut definitions {
        let kind = name.rsplit('.').next().unwrap_or(name);
        amend(kind, definition);
    }
    inline(&mut pod_spec, &definitions);
    strip_descriptions(&mut pod_spec);
    let mut template = Map::new();
    template.insert("type".to_owned(), "object".into());
    template.insert("properties".to_owned(), json!({"metadata": metadata(), "spec": pod_spec}));
    template.into()
}

/// Adds to the definition of `kind` what the bindings leave out.
fn amend(kind: &str, definition: &mut Value) {
    match kind {
        "Quantity" => set(definition, "pattern", QUANTITY.into()),
        // Of a volume's claim: Kubernetes allows no more there.
        "ObjectMeta" => *definition = metadata(),
        _ => {}
    }
    if ATOMIC.contains(&kind) {
        set(definition, "x-kubernetes-map-type", "atomic".into());
    }
    let defaults =
        DEFAULTS.iter().filter(|(owner, ..)| *owner == kind).map(|(_, name, value)| (*name, (*value).into()));
    let falses =
        FALSE_BY_DEFAULT.iter().filter(|(owner, _)| *owner == kind).map(|(_, name)| (*name, Value::from(false)));
    for (name, default) in defaults.chain(falses) {
        if let Some(Value::Array(required)) = definition.get_mut("required") {
            required.retain(|property| property != name);
        }
        amend_property(definition, name, "default", default);
    }
    for (_, name, keys) in KEYED_LISTS.iter().filter(|(owner, ..)| *owner == kind) {
        amend_property(definition, name, "x-kubernetes-list-type", "map".into());
        amend_property(definition, name, "x-kubernetes-list-map-keys", json!(keys));
    }
    for (_, name) in SETS.iter().filter(|(owner, _)| *owner == kind) {
        amend_property(definition, name, "x-kubernetes-list-type", "set".into());
    }
    if kind == "PodSpec" {
        amend_property(definition, "nodeSelector", "x-kubernetes-map-type", "atomic".into());
        if let Some(properties) = definition.get_mut("properties").and_then(Value::as_object_mut) {
            properties.remove("ephemeralContainers");
        }
    }
}

fn amend_property(definition: &mut Value, name: &str, key: &str, value: Value) {
    if let Some(property) = definition.get_mut("properties").and_then(|properties| properties.get_mut(name)) {
        set(property, key, value);
    }
}

fn set(schema: &mut Value, key: &str, value: Value) {
    if let Some(schema) = schema.as_object_mut() {
        schema.insert(key.to_owned(), value);
    }
}

/// Puts the definitions in the places of the references to them: a CRD must have none. `PodSpec` is not recursive.
fn inline(schema: &mut Value, definitions: &Map<String, Value>) {
    let referred = schema.get("$ref").and_then(Value::as_str).and_then(|reference| {
        let name = reference.rsplit('/').next().unwrap_or(reference);
        definitions.get(name).cloned()
    });
    if let Some(referred) = referred {
        *schema = referred;
    }
    match schema {
        Value::Object(members) => members.values_mut().for_each(|member| inline(member, definitions)),
        Value::Array(members) => members.iter_mut().for_each(|member| inline(member, definitions)),
        _ => {}
    }
}

/// Drops the text of every `description`, but no property of that name.
fn strip_descriptions(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    schema.remove("description");
    for (key, member) in schema {
        match (key.as_str(), member) {
            ("properties", Value::Object(properties)) => properties.values_mut().for_each(strip_descriptions),
            (_, Value::Array(members)) => members.iter_mut().for_each(strip_descriptions),
            (_, member) => strip_descriptions(member),
        }
    }
}
