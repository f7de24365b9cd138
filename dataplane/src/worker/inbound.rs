//! Inbound SAs, a burst at a time (RFC 4301 s5.2, RFC 4303 s3.4): look up, replay pre-check, open, replay
//! window. Nothing that is not authenticated changes any state. What comes out is for `opened`.

use arrayvec::ArrayVec;

use crate::ah;
use crate::buffer::{BURST, Packet};
use crate::crypto::Job;
use crate::drops::DropReason;
use crate::esp::inbound::Layout;
use crate::packet::ip::{IpInfo, Version};
use crate::packet::{ah as ah_header, esp as esp_header, ipv4};
use crate::sa::spi_table::SlotIndex;
use crate::sa::{InboundSa, Protocol, Spi};
use crate::worker::Worker;
use crate::worker::outbound::SealQueue;
use crate::worker::stages::Stage;
use crate::worker::transit::strip;
use crate::worker::usual::{self, Usual};
use crate::worker::whence::Whence;

/// Packets that wait to be opened.
pub(super) type OpenQueue = ArrayVec<Opening, BURST>;

/// A packet that waits to be opened. It starts at its outer IP header.
pub(super) struct Opening {
    pub(super) packet: Packet,
    /// The lower half, until the SA says what the upper one is.
    pub(super) seq: u64,
    spi: Spi,
    /// `None` while it was not looked up, and when there is no such SA.
    pub(super) slot: Option<SlotIndex>,
    /// Offset of the ESP or AH header within the outer packet.
    pub(super) at: u16,
    /// Length of the outer IP header with its extensions.
    pub(super) ip_len: u16,
    protocol: Protocol,
    version: Version,
    /// TOS or traffic class of the outer header.
    pub(super) tos: u8,
    /// It does not come from where the SA's last packets came from.
    pub(super) elsewhere: bool,
    /// Where it goes in the clear, when all that had to be checked was checked.
    pub(super) clear_to: Option<u32>,
}

/// What became of a packet so far.
pub(super) type Verdict = Result<(), DropReason>;

/// Of each packet of a burst.
pub(super) type Verdicts = [Verdict; BURST];

impl Worker {
    /// Takes an ESP or AH packet to us and queues it to be opened. Its protected header is at `at`, counted from its IP
    /// header; `link_len` is the length of the link header that it still has.
    #[inline]
    pub(super) fn accept_protected(
        &mut self,
        packet: Packet,
        link_len: usize,
        protocol: Protocol,
        outer: &IpInfo,
        at: usize,
        opening: &mut OpenQueue,
    ) {
        // What is behind the packet is padding of the link.
        let end = packet.len().min(link_len + usize::from(outer.total_len));
        let protected = packet.data().get(link_len + at..end).unwrap_or_default();
        let (spi, seq) = match spi_and_sequence(protected, protocol) {
            Ok(found) => found,
            Err(reason) => return self.drop_packet(packet, reason),
        };
        opening.push(Opening {
            packet,
            seq: seq.into(),
            spi,
            slot: None,
            at: at as u16,
            ip_len: outer.header_len,
            protocol,
            version: outer.version,
            tos: outer.tos,
            elsewhere: false,
            clear_to: None,
        });
        // Moved first and cut then: see `Packet`.
        if link_len > 0
            && let Some(work) = opening.last_mut()
        {
            strip(&mut work.packet, link_len, outer);
        }
    }

    /// As [`Worker::accept_protected`] for a usual packet, which still has its link header.
    #[inline(always)]
    pub(super) fn accept_usual(
        packet: Packet,
        usual: &Usual,
        header: esp_header::Header,
        opening: &mut OpenQueue,
    ) {
        opening.push(Opening {
            packet,
            seq: header.sequence.into(),
            spi: header.spi,
            slot: None,
            at: ipv4::HEADER_LEN as u16,
            ip_len: ipv4::HEADER_LEN as u16,
            protocol: Protocol::Esp,
            version: Version::V4,
            tos: usual.tos,
            elsewhere: false,
            clear_to: None,
        });
        // Moved first and cut then: see `Packet`.
        if let Some(work) = opening.last_mut() {
            usual::strip(&mut work.packet, usual, false);
        }
    }

