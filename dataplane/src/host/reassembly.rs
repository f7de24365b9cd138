//! STUB
use super::*;
use crate::packet::ip::IpInfo;
#[derive(Clone, Debug, Default)]
pub struct ReassemblyConfig {}
pub struct Reassembler;
impl Reassembler {
    pub fn new(_: &ReassemblyConfig) -> Self {
        Self
    }
    pub fn push(&mut self, _: Packet, _: &IpInfo, _: &mut Context<'_>) -> Option<Packet> {
        None
    }
    pub fn tick(&mut self, _: &mut Context<'_>) {}
}
