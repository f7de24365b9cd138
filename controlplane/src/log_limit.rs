//! How much of the log strangers can fill: whoever sends datagrams decides how many there are, and not how many lines.

use std::time::{Duration, Instant};

/// Counts lines about peers that have not proved themselves.
#[derive(Debug, Default)]
pub(crate) struct LogLimit {
    per_second: u32,
    since: Option<Instant>,
    lines: u32,
}

impl LogLimit {
    pub fn new(per_second: u32) -> Self {
        Self { per_second, ..Self::default() }
    }

    /// One more may be written.
    pub fn allows(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now >= since + Duration::from_secs(1)) {
            (self.since, self.lines) = (Some(now), 0);
        }
        let allowed = self.lines < self.per_second;
        self.lines += u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second_and_no_more() {
        let (mut limit, now) = (LogLimit::new(2), Instant::now());
        assert_eq!([(); 4].map(|()| limit.allows(now)), [true, true, false, false]);
        assert_eq!([(); 3].map(|()| limit.allows(now + Duration::from_secs(1))), [true, true, false]);
        assert!(!LogLimit::new(0).allows(now));
    }
}
