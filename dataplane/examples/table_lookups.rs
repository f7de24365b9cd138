//! Prints what the worker's tables cost, in nanoseconds an operation on a warm cache.
//!
//! `cargo run --release -p spillway-dataplane --example table_lookups`

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use dataplane::buffer::BURST;
use dataplane::lpm::Lpm;
use dataplane::policy::spd::Spd;
use dataplane::policy::{Action, Policy, PolicyId, Selector};
use dataplane::sa::allocator::SpiAllocator;
use dataplane::sa::replay::ReplayWindow;
use dataplane::sa::sequence::Sequence;
use dataplane::sa::spi_table::SpiTable;
use ipnet::IpNet;

const ROUND: u64 = 20 * 1024;

/// The best of many short rounds, so that other load on the machine does not show.
fn measure(what: &str, per_call: u64, mut call: impl FnMut(u64)) {
    let mut calls = 1..;
    let best = (0..200).map(|_| {
        let start = Instant::now();
        calls.by_ref().take((ROUND / per_call) as usize).for_each(&mut call);
        start.elapsed().as_secs_f64() / ROUND as f64
    });
    println!("{:6.1} ns  {what}", best.fold(f64::MAX, f64::min) * 1e9);
}

/// Scatters consecutive numbers.
fn scatter(i: u64) -> u32 {
    (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u32
}

fn v4(bits: u32) -> IpAddr {
    Ipv4Addr::from_bits(bits).into()
}

fn v6(high: u64) -> IpAddr {
    Ipv6Addr::from_bits(u128::from(0x2001_0db8 << 32 | high) << 64).into()
}

fn net(address: IpAddr, len: u8) -> IpNet {
    IpNet::new(address, len).expect("a length of the family")
}

fn main() {
    sequence_numbers();
    spis();
    prefixes();
    policies();
}

fn sequence_numbers() {
    let window = ReplayWindow::new(4096, true);
    measure("replay window: infer and accept, in order", 1, |i| {
        if let Ok(seq) = window.infer(black_box(i as u32)) {
            _ = black_box(window.accept(seq));
        }
    });
    let window = ReplayWindow::new(4096, true);
    measure("replay window: the same for bursts, with accept_run", BURST as u64, |i| {
        let low = |k| i as u32 * BURST as u32 + k as u32;
        let seqs: [u64; BURST] = std::array::from_fn(|k| window.infer(black_box(low(k))).unwrap_or_default());
        window.accept_run(&seqs, |_, verdict| _ = black_box(verdict));
    });
    let sequence = Sequence::new(true);
    measure("sequence numbers: a block for a burst, a packet", BURST as u64, |_| {
        black_box(sequence.reserve(BURST as u64));
    });
}

fn spis() {
    for capacity in [1000, 100_000] {
        let mut allocator = SpiAllocator::new(capacity);
        let mut table = SpiTable::with_capacity(capacity);
        let spis: Vec<u32> = (0..capacity).filter_map(|_| allocator.allocate().ok()).collect();
        for &spi in &spis {
            table.insert(spi, [0u64; 6]).expect("room for all");
        }
        measure(&format!("SPI table: one of {capacity} SAs"), 1, |i| {
            let spi = spis[scatter(i) as usize % spis.len()];
            black_box(table.get(spi).map(|(_, value)| value[0]));
        });
        measure(&format!("SPI table: no such SA, with {capacity}"), 1, |i| {
            black_box(table.get(scatter(i)));
        });
    }
}

fn prefixes() {
    let count = 100_000;
    let mut lpm = Lpm::new();
    (0..10_000).for_each(|i| _ = lpm.insert(net(v4(0x0A00_0000 + (i << 8)), 24), i));
    measure("longest prefix: 10,000 IPv4 /24", 1, |i| {
        black_box(lpm.lookup(v4(0x0A00_0000 + scatter(i) % (10_000 << 8))));
    });
    let mut lpm = Lpm::new();
    (0..count).for_each(|i| _ = lpm.insert(net(v4(0x0A00_0000 + i), 32), i));
    measure("longest prefix: 100,000 IPv4 /32 of one pool", 1, |i| {
        black_box(lpm.lookup(v4(0x0A00_0000 + scatter(i) % count)));
    });
    let mut lpm = Lpm::new();
    (0..count).for_each(|i| _ = lpm.insert(net(v4(scatter(i.into())), 32), i));
    measure("longest prefix: 100,000 IPv4 /32 anywhere", 1, |i| {
        black_box(lpm.lookup(v4(scatter(i % u64::from(count)))));
    });
    let mut lpm = Lpm::new();
    (0..count).for_each(|i| _ = lpm.insert(net(v6(i.into()), 64), i));
    measure("longest prefix: 100,000 IPv6 /64 of one /32", 1, |i| {
        black_box(lpm.lookup(v6((scatter(i) % count).into())));
    });
}

fn policies() {
    let any = net(v4(0), 0);
    let branch = |i: u32| net(v4(0x0B00_0000 + (i << 8)), 24);
    let packet = |i| (v4(0x0A00_0001), v4(0x0B00_0000 + scatter(i) % (10_000 << 8)));
    let spd = |selector: &dyn Fn(u32) -> Selector| {
        let mut spd = Spd::with_capacity(10_000);
        for i in 0..10_000 {
            let policy = Policy { id: PolicyId(i), selector: selector(i), action: Action::Bypass };
            spd.insert(policy).expect("one family, all ports");
        }
        spd
    };
    let by_remote = spd(&|i| Selector::between(net(v4(0x0A00_0000), 8), branch(i)));
    measure("SPD: 10,000 policies with remotes of their own", 1, |i| {
        let (local, remote) = packet(i);
        black_box(by_remote.lookup(local, remote, 6, Some((1, 2))));
    });
    let by_local = spd(&|i| Selector::between(branch(i), any));
    measure("SPD: 10,000 policies with locals of their own, all to anywhere", 1, |i| {
        let (remote, local) = packet(i);
        black_box(by_local.lookup(local, remote, 6, Some((1, 2))));
    });
}
