//! Packets of another implementation, as `vectors/ipsec.py` writes them. The self-test and the tests read them.

use super::{KeyMaterial, Suite};

/// One packet with all that made it.
pub struct KnownAnswer {
    /// Algorithms.
    pub suite: Suite,
    /// With extended sequence numbers.
    pub esn: bool,
    /// The whole sequence number.
    pub seq: u64,
    /// The key.
    pub material: KeyMaterial,
    /// The packet before and after.
    pub packet: Packet,
}

/// What the two protocols have apart.
pub enum Packet {
    /// An ESP packet.
    Esp {
        /// With padding and trailer.
        plaintext: Vec<u8>,
        /// From the SPI to the ICV.
        sealed: Vec<u8>,
    },
    /// An IP packet with AH.
    Ah {
        /// Where the ICV field is.
        icv_at: usize,
        /// With mutable fields and ICV zero.
        packet: Vec<u8>,
        /// The ICV field, with GMAC's IV.
        icv: Vec<u8>,
    },
}

/// All answers of a file. A line that does not parse is an error that says which.
pub fn parse(text: &str) -> impl Iterator<Item = Result<KnownAnswer, String>> {
    text.lines().enumerate().map(|(at, line)| parse_line(line).ok_or_else(|| format!("line {}", at + 1)))
}

fn parse_line(line: &str) -> Option<KnownAnswer> {
    let mut words = line.split_whitespace();
    let protocol = words.next()?;
    let suite = words.next()?.parse().ok()?;
    let esn = words.next()? == "1";
    let seq = words.next()?.parse().ok()?;
    let material = KeyMaterial::new(unhex(words.next()?)?);
    let packet = match protocol {
        "esp" => Packet::Esp { plaintext: unhex(words.next()?)?, sealed: unhex(words.next()?)? },
        "ah" => Packet::Ah {
            icv_at: words.next()?.parse().ok()?,
            packet: unhex(words.next()?)?,
            icv: unhex(words.next()?)?,
        },
        _ => return None,
    };
    Some(KnownAnswer { suite, esn, seq, material, packet })
}

/// Bytes from hexadecimal digits.
pub fn unhex(digits: &str) -> Option<Vec<u8>> {
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_does_not_parse_is_named() {
        let text = "esp aes128gcm16 0 7 00 00 00\nesp aes128gcm16 0 7 00 0 00\nah sha256 0 x";
        let lines: Vec<_> = parse(text).map(|answer| answer.map(|answer| answer.seq)).collect();
        assert_eq!(lines, [Ok(7), Err("line 2".to_owned()), Err("line 3".to_owned())]);
    }
}
