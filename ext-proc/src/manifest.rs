//! One file of manifests into objects: documents, lists, and errors that say where.

use std::fmt;
use std::sync::LazyLock;

use controller_api::inference_pool::InferencePool;
use controller_api::v1alpha1::model_route::ModelRoute;
use controller_api::v1alpha1::model_server::ModelServer;
use k8s_openapi::api::core::v1::Pod;
use kube::CustomResourceExt;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;

/// An object of a kind that we use.
#[derive(Clone, Debug)]
pub(crate) enum Object {
    Pod(Box<Pod>),
    InferencePool(Box<InferencePool>),
    ModelServer(Box<ModelServer>),
    ModelRoute(Box<ModelRoute>),
}

/// What a file holds.
#[derive(Debug, Default)]
pub(crate) struct Manifests {
    /// The objects with the line that their document begins at.
    pub(crate) objects: Vec<(usize, Object)>,
    /// `apiVersion/kind` of the objects that we do not use.
    pub(crate) ignored: Vec<String>,
}

/// What is wrong in a file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("{}{cause}", at(*.line, .field))]
    Yaml { line: usize, field: String, cause: String },
    #[error("{}unknown field{}", at(*.line, .field), did_you_mean.map(|name| format!(", did you mean `{name}`?")).unwrap_or_default())]
    UnknownField { line: usize, field: String, did_you_mean: Option<&'static str> },
}

fn at(line: usize, field: &str) -> String {
    if field.is_empty() || field == "." { format!("line {line}: ") } else { format!("line {line}: {field}: ") }
}

/// Reads all documents of `text`.
pub(crate) fn parse(text: &str) -> Result<Manifests, ManifestError> {
    let mut manifests = Manifests::default();
    for (line, document) in documents(text) {
        parse_document(line, document, &mut manifests)?;
    }
    Ok(manifests)
}

/// The documents that hold more than comments, with the number of their first line.
fn documents(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut start, mut start_line, mut offset) = (0, 1, 0);
    let mut end_of = |from: usize, to: usize, line: usize| {
        let document = text.get(from..to).unwrap_or_default();
        let blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        if !document.lines().all(blank) {
            found.push((line, document));
        }
    };
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let next = offset + line.len();
        if line.trim_end() == "---" || line.starts_with("--- ") {
            end_of(start, offset, start_line);
            (start, start_line) = (next, index + 2);
        }
        offset = next;
    }
    end_of(start, offset, start_line);
    found
}

fn parse_document(line: usize, document: &str, manifests: &mut Manifests) -> Result<(), ManifestError> {
    let header: Header = read(line, document, std::marker::PhantomData)?;
    let list = header.items.is_some() && header.kind.ends_with("List");
    let kinds: Vec<Option<Kind>> = if let Some(items) = header.items.as_ref().filter(|_| list) {
        // The items of a `PodList` need not name their kind: the list's name tells it.
        let implied = header.kind.trim_end_matches("List");
        let of = |item: &ItemHeader| {
            let version = item.api_version.as_deref().unwrap_or(&header.api_version);
            named(version, item.kind.as_deref().unwrap_or(implied), manifests)
        };
        items.iter().map(of).collect()
    } else {
        vec![named(&header.api_version, &header.kind, manifests)]
    };
    if kinds.iter().all(Option::is_none) {
        return Ok(());
    }
    let objects = if list {
        read(line, document, ListSeed(&kinds))?
    } else {
        read(line, document, ObjectSeed(kinds.first().copied().flatten()))?.into_iter().collect()
    };
    refuse_unknown_fields(line, document, &kinds, list)?;
    manifests.objects.extend(objects.into_iter().map(|object| (line, object)));
    Ok(())
}

fn named(version: &str, kind: &str, manifests: &mut Manifests) -> Option<Kind> {
    let known = Kind::of(version, kind);
    if known.is_none() {
        manifests.ignored.push(format!("{version}/{kind}"));
    }
    known
}

/// Deserialises one document; an error names the line in the file and the field.
fn read<'a, S>(first_line: usize, document: &'a str, seed: S) -> Result<S::Value, ManifestError>
where
    S: DeserializeSeed<'a>,
{
    let mut track = serde_path_to_error::Track::new();
    let outcome = serde_saphyr::with_deserializer_from_str_with_options(document, options(), |deserializer| {
        seed.deserialize(serde_path_to_error::Deserializer::new(deserializer, &mut track))
    });
    outcome.map_err(|error| {
        let line = error.location().map_or(0, |location| usize::try_from(location.line()).unwrap_or(0));
        let field = track.path().to_string();
        ManifestError::Yaml { line: first_line + line.saturating_sub(1), field, cause: without_location(&error) }
    })
}

