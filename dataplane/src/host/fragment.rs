//! STUB
use super::*;
use crate::drops::DropReason;
pub fn fragment(_: Packet, _: usize, _: u32, _: &Pool) -> Result<Vec<Packet>, DropReason> {
    Ok(vec![])
}
