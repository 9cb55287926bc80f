//! An object that may not read as its kind: one bad object must not stop the watch of all others.

use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

/// An object, or what is wrong with it.
#[derive(Clone, Debug)]
pub struct Tolerant<K> {
    /// Always readable.
    pub metadata: ObjectMeta,
    /// The rest. Its own metadata is the same as the one beside it.
    pub object: Result<K, Arc<str>>,
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for Tolerant<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Named {
            #[serde(default)]
            metadata: ObjectMeta,
        }
        let value = serde_json::Value::deserialize(deserializer)?;
        let Named { metadata } = Named::deserialize(&value).map_err(serde::de::Error::custom)?;
        let object = serde_json::from_value(value).map_err(|error| error.to_string().into());
        Ok(Self { metadata, object })
    }
}

impl<K: Resource> Resource for Tolerant<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dynamic)
    }

    fn group(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dynamic)
    }

    fn version(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dynamic)
    }

    fn plural(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use controller_api::v1alpha1::model_serving::ModelServing;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_bad_object_keeps_its_name_and_says_what_is_wrong() {
        let bad = json!({"metadata": {"name": "llm", "resourceVersion": "3"}, "spec": {"replicas": "two"}});
        let read: Tolerant<ModelServing> = serde_json::from_value(bad).unwrap();
        assert_eq!(read.metadata.name.as_deref(), Some("llm"));
        assert!(read.object.unwrap_err().contains("invalid type: string \"two\""));
    }
}
