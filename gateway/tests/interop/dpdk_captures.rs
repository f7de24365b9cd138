//! A gateway between capture files that DPDK's own driver reads and writes.

use std::fs;

use crate::dpdk::port;
use crate::gateway::{Files, Gateway, count};
use crate::netns::{Namespace, privileged};
use crate::serial;
use crate::wait_for;

/// What is read on one side comes out as ESP on the other, where a capture has the router's answers. On a third there is a frame
/// that no buffer holds.
#[test]
fn dpdk_reads_and_writes_captures() {
    privileged(&[], || {
        let _alone = serial();
        let namespace = Namespace::new();
        let mut files = Files::new();
        files.new_key("out.key", "aes128gcm16".parse().unwrap());
        files.new_key("in.key", "aes128gcm16".parse().unwrap());
        let [read, answers, written, long] =
            ["in.pcap", "router.pcap", "out.pcap", "long.pcap"].map(|name| files.path(name));
        const PACKETS: usize = 20;
        fs::write(&read, capture(&vec![udp_packet(); PACKETS])).unwrap();
        fs::write(&answers, capture(&[router_answer()])).unwrap();
        fs::write(&long, capture(&[vec![2; 9000], udp_packet()])).unwrap();
        let yaml = format!(
            "dpdk: {{ huge_pages: none, memory: 128MiB }}\n\
             workers: {{ cores: [1], control_core: 0, idle: adaptive }}\n\
             ports:\n\
             \x20 lan: {{ driver: dpdk, device: 'net_pcap0,rx_pcap={},infinite_rx=1', addresses: [10.1.0.1/16] }}\n\
             \x20 wan: {{ driver: dpdk, device: 'net_pcap1,rx_pcap={},infinite_rx=1,tx_pcap={}', addresses: [198.51.100.1/24] }}\n\
             \x20 far: {{ driver: dpdk, device: 'net_pcap2,rx_pcap={}', addresses: [10.3.0.1/16] }}\n\
             routes: [ {{ to: 0.0.0.0/0, via: 198.51.100.2 }} ]\n\
             manual_sas:\n\
             \x20 site: {{ suite: aes128gcm16, local: 198.51.100.1, remote: 203.0.113.1,\n\
             \x20   outbound: {{ spi: 0x1001, key_file: out.key }}, inbound: {{ spi: 0x2001, key_file: in.key }},\n\
             \x20   selectors: {{ local: [10.1.0.0/16], remote: [10.2.0.0/16] }} }}\n",
            read.display(),
            answers.display(),
            written.display(),
            long.display(),
        );
        let gateway = Gateway::start(&namespace, files, &yaml);
        // What is read before the policies are there is discarded; the captures are read over and over.
        wait_for("the capture to be protected and sent", || {
            let sent = count(&port(&gateway, "wan")["tx_packets"]);
            (sent > PACKETS as u64 && count(&gateway.sa("site", "outbound")["packets"]) >= PACKETS as u64)
                .then_some(())
        });
        let far = port(&gateway, "far");
        let counted = ["rx_packets", "rx_too_long", "rx_errors"].map(|name| count(&far[name]));
        assert_eq!(counted, [1, 1, 0], "{far}");
        let (status, _, files) = gateway.terminate();
        assert_eq!(status.code(), Some(0), "{status}");
        let frames = frames(&fs::read(files.path("out.pcap")).unwrap());
        let esp: Vec<_> = frames.iter().filter(|frame| frame.get(12..14) == Some(&[8, 0][..])).collect();
        assert!(esp.len() >= PACKETS, "{} of {}", esp.len(), frames.len());
        let mut last = 0;
        for frame in &esp {
            // To the router, from gateway to gateway, ESP (50), SPI and sequence number, and nothing of what was read.
            assert_eq!((&frame[..6], frame[14], frame[23]), (&ROUTER[..], 0x45, 50), "{frame:x?}");
            assert_eq!(frame[26..34], [198, 51, 100, 1, 203, 0, 113, 1], "{frame:x?}");
            assert_eq!(frame[34..38], [0, 0, 0x10, 1], "{frame:x?}");
            // Of those that waited for the router, some may have been too many.
            let number = u32::from_be_bytes(frame[38..42].try_into().unwrap());
            assert!(number > last, "{number} after {last}");
            last = number;
            assert!(!frame.windows(8).any(|bytes| bytes == [7; 8]), "{frame:x?}");
        }
        // All others ask for stations: the router, and whoever has the gateway's own addresses.
        let asks: Vec<_> = frames.iter().filter(|frame| frame[12..14] == [8, 6]).collect();
        assert_eq!(asks.first().map(|frame| &frame[..6]), Some(&[0xff; 6][..]));
        let others =
            frames.iter().filter(|frame| frame[12..14] == [0x86, 0xdd] && frame[..2] == [0x33, 0x33]);
        let others: Vec<_> = others.collect();
        assert_eq!(asks.len() + others.len() + esp.len(), frames.len());
    });
}

/// The router's Ethernet address.
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// The answer of 198.51.100.2 to an ARP request of 198.51.100.1 at the address that net_pcap1 has.
fn router_answer() -> Vec<u8> {
    let gateway = [2, b'p', b'c', b'a', b'p', 1];
    let mut frame = [&gateway[..], &ROUTER, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &ROUTER].concat();
    frame.extend([198, 51, 100, 2]);
    frame.extend(gateway);
    frame.extend([198, 51, 100, 1]);
    frame
}

/// A UDP packet from 10.1.0.2 to 10.2.0.2, to the address that net_pcap0 has.
fn udp_packet() -> Vec<u8> {
    let mut frame = vec![2, b'p', b'c', b'a', b'p', 0];
    frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    let mut header = vec![0x45, 0, 0, 28 + 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 0, 2, 10, 2, 0, 2];
    let sum: u32 = header.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header);
    frame.extend([4, 0, 4, 1, 0, 40, 0, 0]);
    frame.extend([7; 32]);
    frame
}

/// A capture of these frames.
fn capture(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_le_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_le_bytes());
        }
        file.extend(frame);
    }
    file
}

/// The frames of a capture.
fn frames(file: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut left = &file[24..];
    // The last one may be cut.
    while let Some(header) = left.get(..16) {
        let len = u32::from_le_bytes(header[8..12].try_into().unwrap()) as usize;
        let Some(frame) = left.get(16..16 + len) else { break };
        frames.push(frame.to_vec());
        left = &left[16 + len..];
    }
    frames
}
