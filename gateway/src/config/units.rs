//! Durations, sizes and ports as they are written in the file.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;
use serde_yaml::Value;

use super::node::{Fields, FromNode, Node};

/// `30s`, `10m`, `4h`, `1d` and sums such as `1h 30m`. A bare number has no unit and is refused.
impl FromNode for Duration {
    fn expected() -> Cow<'static, str> {
        "a duration such as 30s, 10m or 4h".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let expected = Self::expected();
        let text = node.text(&expected)?;
        humantime::parse_duration(text).ok().or_else(|| node.unexpected(&expected))
    }
}

impl Fields<'_> {
    /// The duration of a key, within bounds; `None` when it is missing or wrong.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        least: Duration,
        most: Duration,
    ) -> Option<Duration> {
        let duration = self.optional::<Duration>(key)?;
        if (least..=most).contains(&duration) {
            return Some(duration);
        }
        let [found, least, most] = [duration, least, most].map(humantime::format_duration);
        self.error(key, format!("found {found}, expected {least} to {most}"))
    }

    /// Like [`Fields::duration`], or `off`, which is `Some(None)`.
    pub(super) fn interval(
        &mut self,
        key: &'static str,
        least: Duration,
        most: Duration,
    ) -> Option<Option<Duration>> {
        if self.read(key, |node| node.value.as_str() == Some("off")) == Some(true) {
            return Some(None);
        }
        self.duration(key, least, most).map(Some)
    }
}

/// A number of bytes: `1TB` is 10^12 and `1TiB` is 2^40, as bare numbers are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bytes(pub(super) u64);

impl FromNode for Bytes {
    fn expected() -> Cow<'static, str> {
        "a size such as 512MB, 1TB or 1TiB".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let expected = Self::expected();
        if let Some(bytes) = node.value.as_u64() {
            return Some(Self(bytes));
        }
        let size: Option<ByteSize> = node.text(&expected)?.parse().ok();
        size.map(|size| Self(size.as_u64())).or_else(|| node.unexpected(&expected))
    }
}

/// A UDP or TCP port, or a range of them: `443` or `"1000-2000"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortRange(pub(super) RangeInclusive<u16>);

impl FromNode for PortRange {
    fn expected() -> Cow<'static, str> {
        "a port from 0 to 65535 or a range such as \"1000-2000\"".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let range = match node.value {
            Value::Number(port) => port.as_u64().and_then(|port| u16::try_from(port).ok()).map(|p| p..=p),
            Value::String(text) => text.split_once('-').and_then(|(first, last)| {
                let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
                (first <= last).then_some(first..=last)
            }),
            _ => None,
        };
        range.map(Self).or_else(|| node.unexpected(&Self::expected()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Problems;
    use super::super::node::Context;
    use super::*;

    fn read<T: FromNode>(yaml: &str) -> Option<T> {
        let value: Value = serde_yaml::from_str(yaml).unwrap();
        let context = Context { problems: Problems::default(), base: "".into() };
        let read = T::from_node(Node::top(&value, &context));
        assert_eq!(read.is_none(), context.problems.errors() == 1, "{yaml}");
        read
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(read("30s"), Some(Duration::from_secs(30)));
        assert_eq!(read("1h 30m"), Some(Duration::from_secs(5400)));
        assert_eq!(read::<Duration>("30"), None);
        assert_eq!(read::<Duration>("'30'"), None);
        assert_eq!(read::<Duration>("-1s"), None);
        assert_eq!(read::<Duration>("99999999999999999999h"), None);
    }

    #[test]
    fn sizes_are_decimal_or_binary() {
        assert_eq!(read("1TB"), Some(Bytes(1_000_000_000_000)));
        assert_eq!(read("1TiB"), Some(Bytes(1 << 40)));
        assert_eq!(read("1.5 GB"), Some(Bytes(1_500_000_000)));
        assert_eq!(read("4096"), Some(Bytes(4096)));
        assert_eq!(read::<Bytes>("1XB"), None);
        assert_eq!(read::<Bytes>("-1"), None);
    }

    #[test]
    fn ports_are_numbers_or_ranges() {
        assert_eq!(read("443"), Some(PortRange(443..=443)));
        assert_eq!(read("1000-2000"), Some(PortRange(1000..=2000)));
        assert_eq!(read::<PortRange>("2000-1000"), None);
        assert_eq!(read::<PortRange>("65536"), None);
        assert_eq!(read::<PortRange>("http"), None);
    }
}
