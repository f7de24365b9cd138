//! The tunnels of the configuration, and the SAs that they have at this moment.
//!
//! A tunnel of the configuration, a manual SA or a child of a connection, is a row: it is there from start to end,
//! up or down, and so are its counters. Behind it come and go SAs, under the data plane's tunnel ids.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use dataplane::clock;
use dataplane::message::Retired;
use dataplane::sa::counters::SaCounters;
use dataplane::sa::{Endpoints, InboundSa, OutboundSa, Spi, TunnelId};

/// Index of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowId(usize);

/// A tunnel of the configuration.
pub(super) struct Row {
    pub(super) name: Arc<str>,
    /// Outer addresses as they are configured.
    pub(super) local: Option<IpAddr>,
    pub(super) remote: Option<IpAddr>,
    /// What SAs carried that are gone: inbound, outbound.
    pub(super) retired: (SaCounters, SaCounters),
}

/// The SAs under one tunnel id.
pub(super) struct Live {
    pub(super) row: RowId,
    pub(super) endpoints: Endpoints,
    pub(super) inbound: Vec<Installed<InboundSa>>,
    pub(super) outbound: Option<Installed<OutboundSa>>,
}

/// An SA, and since when.
pub(super) struct Installed<T> {
    pub(super) sa: Arc<T>,
    pub(super) since: u64,
}

impl<T> Clone for Installed<T> {
    fn clone(&self) -> Self {
        Self { sa: Arc::clone(&self.sa), since: self.since }
    }
}

/// Direction of an SA, as a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Inbound,
    Outbound,
}

/// What an SA is counted under.
pub(super) type Key = (Side, TunnelId, Spi);

/// Where the counters of an SA belong, until the last worker has given it back.
struct Account {
    row: RowId,
    workers: usize,
}

/// All rows, and all SAs.
pub(super) struct Tunnels {
    workers: usize,
    rows: Vec<Row>,
    live: HashMap<TunnelId, Live>,
    accounts: HashMap<Key, Account>,
    /// Outbound SAs by the peer's address and SPI, as ICMP errors quote them.
    outbound: HashMap<(IpAddr, Spi), TunnelId>,
    /// Tunnels that send to each peer.
    peers: HashMap<IpAddr, BTreeSet<TunnelId>>,
}

impl Tunnels {
    /// None, for so many workers.
    pub(super) fn new(workers: usize) -> Self {
        Self {
            workers,
            rows: Vec::new(),
            live: HashMap::new(),
            accounts: HashMap::new(),
            outbound: HashMap::new(),
            peers: HashMap::new(),
        }
    }

    /// Adds a tunnel of the configuration.
    pub(super) fn add_row(&mut self, name: &str, local: Option<IpAddr>, remote: Option<IpAddr>) -> RowId {
        let retired = (SaCounters::default(), SaCounters::default());
        self.rows.push(Row { name: name.into(), local, remote, retired });
        RowId(self.rows.len() - 1)
    }

    /// All rows, in the order of the configuration.
    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// A row by its id.
    pub(super) fn row(&self, id: RowId) -> Option<&Row> {
        self.rows.get(id.0)
    }

    /// All tunnels that have SAs.
    pub(super) fn live(&self) -> impl Iterator<Item = (TunnelId, &Live)> {
        self.live.iter().map(|(&tunnel, live)| (tunnel, live))
    }

    /// The SAs of a tunnel.
    pub(super) fn get(&self, tunnel: TunnelId) -> Option<&Live> {
        self.live.get(&tunnel)
    }

    /// The name of a tunnel for the log.
    pub(super) fn name(&self, tunnel: TunnelId) -> &str {
        self.live.get(&tunnel).and_then(|live| self.row(live.row)).map_or("?", |row| &row.name)
    }

    /// An inbound SA is about to be told to the workers.
    pub(super) fn add_inbound(&mut self, row: RowId, sa: &Arc<InboundSa>) {
        let tunnel = sa.params.tunnel;
        self.open_account((Side::Inbound, tunnel, sa.spi), row);
        let live = self.live.entry(tunnel).or_insert_with(|| Live::new(row, sa.endpoints));
        live.inbound.push(Installed { sa: Arc::clone(sa), since: clock::now() });
    }

    /// A tunnel's outbound SA is about to be told to the workers, in the place of the one before.
    pub(super) fn set_outbound(&mut self, row: RowId, sa: &Arc<OutboundSa>, endpoints: Endpoints) {
        let tunnel = sa.params.tunnel;
        self.open_account((Side::Outbound, tunnel, sa.spi), row);
        let live = self.live.entry(tunnel).or_insert_with(|| Live::new(row, endpoints));
        let before = live.outbound.take().map(|before| (live.endpoints.remote, before.sa.spi));
        live.endpoints = endpoints;
        live.outbound = Some(Installed { sa: Arc::clone(sa), since: clock::now() });
        if let Some((remote, spi)) = before {
            self.unlink(remote, spi, tunnel);
        }
        self.link(endpoints.remote, sa.spi, tunnel);
    }

