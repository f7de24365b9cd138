//! Ports in memory: no kernel, no privilege.
//!
//! [`link`] makes a device for workers on threads of their own, and the remote end of its wire for a test.
//! [`local`] makes one port for a worker on the same thread, and a handle to feed it and to look at what it
//! sent, without a copy and, after start-up, without an allocation: benches measure through it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Device, DeviceInfo, LINK_OVERHEAD, Mac, Port, PortCounters, QueueOpener};
use crate::buffer::{Burst, Packet, Pool};

/// A device in memory.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the device.
    pub name: String,
    /// Its Ethernet address; `None` for bare IP packets.
    pub mac: Option<Mac>,
    /// Largest IP packet in bytes. What is longer, Ethernet header and VLAN tags apart, is not sent.
    pub mtu: u32,
    /// Queue pairs.
    pub queues: usize,
    /// Frames that wait in each direction of a queue. More are lost, as on a real wire.
    pub depth: usize,
}

impl Config {
    /// One queue, an MTU of 1500 and 1,024 frames each way.
    pub fn new(name: impl Into<String>, mac: Option<Mac>) -> Self {
        Self { name: name.into(), mac, mtu: 1500, queues: 1, depth: 1024 }
    }
}

/// Makes a device and the other end of its wire.
///
/// # Errors
/// `InvalidInput` when there are no queues or no depth; the error of `eventfd`.
pub fn link(config: Config) -> io::Result<(Box<dyn Device>, RemoteEnd)> {
    if config.queues == 0 || config.depth == 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("memory device {:?} needs at least one queue and a depth of one frame", config.name),
        ));
    }
    let (to_remote, from_device) = bounded(config.depth * config.queues);
    let (mut wires, mut remotes) = (Vec::new(), Vec::new());
    for _ in 0..config.queues {
        let (to_device, from_remote) = bounded(config.depth);
        let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        wires.push(Wire { from_remote, to_remote: to_remote.clone(), bell: Arc::clone(&bell) });
        remotes.push(RemoteQueue { to_device, bell });
    }
    let info = DeviceInfo {
        driver: "memory",
        device: config.name,
        mac: config.mac,
        mtu: config.mtu,
        queues: config.queues,
        features: vec![("depth", config.depth.to_string())],
    };
    Ok((Box::new(Link { info, wires }), RemoteEnd { queues: remotes, from_device }))
}

/// The other end of a [`link`]: what a test sends to the device and receives from it, whole frames.
pub struct RemoteEnd {
    queues: Vec<RemoteQueue>,
    from_device: Receiver<Sent>,
}

/// A frame that the device sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The queue that sent it.
    pub queue: usize,
    /// Its bytes.
    pub frame: Vec<u8>,
}

impl RemoteEnd {
    /// Puts a frame on the wire for a queue. Returns `false` when the queue is full, absent or closed.
    pub fn send(&self, queue: usize, frame: impl Into<Vec<u8>>) -> bool {
        let Some(queue) = self.queues.get(queue) else { return false };
        // A bell that cannot ring has rung 2^64 - 2 times already, so the worker is awake.
        queue.to_device.try_send(frame.into()).is_ok() && queue.bell.write(1).map_or(true, |_| true)
    }

    /// The next frame that any queue sent, in the order of sending; waits for at most `patience`.
    pub fn recv(&self, patience: Duration) -> Option<Sent> {
        self.from_device.recv_timeout(patience).ok()
    }

    /// The next frame, if one is there.
    pub fn try_recv(&self) -> Option<Sent> {
        self.from_device.try_recv().ok()
    }
}

/// Makes a port for a worker on this thread, and the handle to its wire. `depth` is the number of packets
/// that wait in each direction.
pub fn local(depth: usize) -> (MemoryPort, Handle) {
    let wire = Rc::new(RefCell::new(LocalWire {
        arriving: VecDeque::with_capacity(depth),
        sent: VecDeque::with_capacity(depth),
        depth,
    }));
    (MemoryPort { wire: Rc::clone(&wire), counters: PortCounters::default() }, Handle { wire })
}

/// A port whose packets come from and go to the [`Handle`] made with it.
pub struct MemoryPort {
    wire: Rc<RefCell<LocalWire>>,
    counters: PortCounters,
}

/// The wire of a [`MemoryPort`].
#[derive(Clone)]
pub struct Handle {
    wire: Rc<RefCell<LocalWire>>,
}

impl Handle {
    /// Queues a packet for the port to receive.
    ///
    /// # Errors
    /// The packet itself when `depth` packets are waiting.
    pub fn push(&self, packet: Packet) -> Result<(), Packet> {
        let mut wire = self.wire.borrow_mut();
        if wire.arriving.len() == wire.depth {
            return Err(packet);
        }
        wire.arriving.push_back(packet);
        Ok(())
    }

    /// Takes the oldest packet that the port sent.
    pub fn pop(&self) -> Option<Packet> {
        self.wire.borrow_mut().sent.pop_front()
    }

    /// Packets that wait to be received.
    pub fn arriving(&self) -> usize {
        self.wire.borrow().arriving.len()
    }