    /// Opens what is queued, and passes on what is good.
    pub(super) fn open(&mut self, opening: &mut OpenQueue, sealing: &mut SealQueue, now: u64) {
        if opening.is_empty() {
            return;
        }
        let mut verdicts = [Ok(()); BURST];
        self.find_sas(opening);
        self.passed(Stage::FindSas);
        for (run, verdicts) in runs(opening, &mut verdicts) {
            self.examine(run, verdicts);
        }
        self.passed(Stage::Examine);
        self.open_burst(opening, &mut verdicts);
        self.passed(Stage::Open);
        for (run, verdicts) in runs(opening, &mut verdicts) {
            if let Some(slot) = run.first().and_then(|work| self.tables.inbound.at(work.slot?)) {
                claim(&slot.sa, run, verdicts);
            }
            self.unwrap_run(run, verdicts, now);
        }
        self.passed(Stage::Claim);
        self.deliver_opened(opening, &verdicts, sealing, now);
        self.passed(Stage::Deliver);
    }

    /// Looks up the SAs of a burst, whose slots were asked for before, and asks for the SAs themselves and their keys. By
    /// the time that the last is found the first is there. That all are of the first one's suite is a guess. At last
    /// replay windows are asked for, which lie behind a pointer in the SA.
    #[inline]
    fn find_sas(&self, opening: &mut OpenQueue) {
        let table = &self.tables.inbound;
        let mut last: Option<(Spi, Option<SlotIndex>)> = None;
        let mut suite = None;
        for work in opening.iter_mut() {
            match last {
                Some((spi, slot)) if spi == work.spi => work.slot = slot,
                _ => {
                    work.slot = table.place(work.spi);
                    if last.is_some()
                        && let Some(slot) = work.slot.and_then(|slot| table.at(slot))
                    {
                        let suite = *suite.get_or_insert_with(|| slot.sa.params.suite);
                        slot.sa.prefetch();
                        if slot.usual.is_none() {
                            slot.sa.prefetch_rest();
                        }
                        self.crypto.prefetch(&slot.sa.key, suite, work.packet.len());
                    }
                    last = Some((work.spi, work.slot));
                }
            }
        }
        if suite.is_some() {
            for run in opening.chunk_by(|a, b| a.slot == b.slot) {
                let slot = run.first().and_then(|work| table.at(work.slot?));
                if let Some(window) = slot.and_then(|slot| slot.sa.replay.as_ref()) {
                    window.prefetch();
                }
            }
        }
    }

    /// What is checked before a run of packets of one SA is decrypted: protocol, length, and the replay window for the
    /// first time.
    #[inline]
    fn examine(&mut self, run: &mut [Opening], verdicts: &mut [Verdict]) {
        let moves = self.tables.moves;
        let Some(slot) = run.first().and_then(|work| self.tables.inbound.at(work.slot?)) else {
            return verdicts.fill(Err(DropReason::SpiUnknown));
        };
        let sa = &*slot.sa;
        let window = sa.replay.as_ref().map(|window| window.look());
        for (work, verdict) in run.iter_mut().zip(verdicts) {
            let checked = match (&slot.usual, work.protocol) {
                (Some(usual), Protocol::Esp) => {
                    usual.layout.check_len(work.packet.len().saturating_sub(work.at.into()))
                }
                _ => check(sa, work),
            };
            let low = work.seq as u32;
            let inferred =
                checked.and_then(|()| window.as_ref().map_or(Ok(work.seq), |look| look.infer(low)));
            match inferred {
                Ok(seq) => work.seq = seq,
                Err(reason) => *verdict = Err(reason),
            }
            let whence = Whence::read(work.packet.data(), work.ip_len.into(), work.at.into());
            work.elsewhere = whence != slot.heard.from || moves != slot.heard.moves;
        }
    }

