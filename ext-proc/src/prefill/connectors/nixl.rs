//! `nixl`, vLLM's `NixlConnector`: prefill answers with `kv_transfer_params`, which decode gets
//! verbatim and once.
//!
//! What is in them differs between releases (vLLM 0.28 to 0.32 were looked at), so nothing is read
//! out of them. An engine does not notice parameters that were used before and computes on with
//! foreign blocks: every try makes its own.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Connector, NoTransfer, Transfer};
use crate::splice::Change;

/// The member of both bodies and of the answer.
const PARAMS: &str = "kv_transfer_params";

/// Asks to keep the blocks for somebody who comes for them.
const KEEP: &[u8] = br#"{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}"#;

#[derive(Debug)]
pub(super) struct Nixl;

impl Connector for Nixl {
    fn one_sequence_only(&self) -> bool {
        true
    }

    fn transfer(&self, _: IpAddr, _: u64) -> Transfer {
        Transfer::Prefilled { prefill: vec![Change::Set(PARAMS, KEEP.to_vec())], decode }
    }
}

fn decode(answer: &[u8]) -> Result<Vec<Change>, NoTransfer> {
    let answer: Answer<'_> = serde_json::from_slice(answer).map_err(NoTransfer::NotJson)?;
    let params = answer.kv_transfer_params.ok_or(NoTransfer::NoParams)?;
    Ok(vec![Change::Set(PARAMS, params.get().as_bytes().to_vec())])
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    kv_transfer_params: Option<&'a RawValue>,
}