    /// An inbound SA is about to be taken from the workers.
    pub(super) fn remove_inbound(&mut self, tunnel: TunnelId, spi: Spi) {
        if let Some(live) = self.live.get_mut(&tunnel) {
            live.inbound.retain(|installed| installed.sa.spi != spi);
            self.forget_if_empty(tunnel);
        }
    }

    /// A tunnel's outbound SA is about to be taken from the workers.
    pub(super) fn remove_outbound(&mut self, tunnel: TunnelId) {
        if let Some(live) = self.live.get_mut(&tunnel)
            && let Some(before) = live.outbound.take()
        {
            let remote = live.endpoints.remote;
            self.unlink(remote, before.sa.spi, tunnel);
            self.forget_if_empty(tunnel);
        }
    }

    /// A tunnel's peer is somewhere else.
    pub(super) fn move_peer(&mut self, tunnel: TunnelId, to: Endpoints) {
        let Some(live) = self.live.get_mut(&tunnel) else { return };
        let from = std::mem::replace(&mut live.endpoints, to);
        if let Some(spi) = live.outbound.as_ref().map(|installed| installed.sa.spi) {
            self.unlink(from.remote, spi, tunnel);
            self.link(to.remote, spi, tunnel);
        }
    }

    /// The tunnel that sends to this peer with this SPI.
    pub(super) fn sending(&self, remote: IpAddr, spi: Spi) -> Option<TunnelId> {
        self.outbound.get(&(remote, spi)).copied()
    }

    /// The only tunnel to a peer, for errors that do not quote an SPI.
    pub(super) fn only_one_to(&self, remote: IpAddr) -> Option<TunnelId> {
        let tunnels = self.peers.get(&remote)?;
        tunnels.first().copied().filter(|_| tunnels.len() == 1)
    }

    /// Keeps what an SA carried that a worker has let go.
    pub(super) fn retire(&mut self, sa: &Retired, counters: &SaCounters) {
        let key = key(sa);
        let Some(account) = self.accounts.get_mut(&key) else { return };
        if let Some(row) = self.rows.get_mut(account.row.0) {
            match key.0 {
                Side::Inbound => row.retired.0.merge(counters),
                Side::Outbound => row.retired.1.merge(counters),
            }
        }
        account.workers -= 1;
        if account.workers == 0 {
            self.accounts.remove(&key);
        }
    }

    /// Every SA that a worker may still have, and the index of its row.
    pub(super) fn accounts(&self) -> impl Iterator<Item = (Key, usize)> {
        self.accounts.iter().map(|(&key, account)| (key, account.row.0))
    }

    fn open_account(&mut self, key: Key, row: RowId) {
        let workers = self.workers;
        self.accounts.entry(key).or_insert(Account { row, workers: 0 }).workers += workers;
    }

    fn link(&mut self, remote: IpAddr, spi: Spi, tunnel: TunnelId) {
        self.outbound.insert((remote, spi), tunnel);
        self.peers.entry(remote).or_default().insert(tunnel);
    }

    fn unlink(&mut self, remote: IpAddr, spi: Spi, tunnel: TunnelId) {
        self.outbound.remove(&(remote, spi));
        if let Some(tunnels) = self.peers.get_mut(&remote) {
            tunnels.remove(&tunnel);
            if tunnels.is_empty() {
                self.peers.remove(&remote);
            }
        }
    }

    fn forget_if_empty(&mut self, tunnel: TunnelId) {
        if self.live.get(&tunnel).is_some_and(|live| live.inbound.is_empty() && live.outbound.is_none()) {
            self.live.remove(&tunnel);
        }
    }
}

/// What a retired SA was counted under.
pub(super) fn key(sa: &Retired) -> Key {
    match sa {
        Retired::Inbound(sa) => (Side::Inbound, sa.params.tunnel, sa.spi),
        Retired::Outbound(sa) => (Side::Outbound, sa.params.tunnel, sa.spi),
    }
}

impl RowId {
    /// Its place among [`Tunnels::rows`].
    pub(super) fn index(self) -> usize {
        self.0
    }
}

impl Live {
    fn new(row: RowId, endpoints: Endpoints) -> Self {
        Self { row, endpoints, inbound: Vec::new(), outbound: None }
    }
}
