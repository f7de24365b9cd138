//! The XDP programs, assembled here.
//!
//! **Exclusive**: every packet of a queue goes to the socket of that queue.
//!
//! **Shared**: packets whose IP destination is in a list of addresses and prefixes go to the socket, with the
//! ARP requests and replies and the IPv6 neighbour solicitations for those addresses; all others go on to
//! the kernel, which keeps its own addresses on the interface. Up to two VLAN tags are looked through.
//!
//! A packet of ours that finds no socket on its queue is dropped: the kernel must not forward in the clear
//! what policy may want protected.

use std::io;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use ipnet::IpNet;

use super::bpf::{Instruction, MapType, create_map, set};

/// A program, which names its maps by their descriptors and so is good while they are open. Once it is loaded
/// the kernel holds the maps.
pub(super) struct Program<'maps> {
    pub(super) code: Vec<Instruction>,
    maps: PhantomData<&'maps OwnedFd>,
}

/// Makes the program that redirects everything to the sockets in `sockets`.
pub(super) fn exclusive(sockets: &OwnedFd) -> Program<'_> {
    let mut code = Assembler::default();
    // The context comes in r1.
    code.push(load(W, R2, R1, RX_QUEUE_INDEX)); // r2 = the receive queue
    code.redirect(sockets);
    code.finish()
}

/// Makes the program that redirects what is for the addresses and prefixes in `ours`, made by [`prefixes`].
pub(super) fn shared<'maps>(sockets: &'maps OwnedFd, ours: &'maps OwnedFd) -> Program<'maps> {
    let mut code = Assembler::default();
    code.push(mov(R6, R1)); // r6 = the context, kept over calls
    code.push(load(W, R7, R6, DATA)); // r7 = start of the packet
    code.push(load(W, R8, R6, DATA_END)); // r8 = its end

    code.need(14);
    code.push(load(H, R2, R7, 12)); // r2 = EtherType
    for _ in 0..2 {
        let (tag, no_tag) = (code.label(), code.label());
        code.jump(JEQ_K, R2, net16(0x8100), tag); // an 802.1Q tag
        code.jump(JNE_K, R2, net16(0x88a8), no_tag); // nor an 802.1ad tag
        code.place(tag);
        code.push(add(R7, 4)); // step over the tag, as if the addresses began 4 bytes later
        code.need(14);
        code.push(load(H, R2, R7, 12)); // r2 = the EtherType behind it
        code.place(no_tag);
    }
    // The key: prefix length 128, then the address; an IPv4 address as ::ffff:a.b.c.d.
    code.push(store(W, R10, KEY, 128)); // the whole address counts
    let (ipv4, ipv6, arp, look_up) = (code.label(), code.label(), code.label(), code.label());
    code.jump(JEQ_K, R2, net16(0x0800), ipv4); // IPv4
    code.jump(JEQ_K, R2, net16(0x86dd), ipv6); // IPv6
    code.jump(JEQ_K, R2, net16(0x0806), arp); // ARP
    let pass = code.pass;
    code.jump(JA, R0, 0, pass); // anything else is the kernel's

    let mapped = code.label();
    code.place(arp);
    code.need(14 + 28);
    code.push(load(W, R2, R7, 14 + 24)); // r2 = target protocol address (RFC 826)
    code.jump(JA, R0, 0, mapped);
    code.place(ipv4);
    code.need(14 + 20);
    code.push(load(W, R2, R7, 14 + 16)); // r2 = destination address
    code.place(mapped);
    code.push(store(W, R10, KEY + 4, 0));
    code.push(store(W, R10, KEY + 8, 0));
    code.push(store(W, R10, KEY + 12, net32(0x0000_ffff)));
    code.push(store_register(W, R10, R2, KEY + 16));
    code.jump(JA, R0, 0, look_up);

    code.place(ipv6);
    code.need(14 + 40);
    let copy = code.label();
    code.push(mov(R3, R7)); // r3 = where the address to look up is
    code.push(add(R3, 14 + 24)); // the destination address
    code.push(load(B, R2, R7, 14 + 24)); // its first byte
    code.jump(JNE_K, R2, 0xff, copy); // no multicast
    code.push(load(B, R2, R7, 14 + 6)); // next header
    code.jump(JNE_K, R2, 58, copy); // not ICMPv6
    code.need(14 + 40 + 24);
    code.push(load(B, R2, R7, 14 + 40)); // ICMPv6 type
    code.jump(JNE_K, R2, 135, copy); // no neighbour solicitation (RFC 4861 s4.3)
    code.push(mov(R3, R7));
    code.push(add(R3, 14 + 40 + 8)); // its target address
    code.place(copy);
    for word in 0..4 {
        code.push(load(W, R2, R3, 4 * word));
        code.push(store_register(W, R10, R2, KEY + 4 + 4 * word));
    }

    code.place(look_up);
    code.push_map(R1, ours);
    code.push(mov(R2, R10)); // r2 = address of the key
    code.push(add(R2, i32::from(KEY)));
    code.push(call(BPF_MAP_LOOKUP_ELEM)); // r0 = what the map has, or null
    code.jump(JEQ_K, R0, 0, pass); // not ours
    code.push(load(W, R2, R6, RX_QUEUE_INDEX)); // r2 = the receive queue
    code.redirect(sockets);
    code.finish()
}

