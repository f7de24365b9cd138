//! Values as they stand in a table.

use std::time::Duration;

/// `1,234,567`.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1h 2m 3s`.
pub(crate) fn duration(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

/// `870ns`, `12.3us`, `4.5ms`, `1.2s`.
pub(crate) fn nanoseconds(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{:.1}us", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}ms", ns as f64 / 1e6),
        _ => format!("{:.1}s", ns as f64 / 1e9),
    }
}

/// `12.5%`, or `-` of nothing.
pub(crate) fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1}%", part as f64 * 100.0 / whole as f64) }
}

/// The value, or `-`.
pub(crate) fn optional(value: Option<impl ToString>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

/// `443`, `1000-2000` or `any`.
pub(crate) fn ports(range: Option<(u16, u16)>) -> String {
    match range {
        None => "any".to_owned(),
        Some((first, last)) if first == last => first.to_string(),
        Some((first, last)) => format!("{first}-{last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_short() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(duration(3723), "1h 2m 3s");
        assert_eq!(
            [870, 12_345, 4_500_000, 1_200_000_000].map(nanoseconds),
            ["870ns", "12.3us", "4.5ms", "1.2s"]
        );
        assert_eq!([share(1, 8), share(0, 0)], ["12.5%", "-"]);
        assert_eq!([ports(None), ports(Some((443, 443))), ports(Some((1, 9)))], ["any", "443", "1-9"]);
        assert_eq!([optional(Some(1)), optional(None::<u8>)], ["1", "-"]);
    }
}
