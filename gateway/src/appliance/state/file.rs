//! The file that outlives the process: which sequence numbers every key was used with.
//!
//! It is written to a temporary file, synced, and renamed, so a crash leaves the old one or the new one. A line with
//! a digest stands in front of JSON: what was damaged is refused, never guessed.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{self, SHA256};
use dataplane::crypto::KeyMaterial;
use dataplane::message::Direction;
use dataplane::sa::Spi;
use serde::{Deserialize, Serialize};

const FILE: &str = "manual-sas";
const TEMPORARY: &str = "manual-sas.new";
/// What the file starts with: its kind and version. The digest of the rest follows.
const MAGIC: &str = "spillway-manual-sas-1 ";
/// Separates this use of SHA-256 from every other.
const DOMAIN: &[u8] = b"spillway: fingerprint of the key of a manual SA\0";
/// Bytes of a fingerprint.
const FINGERPRINT: usize = 16;

/// Names a key without telling it: the first half of a SHA-256. Key and salt alone, not the SA's name or SPI: what
/// must not happen twice is a sequence number under one key, whatever the SA around it is called today.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Fingerprint(String);

impl Fingerprint {
    pub(super) fn of(key: &KeyMaterial) -> Self {
        let mut context = digest::Context::new(&SHA256);
        context.update(DOMAIN);
        context.update(key.expose());
        Self(hex(context.finish().as_ref().get(..FINGERPRINT).unwrap_or_default()))
    }
}

/// What a key was used for, and how far. Name and SPI are for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Name of the SA in the configuration.
    pub(super) sa: String,
    pub(super) spi: Spi,
    #[serde(with = "DirectionName")]
    pub(super) direction: Direction,
    /// The highest sequence number that may have been used.
    pub(super) used: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "Direction", rename_all = "lowercase")]
enum DirectionName {
    Inbound,
    Outbound,
}

/// Why there is no state. A gateway that cannot know which numbers were used must not send.
#[derive(Debug, thiserror::Error)]
pub(super) enum StateError {
    #[error("cannot use the directory {path}: {error}; see `gateway.state`")]
    Directory { path: String, error: io::Error },
    #[error(
        "others than its owner can write to {path}, and so make the gateway repeat nonces; run: chmod 700 {path}"
    )]
    Exposed { path: String },
    #[error("{path} is in use by another gateway; each needs a directory of its own: see `gateway.state`")]
    InUse { path: String },
    #[error("cannot read {path}: {error}; {NEW_KEYS}")]
    Read { path: String, error: io::Error },
    #[error("{path} is damaged ({what}); {NEW_KEYS}")]
    Damaged { path: String, what: String },
    #[error("cannot write {path}: {error}")]
    Write { path: String, error: io::Error },
}

const NEW_KEYS: &str = "without it nobody knows which sequence numbers the keys of the manual SAs were used with: give \
                        every one of them new keys on both sides, then remove the file";

/// The state's directory, locked against other gateways.
pub(super) struct StateFile {
    directory: PathBuf,
    /// Holds the lock, and syncs renames.
    handle: File,
    entries: BTreeMap<Fingerprint, Entry>,
}

impl StateFile {
    /// Makes the directory unless it is there, locks it, and reads the file unless this is the first start.
    pub(super) fn open(directory: &Path) -> Result<Self, StateError> {
        let failed = |error| StateError::Directory { path: shown(directory), error };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let handle = File::open(directory).map_err(failed)?;
        if handle.metadata().map_err(failed)?.mode() & 0o022 != 0 {
            return Err(StateError::Exposed { path: shown(directory) });
        }
        handle.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StateError::InUse { path: shown(directory) },
            TryLockError::Error(error) => failed(error),
        })?;
        let entries = read(&directory.join(FILE))?;
        Ok(Self { directory: directory.to_owned(), handle, entries })
    }

    pub(super) fn get(&self, key: &Fingerprint) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// Changes an entry. Nothing is written yet. Keys that no SA has any more stay: they may come back.
    pub(super) fn set(&mut self, key: &Fingerprint, entry: Entry) {
        self.entries.insert(key.clone(), entry);
    }

    /// Writes all entries; they are on the disk when this returns.
    pub(super) fn write(&self) -> Result<(), StateError> {
        let path = self.directory.join(FILE);
        self.try_write(&path).map_err(|error| StateError::Write { path: shown(&path), error })
    }

    fn try_write(&self, path: &Path) -> io::Result<()> {
        let entries: Vec<_> = self.entries.iter().collect();
        let body = serde_json::to_vec(&entries)?;
        let temporary = self.directory.join(TEMPORARY);
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(format!("{MAGIC}{}\n", digest_of(&body)).as_bytes())?;
        file.write_all(&body)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        self.handle.sync_all()
    }
}

