//! Envoy's messages, as the exchange and the brain understand them.

use std::net::{IpAddr, SocketAddr};

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::envoy::service::ext_proc::v3::ProtocolConfiguration;
use envoy_types::pb::google::protobuf::Value;
use envoy_types::pb::google::protobuf::value::Kind;
use scheduling::{Headers, Subset};

use crate::exchange::{BodySend, Input, Modes, ProtocolError};
use crate::service::wire::{Part, ProcessingRequest};
use crate::steering;

/// The headers of one message, as they came.
#[derive(Debug, Default)]
pub struct WireHeaders(Vec<HeaderValue>);

impl WireHeaders {
    /// Every name, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|header| header.key.as_str())
    }

    /// Every value of `name`, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |header| header.key.eq_ignore_ascii_case(name)).filter_map(value)
    }

    /// The response's `:status`.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        self.get(":status")?.parse().ok()
    }
}

impl From<Option<HeaderMap>> for WireHeaders {
    fn from(headers: Option<HeaderMap>) -> Self {
        Self(headers.map(|map| map.headers).unwrap_or_default())
    }
}

impl Headers for WireHeaders {
    fn get(&self, name: &str) -> Option<&str> {
        value(self.0.iter().find(|header| header.key.eq_ignore_ascii_case(name))?)
    }
}

/// Envoy fills `raw_value`; NGINX Gateway Fabric fills `value`, and agentgateway does for pseudo headers.
fn value(header: &HeaderValue) -> Option<&str> {
    if header.raw_value.is_empty() { Some(&header.value) } else { std::str::from_utf8(&header.raw_value).ok() }
}

/// What one message says.
#[derive(Debug)]
pub enum Heard {
    /// Something for the exchange.
    Input {
        /// The message.
        input: Input,
        /// Its headers, where it is a headers message.
        headers: Option<WireHeaders>,
    },
    /// Nothing that concerns us, as a flow-control window.
    Nothing,
}

/// What a message says; takes the parts out of `message`.
///
/// # Errors
/// [`ProtocolError::UnknownMode`].
pub fn heard(message: &mut ProcessingRequest) -> Result<Heard, ProtocolError> {
    let modes = message.protocol_config.as_ref().map(modes).transpose()?;
    let Some(part) = message.request.take() else { return Ok(Heard::Nothing) };
    let input = match part {
        Part::RequestHeaders(part) => {
            let headers = WireHeaders::from(part.headers);
            let content_length = headers.get("content-length").and_then(|text| text.trim().parse().ok());
            let input = Input::RequestHeaders { end: part.end_of_stream, content_length, modes };
            return Ok(Heard::Input { input, headers: Some(headers) });
        }
        Part::ResponseHeaders(part) => {
            let input = Input::ResponseHeaders { end: part.end_of_stream, modes };
            return Ok(Heard::Input { input, headers: Some(part.headers.into()) });
        }
        Part::RequestBody(part) => Input::RequestBody { bytes: part.body, end: part.end_of_stream },
        Part::ResponseBody(part) => Input::ResponseBody { bytes: part.body, end: part.end_of_stream },
        Part::RequestTrailers(_) => Input::RequestTrailers,
        Part::ResponseTrailers(_) => Input::ResponseTrailers,
    };
    Ok(Heard::Input { input, headers: None })
}

fn modes(config: &ProtocolConfiguration) -> Result<Modes, ProtocolError> {
    Ok(Modes {
        request: body_send(config.request_body_mode)?,
        response: body_send(config.response_body_mode)?,
        body_without_waiting: config.send_body_without_waiting_for_header_response,
    })
}

fn body_send(mode: i32) -> Result<BodySend, ProtocolError> {
    match mode {
        0 => Ok(BodySend::None),
        1 => Ok(BodySend::Streamed),
        2 => Ok(BodySend::Buffered),
        3 => Ok(BodySend::BufferedPartial),
        4 => Ok(BodySend::FullDuplex),
        other => Err(ProtocolError::UnknownMode(other)),
    }
}

