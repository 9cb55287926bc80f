//! What a client asks of the API server.

use http::Method;

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// As Kubernetes counts them: `get`, `list`, `watch`, `create`, `update`, `patch`, `apply`, `delete`.
    pub verb: &'static str,
    /// In the plural, with the subresource: `pods`, `modelservings/status`; empty for what is no resource.
    pub resource: String,
    /// Empty where there is none.
    pub namespace: String,
    /// Empty for a list, and for a name that the server makes.
    pub name: String,
    /// For a write that counts: which it is, from one.
    pub number: usize,
    /// What the server answered; none when it was not asked, or did not answer.
    pub status: Option<u16>,
}

impl Call {
    /// Whether it changes something other than a lease or an event.
    #[must_use]
    pub fn counts(&self) -> bool {
        let reads = matches!(self.verb, "get" | "list" | "watch");
        !reads && !matches!(self.resource.as_str(), "" | "leases" | "events")
    }

    /// Reads method, path, query, content type and body.
    pub(super) fn read(method: &Method, uri: &http::Uri, content_type: &str, body: &[u8]) -> Self {
        let mut parts = uri.path().trim_matches('/').split('/');
        match parts.next() {
            Some("api") => drop(parts.next()),
            Some("apis") => drop((parts.next(), parts.next())),
            _ => parts = "".split('/'),
        }
        let rest: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
        let (namespace, rest) = match rest.as_slice() {
            ["namespaces", namespace, resource, rest @ ..] => (*namespace, [&[*resource], rest].concat()),
            other => ("", other.to_vec()),
        };
        let resource = match rest.as_slice() {
            [] => String::new(),
            [resource, _, subresource, ..] => format!("{resource}/{subresource}"),
            [resource, ..] => (*resource).to_owned(),
        };
        let named = rest.get(1).map(|name| (*name).to_owned());
        let watch = uri.query().is_some_and(|query| query.contains("watch=true") || query.contains("watch=1"));
        let verb = match *method {
            Method::GET if watch => "watch",
            Method::GET if named.is_none() => "list",
            Method::GET => "get",
            Method::POST => "create",
            Method::PUT => "update",
            Method::DELETE => "delete",
            _ if content_type.contains("apply-patch") => "apply",
            _ => "patch",
        };
        let in_body = || {
            let body: serde_json::Value = serde_json::from_slice(body).ok()?;
            Some(body["metadata"]["name"].as_str()?.to_owned())
        };
        let name = named.or_else(|| (verb == "create").then(in_body)?).unwrap_or_default();
        Self { verb, resource, namespace: namespace.to_owned(), name, number: 0, status: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(
        method: Method,
        uri: &'static str,
        content_type: &str,
        body: &str,
    ) -> (&'static str, String, String, String) {
        let call = Call::read(&method, &http::Uri::from_static(uri), content_type, body.as_bytes());
        (call.verb, call.resource, call.namespace, call.name)
    }

    #[test]
    fn requests_are_told_apart_as_kubernetes_does() {
        let own = |verb, resource: &str, namespace: &str, name: &str| {
            (verb, resource.to_owned(), namespace.to_owned(), name.to_owned())
        };
        let pod = r#"{"metadata":{"name":"llm-0"}}"#;
        assert_eq!(read(Method::POST, "/api/v1/namespaces/n/pods?x=y", "", pod), own("create", "pods", "n", "llm-0"));
        assert_eq!(read(Method::GET, "/api/v1/pods?watch=true", "", ""), own("watch", "pods", "", ""));
        assert_eq!(read(Method::GET, "/api/v1/namespaces/n/pods", "", ""), own("list", "pods", "n", ""));
        assert_eq!(
            read(Method::PATCH, "/apis/g/v1/namespaces/n/things/a/status", "application/apply-patch+yaml", ""),
            own("apply", "things/status", "n", "a")
        );
        assert_eq!(read(Method::GET, "/version", "", ""), own("list", "", "", ""));
        assert_eq!(read(Method::GET, "/api/v1/namespaces/n", "", ""), own("get", "namespaces", "", "n"));
    }
}