    /// Packets that were sent and not yet popped.
    pub fn sent(&self) -> usize {
        self.wire.borrow().sent.len()
    }
}

impl Port for MemoryPort {
    fn rx(&mut self, _pool: &Pool, burst: &mut Burst) {
        let mut wire = self.wire.borrow_mut();
        let n = burst.remaining_capacity().min(wire.arriving.len());
        let mut bytes = 0;
        for _ in 0..n {
            let Some(packet) = wire.arriving.pop_front() else { break };
            bytes += packet.len();
            burst.push(packet);
        }
        self.counters.rx_packets += n as u64;
        self.counters.rx_bytes += bytes as u64;
    }

    fn tx(&mut self, burst: &mut Burst) {
        let mut wire = self.wire.borrow_mut();
        let n = burst.len().min(wire.depth - wire.sent.len());
        let mut bytes = 0;
        for packet in burst.drain(..n) {
            bytes += packet.len();
            wire.sent.push_back(packet);
        }
        self.counters.tx_packets += n as u64;
        self.counters.tx_bytes += bytes as u64;
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&mut self) -> PortCounters {
        self.counters
    }
}

struct LocalWire {
    arriving: VecDeque<Packet>,
    sent: VecDeque<Packet>,
    depth: usize,
}

struct Link {
    info: DeviceInfo,
    wires: Vec<Wire>,
}

/// The device's end of one queue.
struct Wire {
    from_remote: Receiver<Vec<u8>>,
    to_remote: Sender<Sent>,
    /// Readable while frames may wait.
    bell: Arc<EventFd>,
}

struct RemoteQueue {
    to_device: Sender<Vec<u8>>,
    bell: Arc<EventFd>,
}

impl Device for Link {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn queues(self: Box<Self>) -> Vec<QueueOpener> {
        let longest = self.info.mtu as usize + if self.info.mac.is_some() { LINK_OVERHEAD } else { 0 };
        let open = |(queue, wire)| -> QueueOpener {
            Box::new(move |_pool| {
                Ok(Box::new(LinkPort { wire, queue, longest, counters: PortCounters::default() }))
            })
        };
        self.wires.into_iter().enumerate().map(open).collect()
    }
}

struct LinkPort {
    wire: Wire,
    queue: usize,
    longest: usize,
    counters: PortCounters,
}

impl Port for LinkPort {
    fn rx(&mut self, pool: &Pool, burst: &mut Burst) {
        let room = burst.remaining_capacity();
        for frame in self.wire.from_remote.try_iter().take(room) {
            let Some(mut packet) = pool.alloc() else {
                self.counters.rx_no_buffer += 1;
                continue;
            };
            let Some(data) = packet.append(frame.len()) else {
                self.counters.rx_too_long += 1;
                continue;
            };
            data.copy_from_slice(&frame);
            self.counters.rx_packets += 1;
            self.counters.rx_bytes += frame.len() as u64;
            burst.push(packet);
        }
    }