/// The message alone: the library appends a line number that counts from the document's start.
fn without_location(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    text.rfind(" at line ").and_then(|end| text.get(..end)).map_or(text.clone(), str::to_owned)
}

/// Room for a dump of a large cluster in one list; the other limits are the library's.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! { max_nodes: 8_000_000, max_events: 24_000_000 },
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    #[serde(default)]
    api_version: String,
    kind: String,
    items: Option<Vec<ItemHeader>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ItemHeader {
    api_version: Option<String>,
    kind: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pod,
    InferencePool,
    ModelServer,
    ModelRoute,
}

impl Kind {
    fn of(version: &str, kind: &str) -> Option<Self> {
        match (version, kind) {
            ("v1", "Pod") => Some(Self::Pod),
            ("inference.networking.k8s.io/v1", "InferencePool") => Some(Self::InferencePool),
            ("networking.serving.volcano.sh/v1alpha1", "ModelServer") => Some(Self::ModelServer),
            ("networking.serving.volcano.sh/v1alpha1", "ModelRoute") => Some(Self::ModelRoute),
            _ => None,
        }
    }

    /// The schema of `spec`, for the kinds whose fields we know all of.
    fn spec_schema(self) -> Option<&'static Value> {
        static SCHEMAS: LazyLock<[Value; 3]> = LazyLock::new(|| {
            [InferencePool::crd(), ModelServer::crd(), ModelRoute::crd()].map(|crd| {
                let schema = crd.spec.versions.into_iter().next().and_then(|version| version.schema);
                let schema = serde_json::to_value(schema).unwrap_or_default();
                schema.pointer("/openAPIV3Schema/properties/spec").cloned().unwrap_or_default()
            })
        });
        let [pool, server, route] = &*SCHEMAS;
        match self {
            Self::Pod => None,
            Self::InferencePool => Some(pool),
            Self::ModelServer => Some(server),
            Self::ModelRoute => Some(route),
        }
    }
}

struct ObjectSeed(Option<Kind>);

impl<'de> DeserializeSeed<'de> for ObjectSeed {
    type Value = Option<Object>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Ok(Some(match self.0 {
            None => return IgnoredAny::deserialize(deserializer).map(|_| None),
            Some(Kind::Pod) => Object::Pod(Box::deserialize(deserializer)?),
            Some(Kind::InferencePool) => Object::InferencePool(Box::deserialize(deserializer)?),
            Some(Kind::ModelServer) => Object::ModelServer(Box::deserialize(deserializer)?),
            Some(Kind::ModelRoute) => Object::ModelRoute(Box::deserialize(deserializer)?),
        }))
    }
}

#[derive(Clone, Copy)]
struct ListSeed<'a>(&'a [Option<Kind>]);

impl<'de> DeserializeSeed<'de> for ListSeed<'_> {
    type Value = Vec<Object>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for ListSeed<'_> {
    type Value = Vec<Object>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut objects = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                objects = map.next_value_seed(ItemsSeed(self.0))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(objects)
    }
}

struct ItemsSeed<'a>(&'a [Option<Kind>]);

impl<'de> DeserializeSeed<'de> for ItemsSeed<'_> {
    type Value = Vec<Object>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ItemsSeed<'_> {
    type Value = Vec<Object>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut objects = Vec::new();
        for kind in self.0 {
            let item = items.next_element_seed(ObjectSeed(*kind))?;
            objects.extend(item.ok_or_else(|| de::Error::custom("the list became shorter"))?);
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(objects)
    }
}

/// A typing error in a manifest must not pass as a field that was left out.
///
/// Not `deny_unknown_fields` on the types: a newer cluster may serve fields that we do not know.
fn refuse_unknown_fields(line: usize, document: &str, kinds: &[Option<Kind>], list: bool) -> Result<(), ManifestError> {
    let schemas: Vec<_> = kinds.iter().map(|kind| kind.and_then(Kind::spec_schema)).collect();
    if schemas.iter().all(Option::is_none) {
        return Ok(());
    }
    let value: Value = read(line, document, std::marker::PhantomData)?;
    for (index, schema) in schemas.into_iter().enumerate() {
        let (object, path) = if list {
            (value.get("items").and_then(|items| items.get(index)), format!("items[{index}].spec"))
        } else {
            (Some(&value), "spec".to_owned())
        };
        let Some((spec, schema)) = object.and_then(|object| object.get("spec")).zip(schema) else { continue };
        if let Some((field, did_you_mean)) = unknown_field(spec, schema, &path) {
            return Err(ManifestError::UnknownField { line, field, did_you_mean });
        }
    }
    Ok(())
}

