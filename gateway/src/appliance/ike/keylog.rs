//! The file of keys that Wireshark reads, when the configuration names one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::OFlag;
use zeroize::Zeroizing;

/// The file, open for as long as the gateway runs.
pub(super) struct KeyLog {
    file: File,
    path: PathBuf,
}

impl KeyLog {
    /// Opens it, and makes it with mode 0600 when it is not there. Lines are added at its end.
    ///
    /// # Errors
    /// A file that cannot be opened, or that others than its owner can read.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let open = || -> io::Result<(File, u32)> {
            // A link could lead anywhere.
            let flags = OFlag::O_NOFOLLOW.bits();
            let file =
                OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
            let mode = file.metadata()?.mode();
            Ok((file, mode))
        };
        let (file, mode) = open().with_context(|| format!("key log {}", path.display()))?;
        if mode & 0o077 != 0 {
            bail!(
                "key log {} has mode {:04o}: others can read it; run: chmod 600 it",
                path.display(),
                mode & 0o7777
            );
        }
        tracing::warn!(
            file = %path.display(),
            "ALL KEYS of IKE and Child SAs are written to a file: whoever gets it reads all traffic. Take \
             `log.key_log` out of the configuration when you are done"
        );
        Ok(Self { file, path: path.to_owned() })
    }

    /// Adds a line.
    pub(super) fn write(&mut self, line: &Zeroizing<String>) {
        // One write a line, so that a reader never sees half of one.
        let mut whole = Zeroizing::new(Vec::with_capacity(line.len() + 1));
        whole.extend_from_slice(line.as_bytes());
        whole.push(b'\n');
        if let Err(error) = self.file.write_all(&whole) {
            tracing::warn!(file = %self.path.display(), %error, "keys were not written");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_the_owners_alone_and_grows() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        for line in ["a", "b"] {
            KeyLog::open(&path).unwrap().write(&Zeroizing::new(line.to_owned()));
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "a\nb\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_and_so_is_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        let error = KeyLog::open(&path).err().unwrap().to_string();
        assert!(error.contains("mode 0644"), "{error}");
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(KeyLog::open(&link).is_err());
    }
}