    fn tx(&mut self, burst: &mut Burst) {
        let mut taken = 0;
        for packet in burst.iter() {
            if packet.len() > self.longest {
                self.counters.tx_errors += 1;
            } else if self.wire.to_remote.is_full() {
                break;
            } else if self
                .wire
                .to_remote
                .try_send(Sent { queue: self.queue, frame: packet.data().to_vec() })
                .is_ok()
            {
                self.counters.tx_packets += 1;
                self.counters.tx_bytes += packet.len() as u64;
            } else {
                // The remote end is gone: the link is down.
                self.counters.tx_errors += 1;
            }
            taken += 1;
        }
        burst.drain(..taken);
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.wire.bell.as_fd())
    }

    fn before_sleep(&mut self) {
        // An error says that the bell is silent, which is what we want. A frame that came since rings again.
        let _silent = self.wire.bell.read();
        if !self.wire.from_remote.is_empty() {
            let _rings = self.wire.bell.write(1);
        }
    }

    fn counters(&mut self) -> PortCounters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn open(device: Box<dyn Device>, pool: &Pool) -> Vec<Box<dyn Port>> {
        device.queues().into_iter().map(|opener| opener(pool).unwrap()).collect()
    }

    #[test]
    fn frames_cross_a_link_both_ways_on_every_queue() {
        let (device, remote) = link(Config { queues: 2, ..Config::new("wan", Some(MAC)) }).unwrap();
        assert_eq!((device.info().queues, device.info().mac), (2, Some(MAC)));
        let pool = Pool::new(16, 2048).unwrap();
        let mut ports = open(device, &pool);
        for queue in 0..2 {
            for n in 0..3u8 {
                assert!(remote.send(queue, vec![queue as u8, n]));
            }
        }
        assert!(!remote.send(2, vec![0]));
        for (queue, port) in ports.iter_mut().enumerate() {
            let mut burst = Burst::new();
            port.rx(&pool, &mut burst);
            let got: Vec<_> = burst.iter().map(|packet| packet.data().to_vec()).collect();
            assert_eq!(got, [[queue as u8, 0], [queue as u8, 1], [queue as u8, 2]]);
            port.tx(&mut burst);
            assert!(burst.is_empty());
            let counters = port.counters();
            assert_eq!((counters.rx_packets, counters.rx_bytes), (3, 6));
            assert_eq!((counters.tx_packets, counters.tx_bytes), (3, 6));
        }
        for n in 0..6 {
            let sent = remote.recv(Duration::from_secs(5)).unwrap();
            assert_eq!(sent, Sent { queue: n / 3, frame: vec![(n / 3) as u8, (n % 3) as u8] });
        }
        assert!(remote.try_recv().is_none());
        assert_eq!(pool.available(), 16);
    }

    #[test]
    fn a_link_counts_what_it_cannot_carry() {
        let config = Config { depth: 2, ..Config::new("wan", Some(MAC)) };
        let (device, remote) = link(config).unwrap();
        let pool = Pool::new(4, 2048).unwrap();
        let mut port = open(device, &pool).remove(0);
        let mut burst = Burst::new();

        assert!(remote.send(0, vec![0; 2048]));
        assert!(remote.send(0, vec![0; 64]));
        assert!(!remote.send(0, vec![0; 64]), "the wire holds two frames");
        port.rx(&pool, &mut burst);
        assert_eq!(burst.len(), 1);
        assert_eq!((port.counters().rx_errors, port.counters().rx_too_long), (0, 1), "larger than a frame");

        let taken: Vec<_> = std::iter::from_fn(|| pool.alloc()).collect();
        assert!(remote.send(0, vec![0; 64]));
        port.rx(&pool, &mut burst);
        assert_eq!(port.counters().rx_no_buffer, 1);
        drop(taken);

        burst.clear();
        burst.push(pool.alloc_from(&[1; 1600]).unwrap());
        for n in 0..3 {
            burst.push(pool.alloc_from(&[n; 60]).unwrap());
        }
        port.tx(&mut burst);
        assert_eq!(port.counters().tx_errors, 1, "longer than the MTU");
        assert_eq!(burst.len(), 1, "the wire holds two frames");
        assert_eq!(burst[0].data(), [2; 60]);
        drop(remote);
        port.tx(&mut burst);
        assert!(burst.len() <= 1);
    }

    #[test]
    fn a_gone_remote_end_is_a_link_that_is_down() {
        let (device, remote) = link(Config::new("wan", Some(MAC))).unwrap();
        let pool = Pool::new(4, 2048).unwrap();
        let mut port = open(device, &pool).remove(0);
        drop(remote);
        let mut burst = Burst::new();
        burst.push(pool.alloc_from(&[1; 60]).unwrap());
        port.tx(&mut burst);
        assert!(burst.is_empty());
        assert_eq!(port.counters().tx_errors, 1);
        port.rx(&pool, &mut burst);
        assert!(burst.is_empty());
    }

    #[test]
    fn a_sleeping_worker_is_woken() {
        let (device, remote) = link(Config::new("wan", Some(MAC))).unwrap();
        let pool = Pool::new(4, 2048).unwrap();
        let mut port = open(device, &pool).remove(0);
        fn readable(port: &dyn Port) -> bool {
            let mut fds = [PollFd::new(port.poll_fd().unwrap(), PollFlags::POLLIN)];
            poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
        }
        assert!(!readable(&*port));
        assert!(remote.send(0, vec![0; 60]));
        port.before_sleep();
        assert!(readable(&*port), "a frame still waits");
        let mut burst = Burst::new();
        port.rx(&pool, &mut burst);
        port.before_sleep();
        assert!(!readable(&*port));
        assert!(remote.send(0, vec![0; 60]));
        assert!(readable(&*port));
    }

    #[test]
    fn a_local_port_moves_packets_without_a_copy() {
        let pool = Pool::new(4, 2048).unwrap();
        let (mut port, handle) = local(2);
        let packet = pool.alloc_from(b"one").unwrap();
        let address = packet.data().as_ptr();
        handle.push(packet).unwrap();
        handle.push(pool.alloc_from(b"two").unwrap()).unwrap();
        assert!(handle.push(pool.alloc_from(b"three").unwrap()).is_err());
        let mut burst = Burst::new();
        port.rx(&pool, &mut burst);
        assert_eq!((burst.len(), handle.arriving()), (2, 0));
        burst.push(pool.alloc_from(b"more").unwrap());
        port.tx(&mut burst);
        assert_eq!((burst.len(), handle.sent()), (1, 2), "two fit");
        let first = handle.pop().unwrap();
        assert_eq!((first.data(), first.data().as_ptr()), (&b"one"[..], address));
        assert_eq!(handle.pop().unwrap().data(), b"two");
        assert!(handle.pop().is_none());
        let counters = port.counters();
        assert_eq!((counters.rx_packets, counters.tx_packets, counters.tx_bytes), (2, 2, 6));
    }

    #[test]
    fn a_link_without_queues_is_refused() {
        let config = Config { queues: 0, ..Config::new("wan", None) };
        assert_eq!(link(config).err().unwrap().kind(), io::ErrorKind::InvalidInput);
    }
}
