//! Counters of counter mode.

use super::frame::BLOCK;

/// Counters for the first 4 KB of a packet, as they stand in memory: big-endian in the last word of a block. They are added
/// to the nonce rather than written, so one table serves all.
#[repr(align(64))]
pub struct CounterTable(pub [[u8; 64]; 64]);

/// In vectors of four blocks.
pub static COUNTERS: CounterTable = CounterTable({
    let mut table = [[0; 64]; 64];
    let mut block = 0;
    while block < 256 {
        let bytes = (block as u32 + 1).to_be_bytes();
        let mut byte = 0;
        while byte < 4 {
            table[block / 4][block % 4 * BLOCK + 12 + byte] = bytes[byte];
            byte += 1;
        }
        block += 1;
    }
    table
});
