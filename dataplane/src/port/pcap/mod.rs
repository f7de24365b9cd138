//! Capture files as ports: one file is received from, another is sent to.
//!
//! The input (pcap or pcapng) is read into memory when the port is opened, so that reading costs a bench no
//! more than a copy, and a file that does not parse is an error at start-up. [`Port::finished`] says when the
//! worker has received it all. The output is pcap with nanoseconds, stamped with the time of sending.
//!
//! With several queues the packets of the input are spread by their addresses, and each queue beyond the
//! first writes to a file of its own (`out.1.pcap`, ...), which `mergecap` joins.
//!
//! A port has the link layer of its input. One that only writes has none, unless it is given an Ethernet address: nobody
//! could answer when it asks who has the next hop's.

mod input;

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pcap_file::pcap::PcapHeader;
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};

use self::input::{Input, Link};
use super::sys::context;
use super::{Device, DeviceInfo, LINK_OVERHEAD, Mac, Port, PortCounters, QueueOpener, check_room};
use crate::buffer::{Burst, Pool};

/// A port on capture files.
#[derive(Clone, Debug)]
pub struct Config {
    /// File to receive from; `None` receives nothing.
    pub input: Option<PathBuf>,
    /// File to send to, overwritten; `None` discards what is sent.
    pub output: Option<PathBuf>,
    /// How often the input is received; `None` is for ever.
    pub loops: Option<u64>,
    /// Our Ethernet address; `None` takes the destination of the input's first packet, and without an input has none.
    pub mac: Option<Mac>,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// Queue pairs.
    pub queues: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { input: None, output: None, loops: Some(1), mac: None, mtu: 1500, queues: 1 }
    }
}

/// Opens the files.
///
/// # Errors
/// What reading or creating a file gives, with its path; `InvalidData` for a capture that does not parse or
/// holds neither Ethernet nor bare IP packets; `InvalidInput` without any file or queue.
pub fn open(config: Config) -> io::Result<Box<dyn Device>> {
    let Some(named) = config.input.as_ref().or(config.output.as_ref()) else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a pcap port needs an input or an output file",
        ));
    };
    if config.queues == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a pcap port needs at least one queue"));
    }
    let device = named.display().to_string();
    let input = match &config.input {
        Some(path) => Input::read(path).map_err(|error| context(&error, path.display()))?,
        None if config.mac.is_some() => Input::empty(Link::Ethernet),
        None => Input::empty(Link::Ip),
    };
    let mac = match input.link() {
        Link::Ethernet => Some(config.mac.or(input.first_destination()).unwrap_or(DEFAULT_MAC)),
        Link::Ip => None,
    };
    let mut features = vec![("input_packets", input.len().to_string())];
    if config.loops != Some(1) {
        features.push(("loops", config.loops.map_or("forever".to_owned(), |loops| loops.to_string())));
    }
    let mut queues = Vec::with_capacity(config.queues);
    let link = input.link();
    let input = Arc::new(input);
    for (queue, packets) in input.spread(config.queues).into_iter().enumerate() {
        let writer = match &config.output {
            Some(path) => {
                let path = numbered(path, queue);
                Some(create(&path, link).map_err(|error| context(&error, path.display()))?)
            }
            None => None,
        };
        queues.push(Queue { input: Arc::clone(&input), packets, loops: config.loops, writer });
    }
    let info = DeviceInfo { driver: "pcap", device, mac, mtu: config.mtu, queues: config.queues, features };
    Ok(Box::new(Pcap { info, queues }))
}

/// Our address when neither the configuration nor the input gives one: locally administered.
const DEFAULT_MAC: Mac = [2, 0, 0, 0, 0, 1];
/// Calls of `rx` after which what was sent is written to the file though more may come.
const FLUSH_AFTER: u32 = 4096;

type Writer = BufWriter<File>;

struct Pcap {
    info: DeviceInfo,
    queues: Vec<Queue>,
}

