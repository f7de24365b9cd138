//! Zero-copy views over packets and writers of headers. One file a protocol.
//!
//! Contract of every function here: it takes any bytes and never panics. What does not parse ends in a
//! [`DropReason`](crate::drops::DropReason); a slice that is changed in place stays unchanged when the change is
//! refused. Headers of a fixed length are arrays, so that a field outside of them does not compile.
//! Field offsets are named once, at the top of the protocol's file.

pub mod address;
pub mod ah;
pub mod arp;
pub(crate) mod bytes;
pub mod checksum;
pub mod ecn;
pub mod esp;
pub mod ethernet;
pub mod icmp;
pub mod icmpv6;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod tcp;
pub mod udp;
