//! So many of something in a second: answers to strangers, and lines of the log about them. Whoever sends datagrams decides
//! how many there are, and not what comes of them.

use std::time::{Duration, Instant};

/// A bound on how often something is done.
#[derive(Debug, Default)]
pub(crate) struct PerSecond {
    most: u32,
    since: Option<Instant>,
    done: u32,
}

impl PerSecond {
    pub fn new(most: u32) -> Self {
        Self { most, ..Self::default() }
    }

    /// It may be done once more.
    pub fn allows(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now >= since + Duration::from_secs(1)) {
            (self.since, self.done) = (Some(now), 0);
        }
        let allowed = self.done < self.most;
        self.done += u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_second_and_no_more() {
        let (mut limit, now) = (PerSecond::new(2), Instant::now());
        assert_eq!([(); 4].map(|()| limit.allows(now)), [true, true, false, false]);
        assert_eq!([(); 3].map(|()| limit.allows(now + Duration::from_secs(1))), [true, true, false]);
        assert!(!PerSecond::new(0).allows(now));
    }
}