/// Makes the map of the addresses and prefixes that are ours.
pub(super) fn prefixes(ours: &[IpNet]) -> io::Result<OwnedFd> {
    let map = create_map(MapType::LpmTrie, size_of::<Key>(), size_of::<u32>(), ours.len().max(1))?;
    for prefix in ours {
        let (bits, address) = match prefix.network() {
            IpAddr::V4(address) => (96 + u32::from(prefix.prefix_len()), address.to_ipv6_mapped()),
            IpAddr::V6(address) => (u32::from(prefix.prefix_len()), address),
        };
        set(&map, &Key { bits, address: address.octets() }, &1u32)?;
    }
    Ok(map)
}

/// Makes the map of sockets, one for each of `queues` receive queues.
pub(super) fn sockets(queues: usize) -> io::Result<OwnedFd> {
    create_map(MapType::XskMap, size_of::<u32>(), size_of::<u32>(), queues)
}

/// Key of the map: how many bits count, and the address in network order.
#[repr(C)]
#[derive(Clone, Copy)]
struct Key {
    bits: u32,
    address: [u8; 16],
}

// Registers: r0 result, r1-r5 arguments (lost in a call), r6-r9 kept, r10 end of the stack.
const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R6: u8 = 6;
const R7: u8 = 7;
const R8: u8 = 8;
const R9: u8 = 9;
const R10: u8 = 10;

// Fields of `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const RX_QUEUE_INDEX: i16 = 16;

/// Where the key is on the stack, from r10.
const KEY: i16 = -24;

// Helper functions and verdicts.
const BPF_MAP_LOOKUP_ELEM: i32 = 1;
const BPF_REDIRECT_MAP: i32 = 51;
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;

// Sizes of a load or store.
const W: u8 = 0x00;
const H: u8 = 0x08;
const B: u8 = 0x10;

// Jumps: always; if equal to, not equal to the immediate; if above the register.
const JA: u8 = 0x05;
const JEQ_K: u8 = 0x15;
const JNE_K: u8 = 0x55;
const JGT_X: u8 = 0x2d;

const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    let registers = if cfg!(target_endian = "little") { from << 4 | to } else { to << 4 | from };
    Instruction { code, registers, offset, immediate }
}

/// `to = *(size *)(from + offset)`
const fn load(size: u8, to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x61 | size, to, from, offset, 0)
}

/// `*(size *)(to + offset) = value`
const fn store(size: u8, to: u8, offset: i16, value: i32) -> Instruction {
    instruction(0x62 | size, to, 0, offset, value)
}

/// `*(size *)(to + offset) = from`
const fn store_register(size: u8, to: u8, from: u8, offset: i16) -> Instruction {
    instruction(0x63 | size, to, from, offset, 0)
}

/// `to = from`
const fn mov(to: u8, from: u8) -> Instruction {
    instruction(0xbf, to, from, 0, 0)
}

/// `to = value`
const fn mov_value(to: u8, value: i32) -> Instruction {
    instruction(0xb7, to, 0, 0, value)
}

/// `to += value`
const fn add(to: u8, value: i32) -> Instruction {
    instruction(0x07, to, 0, 0, value)
}

/// `r0 = helper(r1, ...)`
const fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}

/// `return r0`
const EXIT: Instruction = instruction(0x95, 0, 0, 0, 0);

/// A 16-bit number as a load from the packet reads it.
const fn net16(value: u16) -> i32 {
    value.to_be() as i32
}

/// A 32-bit number as it is stored in network order.
const fn net32(value: u32) -> i32 {
    value.to_be() as i32
}

#[derive(Clone, Copy)]
struct Label(usize);