/// The data plane's subset hint; `None` when there is none. What cannot be read allows nobody.
#[must_use]
pub fn subset(metadata: Option<&Metadata>) -> Option<Subset> {
    let value = field(metadata, "envoy.lb.subset_hint", steering::SUBSET)?;
    let mut subset = Subset::default();
    members(value, &mut |text| {
        for member in text.split(',').map(str::trim) {
            if let Ok(address) = member.parse::<SocketAddr>() {
                subset.addresses.push(address);
            } else if let Ok(host) = member.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
                subset.hosts.push(host);
            }
        }
    });
    Some(subset)
}

/// The endpoint that served, which the data plane tells with the response's headers.
#[must_use]
pub fn served(metadata: Option<&Metadata>) -> Option<SocketAddr> {
    match field(metadata, "envoy.lb", steering::SERVED)?.kind.as_ref()? {
        Kind::StringValue(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn field<'a>(metadata: Option<&'a Metadata>, namespace: &str, key: &str) -> Option<&'a Value> {
    metadata?.filter_metadata.get(namespace)?.fields.get(key)
}

fn members(value: &Value, each: &mut dyn FnMut(&str)) {
    match &value.kind {
        Some(Kind::StringValue(text)) => each(text),
        Some(Kind::ListValue(list)) => {
            for value in &list.values {
                if let Some(Kind::StringValue(text)) = &value.kind {
                    each(text);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use envoy_types::pb::google::protobuf::{ListValue, Struct};

    use super::*;

    fn text(value: &str) -> Value {
        Value { kind: Some(Kind::StringValue(value.into())) }
    }

    fn hint(value: Value) -> Metadata {
        let fields = HashMap::from([(steering::SUBSET.to_owned(), value)]);
        let namespaces = HashMap::from([("envoy.lb.subset_hint".to_owned(), Struct { fields })]);
        Metadata { filter_metadata: namespaces, ..Metadata::default() }
    }

    fn header(key: &str, value: &str, raw: &str) -> HeaderValue {
        HeaderValue { key: key.into(), value: value.into(), raw_value: raw.into() }
    }

    #[test]
    fn a_subset_is_a_list_or_a_comma_string_with_or_without_ports() {
        let list =
            Value { kind: Some(Kind::ListValue(ListValue { values: vec![text("10.0.0.1:8000"), text("10.0.0.2")] })) };
        let expected =
            Subset { addresses: vec!["10.0.0.1:8000".parse().unwrap()], hosts: vec!["10.0.0.2".parse().unwrap()] };
        assert_eq!(subset(Some(&hint(list))), Some(expected.clone()));
        assert_eq!(subset(Some(&hint(text("10.0.0.1:8000, 10.0.0.2")))), Some(expected));
    }

    #[test]
    fn a_subset_holds_ipv6_with_and_without_port() {
        let expected = Subset {
            addresses: vec!["[fd00::1]:8000".parse().unwrap()],
            hosts: vec!["fd00::2".parse().unwrap(), "fd00::3".parse().unwrap()],
        };
        assert_eq!(subset(Some(&hint(text("[fd00::1]:8000,fd00::2,[fd00::3]")))), Some(expected));
    }

    #[test]
    fn a_subset_that_is_empty_or_unreadable_allows_nobody() {
        for value in [text(""), text("nonsense"), Value { kind: None }, Value { kind: Some(Kind::NumberValue(1.0)) }] {
            assert_eq!(subset(Some(&hint(value))), Some(Subset::default()));
        }
    }

    #[test]
    fn no_hint_is_no_subset() {
        assert_eq!(subset(None), None);
        assert_eq!(subset(Some(&Metadata::default())), None);
    }

    #[test]
    fn header_values_are_read_from_either_field() {
        let headers =
            WireHeaders(vec![header(":path", "/v1", ""), header("a", "", "raw"), header(":status", "", "204")]);
        assert_eq!(headers.get(":path"), Some("/v1"));
        assert_eq!(headers.get("a"), Some("raw"));
        assert_eq!(headers.status(), Some(204));
        assert_eq!(headers.get(":method"), None);
    }

    #[test]
    fn a_header_that_came_twice_has_both_values() {
        let headers = WireHeaders(vec![header("A", "", "1"), header("b", "", "2"), header("a", "3", "")]);
        assert_eq!(headers.all("a").collect::<Vec<_>>(), ["1", "3"]);
        assert_eq!(headers.all("c").count(), 0);
    }
}
