//! Message IDs and reliability: one request at a time each way, repeated until answered, answered once and
//! again (RFC 7296 s2.1 to s2.3). The window is 1, which every peer supports.

use std::time::Instant;

use crate::config::Retransmit;
use crate::wire::ExchangeType;

/// Our requests.
#[derive(Debug, Default)]
pub struct Requests {
    next_id: u32,
    outstanding: Option<Outstanding>,
}

/// The request that waits for its response.
#[derive(Debug)]
struct Outstanding {
    id: u32,
    exchange: ExchangeType,
    /// The message, or its fragments.
    packets: Vec<Vec<u8>>,
    repeated: u32,
    at: Instant,
}

/// What a timeout of the outstanding request means.
#[derive(Debug)]
pub enum Timeout<'a> {
    /// It is not due.
    NotYet,
    /// Send these again.
    Repeat(&'a [Vec<u8>]),
    /// The last repetition went unanswered.
    Dead,
}

impl Requests {
    /// The message ID of the next request.
    pub fn next_id(&self) -> u32 {
        self.next_id
    }

    /// No request waits for its response.
    pub fn is_idle(&self) -> bool {
        self.outstanding.is_none()
    }

    /// A request goes out.
    pub fn sent(
        &mut self,
        now: Instant,
        exchange: ExchangeType,
        packets: Vec<Vec<u8>>,
        retransmit: &Retransmit,
    ) {
        let (id, at) = (self.next_id, now + retransmit.wait(0));
        self.next_id = self.next_id.wrapping_add(1);
        self.outstanding = Some(Outstanding { id, exchange, packets, repeated: 0, at });
    }

    /// An IKE_SA_INIT is tried again with message ID 0 (cookie, other key exchange method).
    pub fn restart(&mut self) {
        *self = Self::default();
    }

    /// A response with this ID and exchange type is awaited.
    pub fn awaits(&self, id: u32, exchange: ExchangeType) -> bool {
        self.outstanding.as_ref().is_some_and(|request| request.id == id && request.exchange == exchange)
    }

    /// The response came.
    pub fn answered(&mut self) {
        self.outstanding = None;
    }

    /// Nobody waits for the response any more.
    pub fn abandon(&mut self) {
        self.outstanding = None;
    }

    /// When the outstanding request is to be sent again or given up.
    pub fn deadline(&self) -> Option<Instant> {
        self.outstanding.as_ref().map(|request| request.at)
    }

    /// The bytes of the outstanding request.
    pub fn packets(&self) -> &[Vec<u8>] {
        self.outstanding.as_ref().map_or(&[], |request| &request.packets)
    }

    /// How often the outstanding request was repeated.
    pub fn repeated(&self) -> u32 {
        self.outstanding.as_ref().map_or(0, |request| request.repeated)
    }

    /// Looks whether the outstanding request is due.
    pub fn timeout(&mut self, now: Instant, retransmit: &Retransmit) -> Timeout<'_> {
        match &mut self.outstanding {
            Some(request) if request.at <= now => {
                if request.repeated >= retransmit.tries {
                    return Timeout::Dead;
                }
                request.repeated += 1;
                request.at = now + retransmit.wait(request.repeated);
                Timeout::Repeat(&request.packets)
            }
            _ => Timeout::NotYet,
        }
    }
}

/// The peer's requests, and our last response.
#[derive(Debug, Default)]
pub struct Responses {
    expected: u32,
    last: Vec<Vec<u8>>,
}

/// What the message ID of a request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The next one.
    New,
    /// The one before: its response is sent again.
    Repeated,
    /// Neither.
    Outside,
}

impl Responses {
    /// The message ID that the next request must have.
    pub fn expected(&self) -> u32 {
        self.expected
    }

    /// Where this message ID stands.
    pub fn order(&self, id: u32) -> Order {
        if id == self.expected {
            Order::New
        } else if id.wrapping_add(1) == self.expected && !self.last.is_empty() {
            Order::Repeated
        } else {
            Order::Outside
        }
    }

    /// The next request is answered with this message, or its fragments.
    pub fn answered(&mut self, packets: Vec<Vec<u8>>) {
        self.expected = self.expected.wrapping_add(1);
        self.last = packets;
    }

    /// The last response.
    pub fn last(&self) -> &[Vec<u8>] {
        &self.last
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_request_is_repeated_ever_more_slowly_and_then_given_up() {
        let retransmit = Retransmit {
            initial: Duration::from_secs(1),
            factor: 2.0,
            max: Duration::from_secs(3),
            tries: 3,
        };
        let start = Instant::now();
        let mut requests = Requests::default();
        requests.sent(start, ExchangeType::INFORMATIONAL, vec![vec![1]], &retransmit);
        let mut waits = Vec::new();
        let mut now = start;
        loop {
            let at = requests.deadline().unwrap();
            assert!(matches!(requests.timeout(at - Duration::from_millis(1), &retransmit), Timeout::NotYet));
            waits.push((at - now).as_secs());
            now = at;
            match requests.timeout(now, &retransmit) {
                Timeout::Repeat(packets) => assert_eq!(packets, [vec![1]]),
                Timeout::Dead => break,
                Timeout::NotYet => panic!(),
            }
        }
        assert_eq!(waits, [1, 2, 3, 3]);
        assert_eq!(retransmit.total(), Duration::from_secs(9));
    }

    #[test]
    fn defaults_are_as_patient_as_the_rfc_wants() {
        let retransmit = Retransmit::default();
        assert!(retransmit.tries >= 12);
        assert!(retransmit.total() > Duration::from_secs(180));
    }

    #[test]
    fn responses_only_to_what_was_asked() {
        let mut requests = Requests::default();
        assert!(!requests.awaits(0, ExchangeType::INFORMATIONAL));
        requests.sent(Instant::now(), ExchangeType::INFORMATIONAL, vec![], &Retransmit::default());
        assert!(requests.awaits(0, ExchangeType::INFORMATIONAL));
        assert!(!requests.awaits(0, ExchangeType::IKE_AUTH));
        assert!(!requests.awaits(1, ExchangeType::INFORMATIONAL));
        requests.answered();
        assert!(!requests.awaits(0, ExchangeType::INFORMATIONAL));
        assert_eq!(requests.next_id(), 1);
    }

    #[test]
    fn the_last_request_may_come_again() {
        let mut responses = Responses::default();
        assert_eq!(responses.order(u32::MAX), Order::Outside);
        assert_eq!(responses.order(0), Order::New);
        responses.answered(vec![vec![7]]);
        assert_eq!([0, 1, 2].map(|id| responses.order(id)), [Order::Repeated, Order::New, Order::Outside]);
        assert_eq!(responses.last(), [vec![7]]);
    }
}
