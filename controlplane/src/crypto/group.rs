//! The key exchange methods: numbers, names, sizes, and why some are refused.

use std::fmt;

/// A key exchange method (transform type 4).
///
/// X448 (32) and the Brainpool curves are not offered: AWS-LC has neither, and no peer insists on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Group {
    /// Group 14, RFC 3526. Accepted (RFC 8247 s2.4 MUST) but no default.
    Modp2048,
    /// Group 15, RFC 3526.
    Modp3072,
    /// Group 16, RFC 3526.
    Modp4096,
    /// Group 17, RFC 3526.
    Modp6144,
    /// Group 18, RFC 3526.
    Modp8192,
    /// Group 19, RFC 5903.
    Ecp256,
    /// Group 20, RFC 5903.
    Ecp384,
    /// Group 21, RFC 5903.
    Ecp521,
    /// Group 31, RFC 8031.
    X25519,
    /// Method 35, FIPS 203.
    MlKem512,
    /// Method 36, FIPS 203.
    MlKem768,
    /// Method 37, FIPS 203.
    MlKem1024,
}

impl Group {
    /// All of them, by IANA number.
    pub const ALL: [Self; 12] = [
        Self::Modp2048,
        Self::Modp3072,
        Self::Modp4096,
        Self::Modp6144,
        Self::Modp8192,
        Self::Ecp256,
        Self::Ecp384,
        Self::Ecp521,
        Self::X25519,
        Self::MlKem512,
        Self::MlKem768,
        Self::MlKem1024,
    ];

    /// From the IANA number.
    pub fn from_iana(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.iana() == id)
    }

    /// The IANA number.
    pub const fn iana(self) -> u16 {
        match self {
            Self::Modp2048 => 14,
            Self::Modp3072 => 15,
            Self::Modp4096 => 16,
            Self::Modp6144 => 17,
            Self::Modp8192 => 18,
            Self::Ecp256 => 19,
            Self::Ecp384 => 20,
            Self::Ecp521 => 21,
            Self::X25519 => 31,
            Self::MlKem512 => 35,
            Self::MlKem768 => 36,
            Self::MlKem1024 => 37,
        }
    }

    /// strongSwan's keyword.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Modp2048 => "modp2048",
            Self::Modp3072 => "modp3072",
            Self::Modp4096 => "modp4096",
            Self::Modp6144 => "modp6144",
            Self::Modp8192 => "modp8192",
            Self::Ecp256 => "ecp256",
            Self::Ecp384 => "ecp384",
            Self::Ecp521 => "ecp521",
            Self::X25519 => "x25519",
            Self::MlKem512 => "mlkem512",
            Self::MlKem768 => "mlkem768",
            Self::MlKem1024 => "mlkem1024",
        }
    }

    /// Whether it is a KEM. A KEM's first message is large, so it belongs into IKE_INTERMEDIATE
    /// (RFC 9370), where fragmentation works, rather than into IKE_SA_INIT.
    pub const fn is_kem(self) -> bool {
        matches!(self, Self::MlKem512 | Self::MlKem768 | Self::MlKem1024)
    }

    /// Bytes of the Key Exchange Data that the initiator sends.
    pub const fn initiator_len(self) -> usize {
        match self {
            Self::Modp2048 => 256,
            Self::Modp3072 => 384,
            Self::Modp4096 => 512,
            Self::Modp6144 => 768,
            Self::Modp8192 => 1024,
            Self::Ecp256 => 64,
            Self::Ecp384 => 96,
            Self::Ecp521 => 132,
            Self::X25519 => 32,
            Self::MlKem512 => 800,
            Self::MlKem768 => 1184,
            Self::MlKem1024 => 1568,
        }
    }

    /// Bytes of the Key Exchange Data that the responder sends.
    pub const fn responder_len(self) -> usize {
        match self {
            Self::MlKem512 => 768,
            Self::MlKem768 => 1088,
            Self::MlKem1024 => 1568,
            other => other.initiator_len(),
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_iana() {
        for refused in [1, 2, 5, 22, 23, 24, 25, 28, 32, 0, 999] {
            assert_eq!(Group::from_iana(refused), None);
        }
        for group in Group::ALL {
            assert_eq!(Group::from_iana(group.iana()), Some(group));
        }
    }
}
