//! Files with secrets: keys of manual SAs in hexadecimal, and pre-shared keys.
//!
//! What is read lives in buffers that are wiped, never grows (a growing vector leaves copies behind), and no
//! message shows any of it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use dataplane::crypto::{KeyMaterial, Suite};
use zeroize::Zeroizing;

/// No secret is longer than this.
const FILE_MAX: usize = 4096;

/// Why a file with a secret is refused.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be opened or read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// A directory, a device, a socket.
    #[error("{path} is not a regular file")]
    NotAFile {
        /// The file.
        path: String,
    },
    /// Group or others have access.
    #[error("{path} has mode {mode:04o}: others than its owner can get at it; run: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// Longer than any key.
    #[error("{path} is longer than {FILE_MAX} bytes: not a key")]
    TooLong {
        /// The file.
        path: String,
    },
    /// Something else than hexadecimal digits and white space.
    #[error("{path}:{line}:{column}: not a hexadecimal digit; expected {expected}")]
    NotHex {
        /// The file.
        path: String,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// How many bytes of what.
        expected: String,
    },
    /// Half a byte too many or too few.
    #[error("{path} has an odd number of hexadecimal digits ({digits}); expected {expected}")]
    OddDigits {
        /// The file.
        path: String,
        /// Digits found.
        digits: usize,
        /// How many bytes of what.
        expected: String,
    },
    /// Another number of bytes than the suite takes.
    #[error("{path} holds {found} bytes; expected {expected}")]
    Length {
        /// The file.
        path: String,
        /// Bytes found.
        found: usize,
        /// How many bytes of what.
        expected: String,
    },
    /// A file for a pre-shared key without one.
    #[error("{path} is empty")]
    Empty {
        /// The file.
        path: String,
    },
}

/// A pre-shared key. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Psk(Zeroizing<Vec<u8>>);

impl Psk {
    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Psk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Psk({} bytes)", self.0.len())
    }
}

/// Reads the key of one direction of an SA: hexadecimal, with white space and `0x` between the parts as one
/// likes.
///
/// # Errors
/// [`KeyFileError`].
pub fn read_key(path: &Path, suite: Suite) -> Result<KeyMaterial, KeyFileError> {
    let text = read_secret(path)?;
    let expected = || format!("{} bytes for {suite}: {}", suite.key_len(), parts(suite));
    let mut key = Zeroizing::new(Vec::with_capacity(text.len() / 2));
    let mut high: Option<u8> = None;
    let mut digits = 0;
    let (mut line, mut column) = (1, 0);
    let mut bytes = text.iter().copied().peekable();
    let mut word_start = true;
    while let Some(byte) = bytes.next() {
        column += 1;
        if byte.is_ascii_whitespace() {
            word_start = true;
            if byte == b'\n' {
                (line, column) = (line + 1, 0);
            }
            continue;
        }
        if word_start && byte == b'0' && bytes.next_if(|next| *next == b'x').is_some() {
            column += 1;
            word_start = false;
            continue;
        }
        word_start = false;
        let Some(digit) = hex_digit(byte) else {
            return Err(KeyFileError::NotHex { path: shown(path), line, column, expected: expected() });
        };
        digits += 1;
        match high.take() {
            None => high = Some(digit << 4),
            Some(high) => key.push(high | digit),
        }
    }
    if high.is_some() {
        return Err(KeyFileError::OddDigits { path: shown(path), digits, expected: expected() });
    }
    if key.len() != suite.key_len() {
        return Err(KeyFileError::Length { path: shown(path), found: key.len(), expected: expected() });
    }
    // An exact copy: `KeyMaterial` keeps a boxed slice, and shrinking a vector would leave the old one behind.
    let mut exact = Vec::with_capacity(key.len());
    exact.extend_from_slice(&key);
    Ok(KeyMaterial::new(exact))
}

/// Reads a pre-shared key: the file's bytes without the line ends behind them.
///
/// # Errors
/// [`KeyFileError`].
pub fn read_psk(path: &Path) -> Result<Psk, KeyFileError> {
    let mut text = read_secret(path)?;
    while text.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        text.pop();
    }
    if text.is_empty() {
        return Err(KeyFileError::Empty { path: shown(path) });
    }
    Ok(Psk(text))
}

/// Checks that a file can be read, and that no one but its owner can, if it is to be secret.
///
/// # Errors
/// [`KeyFileError`].
pub fn check(path: &Path, secret: bool) -> Result<(), KeyFileError> {
    open(path, secret).map(drop)
}

fn open(path: &Path, secret: bool) -> Result<File, KeyFileError> {
    let read_error = |error| KeyFileError::Read { path: shown(path), error };
    let file = File::open(path).map_err(read_error)?;
    // Of the open file, so that it cannot be exchanged between check and use.
    let metadata = file.metadata().map_err(read_error)?;
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile { path: shown(path) });
    }
    let mode = metadata.mode() & 0o7777;
    if secret && mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed { path: shown(path), mode });
    }
    Ok(file)
}

fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let mut file = open(path, true)?;
    let mut buffer = Zeroizing::new(vec![0; FILE_MAX + 1]);
    let mut len = 0;
    while let Some(rest) = buffer.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(KeyFileError::Read { path: shown(path), error }),
        }
    }
    if len > FILE_MAX {
        return Err(KeyFileError::TooLong { path: shown(path) });
    }
    buffer.truncate(len);
    Ok(buffer)
}

/// What a key file holds, in this order: `16 of encryption key, then 4 of salt`.
fn parts(suite: Suite) -> String {
    let parts = [
        (suite.encryption_key_len(), "encryption key"),
        (suite.integrity_key_len(), "integrity key"),
        (suite.salt_len(), "salt"),
    ];
    let parts = parts.iter().filter(|(bytes, _)| *bytes > 0);
    parts.map(|(bytes, what)| format!("{bytes} of {what}")).collect::<Vec<_>>().join(", then ")
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    /// 16 bytes.
    const SUITE: &str = "null-aescmac";

    fn suite() -> Suite {
        SUITE.parse().unwrap()
    }

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, content: &[u8], mode: u32) -> PathBuf {
            let path = self.0.path().join("key");
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            path
        }

        fn key(&self, content: &str) -> Result<Vec<u8>, String> {
            let path = self.file(content.as_bytes(), 0o600);
            let shown = path.display().to_string();
            read_key(&path, suite())
                .map(|key| key.expose().to_vec())
                .map_err(|error| error.to_string().replace(&shown, "key"))
        }
    }

    #[test]
    fn hex_may_be_laid_out_freely() {
        let dir = Dir::new();
        let rest = "11".repeat(13);
        for text in ["0a0bff", "0A0BFF\n", "0x0a0b 0xff", "0a 0b\r\n\tff\n\n"] {
            let key = dir.key(&format!("{text}{rest}")).unwrap();
            assert_eq!((&key[..3], key.len()), ([10, 11, 255].as_slice(), 16), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_a_key_is_refused_without_showing_it() {
        let dir = Dir::new();
        let cases = [
            ("0a0b", "key holds 2 bytes"),
            ("", "key holds 0 bytes"),
            ("0a0bf", "key has an odd number of hexadecimal digits (5)"),
            ("0a0b\nsecret", "key:2:1: not a hexadecimal digit"),
            ("0a0bx", "key:1:5: not a hexadecimal digit"),
        ];
        for (text, problem) in cases {
            let message = format!("{problem}; expected 16 bytes for null-aescmac: 16 of integrity key");
            assert_eq!(dir.key(text), Err(message));
        }
        assert!(dir.key(&"00".repeat(4000)).unwrap_err().contains("longer than 4096 bytes"));
    }

    #[test]
    fn a_key_file_holds_encryption_key_integrity_key_and_salt() {
        for (keyword, expected) in [
            ("aes128gcm16", "16 of encryption key, then 4 of salt"),
            ("chacha20poly1305", "32 of encryption key, then 4 of salt"),
            ("aes256-sha384", "32 of encryption key, then 48 of integrity key"),
            ("sha512", "64 of integrity key"),
            ("ah-aes256gmac", "32 of integrity key, then 4 of salt"),
        ] {
            assert_eq!(parts(keyword.parse().unwrap()), expected);
        }
    }

    #[test]
    fn files_that_others_can_get_at_are_refused() {
        let dir = Dir::new();
        for mode in [0o640, 0o604, 0o660, 0o610] {
            let path = dir.file(b"0a0bff", mode);
            let error = read_key(&path, suite()).unwrap_err().to_string();
            assert!(error.contains(&format!("mode {mode:04o}")) && error.contains("chmod 600"), "{error}");
            assert!(matches!(check(&path, true), Err(KeyFileError::Exposed { .. })));
            assert!(check(&path, false).is_ok());
        }
        assert!(read_key(&dir.file("0a".repeat(16).as_bytes(), 0o400), suite()).is_ok());
    }

    #[test]
    fn only_regular_files_are_read() {
        let dir = Dir::new();
        assert!(matches!(check(dir.0.path(), true), Err(KeyFileError::NotAFile { .. })));
        assert!(matches!(check(&dir.0.path().join("none"), true), Err(KeyFileError::Read { .. })));
    }

    #[test]
    fn a_psk_is_the_line_without_its_end() {
        let dir = Dir::new();
        let psk = read_psk(&dir.file(b" correct horse \r\n", 0o600)).unwrap();
        assert_eq!(psk.expose(), b" correct horse ");
        assert_eq!(format!("{psk:?}"), "Psk(15 bytes)");
        assert!(matches!(read_psk(&dir.file(b"\n", 0o600)), Err(KeyFileError::Empty { .. })));
    }
}