/// The path of the first field that the schema does not have, and the closest that it has.
fn unknown_field(value: &Value, schema: &'static Value, path: &str) -> Option<(String, Option<&'static str>)> {
    match value {
        Value::Object(fields) => fields.iter().find_map(|(name, field)| {
            let path = format!("{path}.{name}");
            match schema.get("properties").and_then(Value::as_object) {
                Some(known) => match known.get(name) {
                    Some(schema) => unknown_field(field, schema, &path),
                    None => Some((path, closest(name, known.keys().map(String::as_str)))),
                },
                None => unknown_field(field, schema.get("additionalProperties")?, &path),
            }
        }),
        Value::Array(items) => {
            let schema = schema.get("items")?;
            let numbered = items.iter().enumerate();
            numbered.filter_map(|(index, item)| unknown_field(item, schema, &format!("{path}[{index}]"))).next()
        }
        _ => None,
    }
}

fn closest(name: &str, known: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    known
        .map(|candidate| (strsim::jaro_winkler(&name.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "apiVersion: networking.serving.volcano.sh/v1alpha1\nkind: ModelServer\nmetadata: {name: a}\n";

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn documents_and_lists_are_flattened_and_other_kinds_are_named() {
        let text = "# a comment\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: one}\n---\n---\n\
            apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: two}}\n\
            - {apiVersion: v1, kind: Service, metadata: {name: s}}\n---\n\
            apiVersion: v1\nkind: PodList\nitems:\n- metadata: {name: three}\n";
        let manifests = parse(text).unwrap();
        let names: Vec<_> = manifests
            .objects
            .iter()
            .map(|(line, object)| match object {
                Object::Pod(pod) => (*line, pod.metadata.name.as_deref().unwrap()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(names, [(3, "one"), (8, "two"), (14, "three")]);
        assert_eq!(manifests.ignored, ["v1/Service"]);
    }

    #[test]
    fn json_is_a_document_too() {
        let manifests = parse(r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}}"#).unwrap();
        assert_eq!(manifests.objects.len(), 1);
    }

    #[test]
    fn an_error_says_line_and_field() {
        let wrong_type = format!(
            "---\n{SERVER}spec:\n  inferenceEngine: vLLM\n  workloadSelector: {{}}\n  workloadPort:\n    port: eighty\n"
        );
        let text = error(&wrong_type);
        assert!(text.starts_with("line 9: spec.workloadPort.port: "), "{text}");
        let text = error(&format!("{SERVER}spec:\n  inferenceEngine: vllm\n  workloadSelector: {{}}\n"));
        assert!(text.starts_with("line 5: spec.inferenceEngine: ") && text.contains("vLLM"), "{text}");
        let text = error("a: [\n");
        assert!(text.starts_with("line "), "{text}");
        let text = error("apiVersion: v1\n");
        assert!(text.contains("kind"), "{text}");
    }

    #[test]
    fn an_unknown_field_is_an_error_with_the_closest_name() {
        let spec = "spec:\n  inferenceEngine: vLLM\n  workloadSelector:\n    matchlabels: {a: b}\n";
        assert_eq!(
            error(&format!("{SERVER}{spec}")),
            "line 1: spec.workloadSelector.matchlabels: unknown field, did you mean `matchLabels`?"
        );
        let list = "kind: List\napiVersion: v1\nitems:\n- apiVersion: networking.serving.volcano.sh/v1alpha1\n  \
            kind: ModelRoute\n  metadata: {name: r}\n  spec:\n    modelName: m\n    rules:\n    - targetModels:\n      \
            - {modelServerName: s, wieght: 3}\n";
        assert_eq!(
            error(list),
            "line 1: items[0].spec.rules[0].targetModels[0].wieght: unknown field, did you mean `weight`?"
        );
    }

    #[test]
    fn free_maps_take_any_key() {
        let spec = "spec:\n  inferenceEngine: vLLM\n  workloadSelector:\n    matchLabels: {any.example/key: b}\n";
        assert_eq!(parse(&format!("{SERVER}{spec}")).unwrap().objects.len(), 1);
    }
}
