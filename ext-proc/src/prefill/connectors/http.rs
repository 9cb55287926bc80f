//! `http` and `lmcache`: the engines share a store of KV blocks, so bodies need not say anything.

use std::net::IpAddr;

use super::{Connector, Transfer};

#[derive(Debug)]
pub(super) struct Http;

impl Connector for Http {
    fn one_sequence_only(&self) -> bool {
        false
    }

    fn transfer(&self, _: IpAddr, _: u64) -> Transfer {
        Transfer::Prefilled { prefill: Vec::new(), decode: |_| Ok(Vec::new()) }
    }
}
