//! How prefill and decode find each other's KV blocks: one file and one line for each connector.

mod http;
mod mooncake;
mod nixl;
mod sglang;

use std::fmt;
use std::net::IpAddr;

use scheduling::KvConnector;

use crate::splice::Change;

/// The connector of this name.
#[must_use]
pub fn connector(kind: KvConnector) -> &'static dyn Connector {
    match kind {
        KvConnector::Http | KvConnector::Lmcache => &http::Http,
        KvConnector::Nixl => &nixl::Nixl,
        KvConnector::Mooncake => &mooncake::Mooncake,
        KvConnector::Sglang => &sglang::Sglang,
    }
}

/// Members of a body that only we may write: they make an engine fetch KV blocks from where they say.
/// A client's own are removed from everything that is sent to an engine of a `pdGroup`.
pub const TRANSFER_FIELDS: [&str; 4] = ["kv_transfer_params", "bootstrap_host", "bootstrap_port", "bootstrap_room"];

/// One way for KV blocks to travel. Pure: it says what bodies contain, and sends nothing.
pub trait Connector: fmt::Debug + Send + Sync {
    /// Whether a request with several prompts or several answers is beyond it, because transfer
    /// fields name the blocks of one prompt, to be fetched once.
    fn one_sequence_only(&self) -> bool;

    /// The transfer of one request from the prefill engine at `host`. `room` is a number below 2^63
    /// that no other try has.
    fn transfer(&self, host: IpAddr, room: u64) -> Transfer;
}

/// What has to be in the bodies of one request, and when decode may begin.
#[derive(Clone, Debug)]
pub enum Transfer {
    /// Decode begins when prefill has answered.
    Prefilled {
        /// For the prefill's body; the same for every prefill endpoint.
        prefill: Vec<Change>,
        /// For decode's body, out of the prefill's answer.
        decode: fn(&[u8]) -> Result<Vec<Change>, NoTransfer>,
    },
    /// Both begin at once and meet. There is no second try, because decode was told where to go.
    Together {
        /// For the prefill's body.
        prefill: Vec<Change>,
        /// For decode's body.
        decode: Vec<Change>,
    },
}

/// A prefill's answer that lacks what decode needs.
#[derive(Debug, thiserror::Error)]
pub enum NoTransfer {
    /// It is not JSON.
    #[error("the prefill's answer is not a JSON object")]
    NotJson(#[source] serde_json::Error),
    /// The engine says nothing about its blocks.
    #[error(
        "the prefill's answer has no kv_transfer_params; start the engine with a kv_connector in --kv-transfer-config \
         that is the kvConnector of the ModelServer"
    )]
    NoParams,
}

#[cfg(test)]
mod tests;
