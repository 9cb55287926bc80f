//! The CustomResourceDefinitions of our kinds, as they are installed.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

use crate::v1alpha1::model_route::ModelRoute;
use crate::v1alpha1::model_server::ModelServer;
use crate::v1alpha1::model_serving::ModelServing;

/// One definition for each kind that we own.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut definitions = vec![ModelServing::crd(), ModelServer::crd(), ModelRoute::crd()];
    for version in definitions.iter_mut().flat_map(|definition| &mut definition.spec.versions) {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            tidy(schema);
            // So that a rule can name it as the field that is wrong.
            let name = JSONSchemaProps { type_: Some("string".to_owned()), ..JSONSchemaProps::default() };
            let metadata = JSONSchemaProps {
                type_: Some("object".to_owned()),
                properties: Some([("name".to_owned(), name)].into()),
                ..JSONSchemaProps::default()
            };
            schema.properties.get_or_insert_default().insert("metadata".to_owned(), metadata);
        }
    }
    definitions
}

/// Makes a derived schema say what the API server understands, here and below.
fn tidy(schema: &mut JSONSchemaProps) {
    // A null then means "not there", so that the default applies; clients in Go write nulls without being asked.
    schema.nullable = None;
    // The API server warns of formats that it does not know.
    match schema.format.as_deref() {
        Some("uint8" | "uint16") => schema.format = Some("int32".to_owned()),
        Some("uint32" | "uint64" | "uint") => schema.format = Some("int64".to_owned()),
        _ => {}
    }
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(tidy);
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => tidy(items),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => items.iter_mut().for_each(tidy),
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy(values);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The definitions as JSON, by plural.
    fn definitions() -> Vec<(String, Value)> {
        all().iter().map(|it| (it.spec.names.plural.clone(), serde_json::to_value(it).unwrap())).collect()
    }

    fn schema(plural: &str) -> Value {
        let (_, definition) = definitions().into_iter().find(|(name, _)| name == plural).unwrap();
        definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
    }

    /// The schema of a field: `spec.template.roles[].replicas`.
    fn field<'a>(schema: &'a Value, path: &str) -> &'a Value {
        path.split('.').fold(schema, |at, step| {
            let name = step.trim_end_matches("[]");
            let property = at.get("properties").and_then(|it| it.get(name)).unwrap_or_else(|| panic!("no {path}"));
            if step.ends_with("[]") { &property["items"] } else { property }
        })
    }

    /// Calls `see` with every schema of a definition and its path.
    fn walk(schema: &Value, path: &str, see: &mut impl FnMut(&str, &Value)) {
        see(path, schema);
        for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            walk(property, &format!("{path}.{name}"), see);
        }
        for (key, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
            if let Some(inner @ Value::Object(_)) = schema.get(key) {
                walk(inner, &format!("{path}{mark}"), see);
            }
        }
    }

    #[test]
    fn a_definition_fits_into_the_annotation_of_a_client_side_apply() {
        for (plural, definition) in definitions() {
            let size = definition.to_string().len();
            assert!(
                size < 200 << 10,
                "{plural} has {size} bytes, and 256 KiB is all that annotations may have together"
            );
        }
    }

    #[test]
    fn absent_fields_get_kthenas_defaults() {
        let serving = schema("modelservings");
        for (path, default) in [
            ("spec.replicas", json!(1)),
            ("spec.schedulerName", json!("volcano")),
            ("spec.recoveryPolicy", json!("RoleRecreate")),
            ("spec.revisionHistoryLimit", json!(10)),
            ("spec.plugins[].type", json!("BuiltIn")),
            ("spec.rolloutStrategy.type", json!("ServingGroupRollingUpdate")),
            ("spec.rolloutStrategy.rollingUpdateConfiguration.maxUnavailable", json!(1)),
            ("spec.template.restartGracePeriodSeconds", json!(0)),
            ("spec.template.networkTopology.groupPolicy.mode", json!("hard")),
            ("spec.template.networkTopology.rolePolicy.mode", json!("hard")),
            ("spec.template.roles[].replicas", json!(1)),
            ("spec.template.roles[].workerReplicas", json!(0)),
            ("spec.template.roles[].entryTemplate.spec.containers[].ports[].protocol", json!("TCP")),
            ("spec.template.roles[].workerTemplate.spec.volumes[].secret.secretName", Value::Null),
            ("spec.template.roles[].maxUnavailable", Value::Null),
        ] {
            let found = field(&serving, path).get("default").cloned().unwrap_or_default();
            assert_eq!(found, default, "{path}");
        }
        let (server, route) = (schema("modelservers"), schema("modelroutes"));
        assert_eq!(field(&server, "spec.workloadPort.protocol")["default"], "http");
        assert_eq!(field(&server, "spec.trafficPolicy.retry.retryInterval")["default"], "100ms");
        assert_eq!(field(&server, "spec.kvConnector.type")["default"], "http");
        assert_eq!(field(&route, "spec.rateLimit.unit")["default"], "second");
        assert_eq!(field(&route, "spec.rules[].targetModels[].weight")["default"], 100);
    }

    #[test]
    fn pod_templates_are_whole_and_say_how_their_lists_merge() {
        let serving = schema("modelservings");
        for template in ["entryTemplate", "workerTemplate"] {
            let pod = field(&serving, &format!("spec.template.roles[].{template}.spec"));
            assert_eq!(field(pod, "containers")["x-kubernetes-list-map-keys"], json!(["name"]));
            assert_eq!(
                field(pod, "containers[].ports")["x-kubernetes-list-map-keys"],
                json!(["containerPort", "protocol"])
            );
            assert_eq!(field(pod, "hostAliases").get("x-kubernetes-list-type"), None, "one address may come twice");
            assert_eq!(field(pod, "terminationGracePeriodSeconds")["type"], "integer");
            let limits = &field(pod, "containers[].resources.limits")["additionalProperties"];
            assert_eq!(limits["x-kubernetes-int-or-string"], true);
            assert!(limits["pattern"].is_string());
            assert_eq!(field(pod, "volumes[].ephemeral.volumeClaimTemplate.metadata.labels")["type"], "object");
            walk(pod, template, &mut |path, schema| {
                assert_eq!(schema.get("description"), None, "{path}");
                assert_eq!(schema.get("$ref"), None, "{path}");
            });
        }
    }

    #[test]
    fn the_api_server_understands_every_schema() {
        for (plural, _) in definitions() {
            walk(&schema(&plural), &plural, &mut |path, schema| {
                assert_eq!(schema.get("nullable"), None, "{path}: a null means that the field is not there");
                if let Some(format) = schema.get("format").and_then(Value::as_str) {
                    assert!(["int32", "int64", "date-time", "byte"].contains(&format), "{path}: {format}");
                }
                for rule in schema.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                    assert!(rule["message"].as_str().is_some_and(|it| it.len() > 20), "{path}: {rule}");
                }
                for key in schema.get("x-kubernetes-list-map-keys").and_then(Value::as_array).into_iter().flatten() {
                    let items = &schema["items"];
                    let required = items["required"].as_array().is_some_and(|it| it.contains(key));
                    let default = items["properties"][key.as_str().unwrap()].get("default");
                    assert!(required || default.is_some(), "{path}: {key} must be required or have a default");
                }
            });
        }
    }

    #[test]
    fn an_autoscaler_finds_what_it_scales() {
        let definition = ModelServing::crd();
        let version = definition.spec.versions.first().unwrap();
        let scale = version.subresources.as_ref().unwrap().scale.as_ref().unwrap();
        assert_eq!(scale.spec_replicas_path, ".spec.replicas");
        assert_eq!(scale.status_replicas_path, ".status.replicas");
        assert_eq!(scale.label_selector_path.as_deref(), Some(".status.labelSelector"));
    }
}