struct Queue {
    input: Arc<Input>,
    /// Which packets of the input are this queue's.
    packets: Vec<u32>,
    loops: Option<u64>,
    writer: Option<Writer>,
}

impl Device for Pcap {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn queues(self: Box<Self>) -> Vec<QueueOpener> {
        let mtu = self.info.mtu;
        let longest = mtu as usize + if self.info.mac.is_some() { LINK_OVERHEAD } else { 0 };
        let open = |queue: Queue| -> QueueOpener {
            Box::new(move |pool| {
                check_room(pool, mtu)?;
                let remaining = if queue.packets.is_empty() { Some(0) } else { queue.loops };
                Ok(Box::new(PcapPort {
                    input: queue.input,
                    packets: queue.packets,
                    next: 0,
                    remaining,
                    writer: queue.writer,
                    unflushed: None,
                    longest,
                    counters: PortCounters::default(),
                }))
            })
        };
        self.queues.into_iter().map(open).collect()
    }
}

struct PcapPort {
    input: Arc<Input>,
    packets: Vec<u32>,
    next: usize,
    /// Rounds through the packets that are left, the current one included; `None` for no end.
    remaining: Option<u64>,
    writer: Option<Writer>,
    /// Calls of `rx` since something was sent, until it is flushed.
    unflushed: Option<u32>,
    longest: usize,
    counters: PortCounters,
}

impl Port for PcapPort {
    fn rx(&mut self, pool: &Pool, burst: &mut Burst) {
        if let Some(calls) = &mut self.unflushed {
            *calls += 1;
            if *calls >= FLUSH_AFTER {
                self.flush();
            }
        }
        while !burst.is_full() && self.remaining != Some(0) {
            // A file can wait: without a free frame nothing is taken from it, and nothing is lost.
            let Some(mut packet) = pool.alloc() else { return };
            let bytes = self.packets.get(self.next).and_then(|&index| self.input.packet(index));
            self.next += 1;
            if self.next >= self.packets.len() {
                self.next = 0;
                self.remaining = self.remaining.map(|rounds| rounds - 1);
            }
            match bytes.and_then(|bytes| Some((packet.append(bytes.len())?, bytes))) {
                Some((data, bytes)) => {
                    data.copy_from_slice(bytes);
                    self.counters.rx_packets += 1;
                    self.counters.rx_bytes += bytes.len() as u64;
                    burst.push(packet);
                }
                None => self.counters.rx_too_long += 1,
            }
        }
    }

