//! `mooncake`, as Kthena has it: the bodies of [`super::nixl`].

use std::net::IpAddr;

use super::nixl::Nixl;
use super::{Connector, Transfer};

#[derive(Debug)]
pub(super) struct Mooncake;

impl Connector for Mooncake {
    fn one_sequence_only(&self) -> bool {
        Nixl.one_sequence_only()
    }

    fn transfer(&self, host: IpAddr, room: u64) -> Transfer {
        Nixl.transfer(host, room)
    }
}
