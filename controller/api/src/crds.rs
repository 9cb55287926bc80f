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