    fn tx(&mut self, burst: &mut Burst) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        for packet in burst.drain(..) {
            let length = packet.len() as u32;
            let written = match &mut self.writer {
                _ if packet.len() > self.longest => false,
                Some(writer) => {
                    self.unflushed = Some(0);
                    write_record(writer, now, packet.data()).is_ok()
                }
                None => true,
            };
            if written {
                self.counters.tx_packets += 1;
                self.counters.tx_bytes += u64::from(length);
            } else {
                self.counters.tx_errors += 1;
            }
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn before_sleep(&mut self) {
        self.flush();
    }

    fn finished(&self) -> bool {
        self.remaining == Some(0)
    }

    fn counters(&mut self) -> PortCounters {
        self.counters
    }
}

impl PcapPort {
    /// Writes out what is buffered. A disk that is full shows in the next packets' `tx_errors`.
    fn flush(&mut self) {
        if let (Some(_), Some(writer)) = (self.unflushed.take(), &mut self.writer) {
            let _retried_with_the_next_packet = writer.flush();
        }
    }
}

/// `path` for the first queue; `name.1.pcap` and so on for the others.
fn numbered(path: &Path, queue: usize) -> PathBuf {
    if queue == 0 {
        return path.to_owned();
    }
    let extension = path.extension().unwrap_or_default().to_string_lossy();
    path.with_extension(format!("{queue}.{extension}").trim_end_matches('.'))
}

fn create(path: &Path, link: Link) -> io::Result<Writer> {
    let header = PcapHeader {
        datalink: match link {
            Link::Ethernet => DataLink::ETHERNET,
            Link::Ip => DataLink::RAW,
        },
        // tcpdump's and Wireshark's own limit.
        snaplen: 262_144,
        ts_resolution: TsResolution::NanoSecond,
        endianness: Endianness::native(),
        ..PcapHeader::default()
    };
    let mut writer = BufWriter::with_capacity(1 << 18, File::create(path)?);
    header.write_to(&mut writer).map_err(into_io)?;
    Ok(writer)
}

/// Writes a packet with its record header: seconds, nanoseconds, bytes in the file, bytes on the wire.
fn write_record(writer: &mut Writer, now: Duration, data: &[u8]) -> io::Result<()> {
    let length = data.len() as u32;
    let words = [now.as_secs() as u32, now.subsec_nanos(), length, length].map(u32::to_ne_bytes);
    writer.write_all(words.as_flattened())?;
    writer.write_all(data)
}

/// The I/O error within a capture error, or the capture error as `InvalidData`.
fn into_io(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        error => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pcap_file::pcap::{PcapPacket, PcapReader};

    fn read(path: &Path) -> (PcapHeader, Vec<PcapPacket<'static>>) {
        let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
        let header = reader.header();
        let mut packets = Vec::new();
        while let Some(packet) = reader.next_packet() {
            packets.push(packet.unwrap().into_owned());
        }
        (header, packets)
    }

    fn capture(path: &Path, packets: &[Vec<u8>]) {
        let mut writer = create(path, Link::Ethernet).unwrap();
        for data in packets {
            write_record(&mut writer, Duration::from_secs(1), data).unwrap();
        }
    }

    fn ports(config: Config, pool: &Pool) -> Vec<Box<dyn Port>> {
        open(config).unwrap().queues().into_iter().map(|opener| opener(pool).unwrap()).collect()
    }

    /// An Ethernet frame with IPv4 addresses that depend on `flow`.
    fn frame(flow: u8, number: u8) -> Vec<u8> {
        let mut frame = vec![2, 9, 9, 9, 9, 9, 2, 0, 0, 0, 0, 2, 8, 0, 0x45];
        frame.resize(26, 0);
        frame.extend([10, 0, 0, flow, 10, 0, 0, 200, number]);
        frame.resize(60, number);
        frame
    }

    #[test]
    fn a_file_is_received_as_often_as_asked_and_then_finished() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("in.pcap");
        let packets: Vec<_> = (0..50).map(|n| frame(1, n)).collect();
        capture(&path, &packets);
        let pool = Pool::new(64, 2048).unwrap();
        let config = Config { input: Some(path), loops: Some(3), ..Config::default() };
        let device = open(config.clone()).unwrap();
        assert_eq!(device.info().mac, Some([2, 9, 9, 9, 9, 9]), "the first packet's destination");
        let mut port = ports(config, &pool).remove(0);
        let mut got = Vec::new();
        let mut burst = Burst::new();
        while !port.finished() {
            port.rx(&pool, &mut burst);
            got.extend(burst.drain(..).map(|packet| packet.data().to_vec()));
        }
        assert_eq!(got, [&packets[..]; 3].concat());
        port.rx(&pool, &mut burst);
        assert!(burst.is_empty());
        assert_eq!((port.counters().rx_packets, port.counters().rx_bytes), (150, 9000));
        assert!(port.poll_fd().is_none());
    }