/// Puts instructions one behind the other and resolves jumps forward.
struct Assembler<'maps> {
    code: Vec<Instruction>,
    /// Where each label is, once it is placed.
    labels: Vec<Option<usize>>,
    /// Jumps, and their labels.
    jumps: Vec<(usize, Label)>,
    /// The end of the program that hands the packet to the kernel.
    pass: Label,
    maps: PhantomData<&'maps OwnedFd>,
}

impl Default for Assembler<'_> {
    fn default() -> Self {
        Self { code: Vec::new(), labels: vec![None], jumps: Vec::new(), pass: Label(0), maps: PhantomData }
    }
}

impl<'maps> Assembler<'maps> {
    fn push(&mut self, instruction: Instruction) {
        self.code.push(instruction);
    }

    /// `to = map`: two instructions long (RFC 9669 s5.4).
    fn push_map(&mut self, to: u8, map: &'maps OwnedFd) {
        self.push(instruction(0x18, to, 1, 0, map.as_raw_fd())); // the kernel puts the map in place of its number
        self.push(instruction(0, 0, 0, 0, 0));
    }

    fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// The label stands for the next instruction.
    fn place(&mut self, label: Label) {
        if let Some(place) = self.labels.get_mut(label.0) {
            *place = Some(self.code.len());
        }
    }

    fn jump(&mut self, code: u8, register: u8, value: i32, to: Label) {
        self.jumps.push((self.code.len(), to));
        self.push(instruction(code, register, 0, 0, value));
    }

    /// Passes the packet to the kernel unless `bytes` bytes from r7 are within it. The verifier insists.
    fn need(&mut self, bytes: i32) {
        self.push(mov(R9, R7)); // r9 = the end of what is read
        self.push(add(R9, bytes));
        self.jumps.push((self.code.len(), self.pass));
        self.push(instruction(JGT_X, R9, R8, 0, 0)); // if it is past the packet
    }

    /// Ends with a redirect to the socket of queue r2, or a drop if there is none.
    fn redirect(&mut self, sockets: &'maps OwnedFd) {
        self.push_map(R1, sockets);
        self.push(mov_value(3, XDP_DROP)); // r3 = verdict without a socket
        self.push(call(BPF_REDIRECT_MAP)); // r0 = verdict
        self.push(EXIT);
    }

    /// The program with its jumps resolved.
    fn finish(mut self) -> Program<'maps> {
        if self.jumps.iter().any(|(_, label)| label.0 == self.pass.0) {
            self.place(self.pass);
            self.push(mov_value(R0, XDP_PASS));
            self.push(EXIT);
        }
        for (at, label) in self.jumps {
            let target = self.labels.get(label.0).copied().flatten();
            if let (Some(target), Some(jump)) = (target, self.code.get_mut(at)) {
                // Counted from the instruction behind the jump. The programs have some sixty instructions.
                jump.offset = (target as i64 - at as i64 - 1) as i16;
            }
        }
        Program { code: self.code, maps: PhantomData }
    }
}

#[cfg(test)]
mod tests {
    use super::super::bpf::{load_xdp, test_run};
    use super::*;

    const DROP: u32 = 1;
    const PASS: u32 = 2;

    /// Ethernet with these tags and EtherType in front of a payload.
    fn frame(tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for tag in tags {
            frame.extend(tag.to_be_bytes());
            frame.extend([0, 7]);
        }
        frame.extend(ethertype.to_be_bytes());
        frame.extend(payload);
        frame
    }

