//! `sglang`: prefill and decode run at once and meet at the prefill's bootstrap server, in a room.
//!
//! `bootstrap_port` is left out, since no field of a ModelServer says it: decode then takes its own
//! `--disaggregation-bootstrap-port`, 8998 unless set, for the prefill engine's.

use std::net::IpAddr;

use super::{Connector, Transfer};
use crate::splice::Change;

#[derive(Debug)]
pub(super) struct Sglang;

impl Connector for Sglang {
    fn one_sequence_only(&self) -> bool {
        true
    }

    fn transfer(&self, host: IpAddr, room: u64) -> Transfer {
        let fields = vec![
            Change::Set("bootstrap_host", format!("\"{host}\"").into_bytes()),
            Change::Set("bootstrap_room", room.to_string().into_bytes()),
        ];
        Transfer::Together { prefill: fields.clone(), decode: fields }
    }
}