    #[test]
    fn nothing_is_lost_while_the_pool_is_empty() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("in.pcap");
        capture(&path, &[frame(1, 1), frame(1, 2)]);
        let pool = Pool::new(1, 2048).unwrap();
        let mut port = ports(Config { input: Some(path), loops: None, ..Config::default() }, &pool).remove(0);
        for round in 0..5 {
            let mut burst = Burst::new();
            port.rx(&pool, &mut burst);
            assert_eq!(burst.len(), 1);
            assert_eq!(burst[0].data(), frame(1, 1 + round % 2));
            assert!(!port.finished(), "it has no end");
        }
    }

    #[test]
    fn what_is_sent_is_in_the_file_with_the_time_of_day() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.pcap");
        let pool = Pool::new(8, 2048).unwrap();
        let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let (output, mac) = (Some(path.clone()), Some(DEFAULT_MAC));
        let mut port = ports(Config { output, mac, ..Config::default() }, &pool).remove(0);
        assert!(port.finished(), "without an input there is nothing to receive");
        let mut burst = Burst::new();
        burst.push(pool.alloc_from(&frame(1, 1)).unwrap());
        burst.push(pool.alloc_from(&[1; 1600]).unwrap());
        burst.push(pool.alloc_from(&frame(1, 2)).unwrap());
        port.tx(&mut burst);
        assert!(burst.is_empty());
        assert_eq!((port.counters().tx_packets, port.counters().tx_errors), (2, 1), "one is over the MTU");
        for _ in 0..FLUSH_AFTER {
            port.rx(&pool, &mut burst);
        }
        let (header, packets) = read(&path);
        let after = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!((header.datalink, header.ts_resolution), (DataLink::ETHERNET, TsResolution::NanoSecond));
        assert_eq!(packets.len(), 2);
        for (packet, number) in packets.iter().zip(1..) {
            assert_eq!(packet.data, frame(1, number));
            assert!(before <= packet.timestamp && packet.timestamp <= after);
        }
    }

    #[test]
    fn a_port_that_only_writes_has_no_link_layer() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.pcap");
        let config = Config { output: Some(path.clone()), ..Config::default() };
        assert_eq!(open(config.clone()).unwrap().info().mac, None);
        drop(ports(config, &Pool::new(8, 2048).unwrap()));
        assert_eq!(read(&path).0.datalink, DataLink::RAW);
    }

    #[test]
    fn flows_are_spread_and_every_queue_has_its_output() {
        let directory = tempfile::tempdir().unwrap();
        let (input, output) = (directory.path().join("in.pcap"), directory.path().join("out.pcap"));
        let packets: Vec<_> = (0..100).map(|n| frame(n % 20, n)).collect();
        capture(&input, &packets);
        let pool = Pool::new(256, 2048).unwrap();
        let config = Config { input: Some(input), output: Some(output), queues: 2, ..Config::default() };
        let mut all = Vec::new();
        for (port, name) in ports(config, &pool).iter_mut().zip(["out.pcap", "out.1.pcap"]) {
            let mut burst = Burst::new();
            let mut count = 0;
            while !port.finished() {
                port.rx(&pool, &mut burst);
                count += burst.len();
                port.tx(&mut burst);
            }
            port.before_sleep();
            let (_, packets) = read(&directory.path().join(name));
            assert_eq!(packets.len(), count);
            assert!(count >= 20, "{count} of 100 packets for this queue");
            all.push(packets.iter().map(|packet| packet.data.to_vec()).collect::<Vec<_>>());
        }
        let flows =
            |n: usize| all[n].iter().map(|frame| frame[29]).collect::<std::collections::BTreeSet<_>>();
        assert!(flows(0).is_disjoint(&flows(1)), "a flow stays in its queue");
        assert!(all.iter().all(|frames| frames.iter().is_sorted_by_key(|frame| frame[34])), "in order");
        assert_eq!(all.concat().len(), 100);
    }

    #[test]
    fn errors_name_the_file() {
        let error = open(Config { input: Some("/none/in.pcap".into()), ..Config::default() }).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("/none/in.pcap"));
        let error =
            open(Config { output: Some("/none/out.pcap".into()), ..Config::default() }).err().unwrap();
        assert!(error.to_string().contains("/none/out.pcap"));
        assert_eq!(open(Config::default()).err().unwrap().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn outputs_are_numbered() {
        assert_eq!(numbered(Path::new("/a/b.pcap"), 0), Path::new("/a/b.pcap"));
        assert_eq!(numbered(Path::new("/a/b.pcap"), 2), Path::new("/a/b.2.pcap"));
        assert_eq!(numbered(Path::new("/a/b"), 1), Path::new("/a/b.1"));
    }
}
