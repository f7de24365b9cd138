//! A directory with the files that a configuration names.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use gateway::config::{Diagnostics, LoadError, Loaded, parse};
use gateway::host::Host;

/// A good configuration with something of every section.
pub const GOOD: &str = include_str!("good.yaml");

/// A directory with key files.
pub struct Files(tempfile::TempDir);

impl Files {
    /// With every file that [`GOOD`] names, and some that are no good.
    pub fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.secret("out.key", &hex(1, 20));
        files.secret("in.key", &hex(2, 20));
        files.secret("far-out.key", &hex(3, 64));
        files.secret("far-in.key", &hex(4, 64));
        files.secret("branch.psk", "correct horse battery staple\n");
        files.secret("short.key", &hex(5, 16));
        files.secret("words.key", "correct horse");
        files.secret("empty.psk", "\n");
        files.write("open.key", &hex(6, 20), 0o644);
        files.write("cert.pem", "", 0o644);
        files
    }

    /// Without any file, and in memory where there is such a place: for tens of thousands of them.
    pub fn many() -> Self {
        let memory = Path::new("/dev/shm");
        let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self(directory.unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn secret(&self, name: &str, content: &str) -> PathBuf {
        self.write(name, content, 0o600)
    }

    fn write(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        path
    }

    /// Reads a configuration whose paths start here, on a machine with four cores.
    pub fn parse(&self, text: &str) -> Result<Loaded, LoadError> {
        parse(text, "gateway.yaml", self.path(), &Host { cores: vec![0, 1, 2, 3] })
    }

    /// What is said of a configuration, a line each. The directory is written `DIR`.
    pub fn messages(&self, text: &str) -> Vec<String> {
        let diagnostics: Diagnostics = match self.parse(text) {
            Ok(loaded) => loaded.warnings,
            Err(LoadError::Invalid(diagnostics)) => diagnostics,
            Err(error) => panic!("{error}"),
        };
        let text = diagnostics.to_string().replace(&self.path().display().to_string(), "DIR");
        text.lines().map(str::to_owned).collect()
    }
}

/// `bytes` bytes of hexadecimal that are not those of another seed.
pub fn hex(seed: u64, bytes: usize) -> String {
    let mut text = format!("{seed:016x}").repeat(bytes.div_ceil(8));
    text.truncate(2 * bytes);
    text
}