    fn ipv4(destination: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0x45; 16];
        packet.extend(destination);
        packet
    }

    fn arp(target: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![1; 24];
        packet.extend(target);
        packet
    }

    fn ipv6(next_header: u8, destination: &str, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next_header, 255];
        packet.extend([9; 16]);
        packet.extend(destination.parse::<std::net::Ipv6Addr>().unwrap().octets());
        packet.extend(payload);
        packet
    }

    fn solicitation(kind: u8, target: &str) -> Vec<u8> {
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        message.extend(target.parse::<std::net::Ipv6Addr>().unwrap().octets());
        ipv6(58, "ff02::1:ff00:1", &message)
    }

    /// Whether programs may be loaded here; if not, says that the test is skipped, or fails when CI=true.
    fn allowed(test: &str) -> bool {
        let Err(error) = sockets(1) else { return true };
        assert!(std::env::var("CI").as_deref() != Ok("true"), "SKIPPED {test}: {error}");
        use std::io::Write;
        let _unread = writeln!(io::stderr(), "SKIPPED {test}: {error}; run as root");
        false
    }

    #[test]
    fn the_shared_program_takes_what_is_ours_and_nothing_else() {
        if !allowed("the_shared_program_takes_what_is_ours_and_nothing_else") {
            return;
        }
        let ours: Vec<IpNet> = ["198.51.100.1/32", "10.2.0.0/16", "2001:db8:1::1/128", "2001:db8:2::/48"]
            .map(|prefix| prefix.parse().unwrap())
            .into();
        // No socket is in the map, so that what would be redirected is dropped.
        let (sockets, ours) = (sockets(1).unwrap(), prefixes(&ours).unwrap());
        let program = load_xdp(&shared(&sockets, &ours).code, true).unwrap();
        let verdict = |frame: &[u8]| test_run(&program, frame).unwrap();

        for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            let v4 = |packet: Vec<u8>| verdict(&frame(tags, 0x0800, &packet));
            let v6 = |packet: Vec<u8>| verdict(&frame(tags, 0x86dd, &packet));
            let arp = |target| verdict(&frame(tags, 0x0806, &arp(target)));
            assert_eq!(v4(ipv4([198, 51, 100, 1])), DROP, "an address of ours");
            assert_eq!(v4(ipv4([198, 51, 100, 2])), PASS, "the kernel's");
            assert_eq!(v4(ipv4([10, 2, 255, 255])), DROP, "in a prefix");
            assert_eq!(v4(ipv4([10, 3, 0, 0])), PASS, "behind it");
            assert_eq!(v4(ipv4([224, 0, 0, 5])), PASS, "multicast");
            assert_eq!(arp([198, 51, 100, 1]), DROP);
            assert_eq!(arp([198, 51, 100, 2]), PASS);
            assert_eq!(v6(ipv6(50, "2001:db8:1::1", &[])), DROP);
            assert_eq!(v6(ipv6(50, "2001:db8:1::2", &[])), PASS);
            assert_eq!(v6(ipv6(6, "2001:db8:2:ffff::9", &[0; 30])), DROP);
            assert_eq!(v6(ipv6(58, "2001:db8:1::1", &[135; 24])), DROP, "a unicast solicitation");
            assert_eq!(v6(solicitation(135, "2001:db8:1::1")), DROP);
            assert_eq!(v6(solicitation(135, "2001:db8:1::2")), PASS);
            assert_eq!(v6(solicitation(136, "2001:db8:1::1")), PASS, "a multicast advertisement");
        }
        assert_eq!(verdict(&frame(&[], 0x88cc, &[0; 46])), PASS, "LLDP");
        assert_eq!(verdict(&frame(&[0x8100; 3], 0x0800, &ipv4([198, 51, 100, 1]))), PASS, "three tags");
    }

    #[test]
    fn the_shared_program_passes_what_is_cut() {
        if !allowed("the_shared_program_passes_what_is_cut") {
            return;
        }
        let ours: Vec<IpNet> = vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()];
        let (sockets, ours) = (sockets(1).unwrap(), prefixes(&ours).unwrap());
        let program = load_xdp(&shared(&sockets, &ours).code, false).unwrap();
        for whole in [
            frame(&[], 0x0800, &ipv4([198, 51, 100, 1])),
            frame(&[], 0x0806, &arp([198, 51, 100, 1])),
            frame(&[], 0x86dd, &ipv6(6, "2001:db8::1", &[])),
            frame(&[0x88a8, 0x8100], 0x86dd, &solicitation(135, "2001:db8::1")),
        ] {
            assert_eq!(test_run(&program, &whole).unwrap(), DROP);
            // The kernel runs no program on less than an Ethernet header.
            for len in 14..whole.len() {
                assert_eq!(test_run(&program, &whole[..len]).unwrap(), PASS, "{len} bytes");
            }
        }
    }

    #[test]
    fn the_exclusive_program_takes_everything() {
        if !allowed("the_exclusive_program_takes_everything") {
            return;
        }
        let sockets = sockets(1).unwrap();
        let program = load_xdp(&exclusive(&sockets).code, false).unwrap();
        assert_eq!(test_run(&program, &frame(&[], 0x88cc, &[0; 46])).unwrap(), DROP);
    }

    #[test]
    fn what_the_verifier_says_is_in_the_error() {
        if !allowed("what_the_verifier_says_is_in_the_error") {
            return;
        }
        // r0 is returned without ever being set.
        let error = load_xdp(&[EXIT], false).unwrap_err().to_string();
        assert!(error.contains("R0"), "{error}");
    }
}