    /// Runs the engine over those packets of the burst that passed so far.
    #[inline]
    fn open_burst(&self, opening: &mut OpenQueue, verdicts: &mut Verdicts) {
        let mut jobs = ArrayVec::<Job<'_>, BURST>::new();
        let mut asked = [0u8; BURST];
        let mut last = (None, None);
        for (place, (work, verdict)) in opening.iter_mut().zip(verdicts.iter_mut()).enumerate() {
            if verdict.is_err() {
                continue;
            }
            // Good only when the engine says so.
            *verdict = Err(DropReason::IcvBad);
            if last.0 != work.slot {
                last = (work.slot, work.slot.and_then(|slot| self.tables.inbound.at(slot)));
            }
            let Some(slot) = last.1 else { continue };
            let key = &slot.sa.key;
            let at = usize::from(work.at);
            // That of the SA: it was compared.
            match work.protocol {
                Protocol::Esp => {
                    let Some(packet) = work.packet.data_mut().get_mut(at..) else { continue };
                    // Never more than a burst: the remainder is the same, and needs no check.
                    asked[jobs.len() % BURST] = place as u8;
                    jobs.push(Job { key, packet, seq: work.seq, ok: false });
                }
                Protocol::Ah => {
                    if ah::verify(&self.crypto, key, &mut work.packet, at, work.seq) {
                        *verdict = Ok(());
                    }
                }
            }
        }
        self.crypto.open(&mut jobs);
        for (job, &place) in jobs.iter().zip(&asked) {
            if job.ok {
                verdicts[usize::from(place) % BURST] = Ok(());
            }
        }
    }
}

/// Packets of one SA that follow each other, each run with its verdicts.
#[inline]
fn runs<'a>(
    opening: &'a mut [Opening],
    verdicts: &'a mut Verdicts,
) -> impl Iterator<Item = (&'a mut [Opening], &'a mut [Result<(), DropReason>])> {
    let mut rest = &mut verdicts[..];
    opening.chunk_by_mut(|a, b| a.slot == b.slot).map(move |run| {
        let (mine, others) = std::mem::take(&mut rest).split_at_mut(run.len());
        rest = others;
        (run, mine)
    })
}

/// SPI and sequence number in front of a protected packet.
#[inline]
fn spi_and_sequence(protected: &[u8], protocol: Protocol) -> Result<(Spi, u32), DropReason> {
    match protocol {
        Protocol::Esp => {
            let header = esp_header::Header::parse(protected)?;
            Ok((header.spi, header.sequence))
        }
        Protocol::Ah => {
            let (header, _) = ah_header::Header::parse(protected)?;
            Ok((header.spi, header.sequence))
        }
    }
}

/// Whether a packet can be one of the SA's.
#[inline(never)]
fn check(sa: &InboundSa, work: &Opening) -> Verdict {
    if sa.params.protocol != work.protocol {
        return Err(DropReason::SaMismatch);
    }
    let protected = work.packet.data().get(usize::from(work.at)..).unwrap_or_default();
    match work.protocol {
        Protocol::Esp => Layout::of(sa.params.suite).check_len(protected.len()),
        Protocol::Ah => ah::check_len(&sa.key, protected, work.version),
    }
}

/// Claims the sequence numbers of those packets of a run whose ICV was good (RFC 4303 s3.4.3).
#[inline]
fn claim(sa: &InboundSa, run: &[Opening], verdicts: &mut [Verdict]) {
    let Some(window) = &sa.replay else { return };
    let mut refused = ArrayVec::<(usize, DropReason), BURST>::new();
    let number =
        |index: usize| run.get(index).filter(|_| verdicts.get(index) == Some(&Ok(()))).map(|work| work.seq);
    window.accept_run(run.len(), number, |index, reason| refused.push((index, reason)));
    // By reference: by value all of its room would be copied, for every run.
    for &(index, reason) in &refused {
        if let Some(verdict) = verdicts.get_mut(index) {
            *verdict = Err(reason);
        }
    }
}