fn read(path: &Path) -> Result<BTreeMap<Fingerprint, Entry>, StateError> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(StateError::Read { path: shown(path), error }),
    };
    let damaged = |what: &str| StateError::Damaged { path: shown(path), what: what.to_owned() };
    let text =
        text.strip_prefix(MAGIC.as_bytes()).ok_or_else(|| damaged("it does not start as it should"))?;
    let end = text.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("it is cut off"))?;
    let (digest, body) = text.split_at(end);
    let body = body.get(1..).unwrap_or_default();
    if digest != digest_of(body).as_bytes() {
        return Err(damaged("its digest is wrong"));
    }
    let entries: Vec<(Fingerprint, Entry)> =
        serde_json::from_slice(body).map_err(|error| damaged(&error.to_string()))?;
    Ok(entries.into_iter().collect())
}

fn digest_of(body: &[u8]) -> String {
    hex(digest::digest(&SHA256, body).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn key(seed: u8) -> Fingerprint {
        Fingerprint::of(&KeyMaterial::new(vec![seed; 20]))
    }

    fn entry(used: u64) -> Entry {
        Entry { sa: "lab".to_owned(), spi: 0x1001, direction: Direction::Outbound, used }
    }

    /// A directory with one entry.
    fn written() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let mut file = StateFile::open(&path).unwrap();
        file.set(&key(1), entry(u64::MAX >> 1));
        file.write().unwrap();
        (directory, path)
    }

    #[test]
    fn what_was_written_is_read() {
        let (_directory, path) = written();
        let mut file = StateFile::open(&path).unwrap();
        assert_eq!(file.get(&key(1)), Some(&entry(u64::MAX >> 1)));
        assert_eq!(file.get(&key(2)), None);
        file.set(&key(2), entry(7));
        file.write().unwrap();
        drop(file);
        let file = StateFile::open(&path).unwrap();
        assert!(file.get(&key(1)).is_some(), "kept, though it was not set again");
        assert_eq!(file.get(&key(2)), Some(&entry(7)));
    }

    #[test]
    fn nobody_else_can_read_it_and_no_key_is_in_it() {
        let (_directory, path) = written();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(path.join(FILE)).unwrap().permissions().mode() & 0o777, 0o600);
        let text = fs::read_to_string(path.join(FILE)).unwrap();
        assert!(!text.contains("0101"), "{text}");
        assert!(text.contains(&key(1).0));
        assert_eq!(key(1).0.len(), 2 * FINGERPRINT);
    }

    #[test]
    fn every_damage_is_refused_and_the_message_says_what_to_do() {
        let (_directory, path) = written();
        let good = fs::read(path.join(FILE)).unwrap();
        let refused = |text: &[u8]| {
            fs::write(path.join(FILE), text).unwrap();
            let error = StateFile::open(&path).err().map(|error| error.to_string());
            error.unwrap_or_else(|| panic!("accepted: {}", String::from_utf8_lossy(text)))
        };
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 1;
            assert!(refused(&bad).contains("is damaged"), "byte {position}");
            refused(&good[..position]);
        }
        let message = refused(b"");
        assert!(message.contains("give every one of them new keys on both sides"), "{message}");
        // A whole file of a version that we do not know.
        let other = [MAGIC.as_bytes(), digest_of(b"{}").as_bytes(), b"\n{}"].concat();
        assert!(refused(&other).contains("is damaged"));
        fs::remove_file(path.join(FILE)).unwrap();
        fs::create_dir(path.join(FILE)).unwrap();
        let error = StateFile::open(&path).err().unwrap().to_string();
        assert!(error.contains("cannot read") && error.contains("new keys"), "{error}");
    }

    #[test]
    fn a_write_that_was_cut_off_leaves_the_file_before_it() {
        let (_directory, path) = written();
        fs::write(path.join(TEMPORARY), "half of").unwrap();
        let file = StateFile::open(&path).unwrap();
        assert!(file.get(&key(1)).is_some());
        file.write().unwrap();
        assert!(!path.join(TEMPORARY).exists());
    }

    #[test]
    fn one_gateway_at_a_time() {
        let (_directory, path) = written();
        let first = StateFile::open(&path).unwrap();
        assert!(matches!(StateFile::open(&path), Err(StateError::InUse { .. })));
        drop(first);
        assert!(StateFile::open(&path).is_ok());
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let (_directory, path) = written();
        for mode in [0o720, 0o702, 0o777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(StateFile::open(&path), Err(StateError::Exposed { .. })), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(StateFile::open(&path).is_ok());
        let file = path.join(FILE).join("below-a-file");
        assert!(matches!(StateFile::open(&file), Err(StateError::Directory { .. })));
    }
}
