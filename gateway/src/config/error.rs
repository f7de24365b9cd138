//! What is wrong with a configuration: where, what was found, and what would be accepted.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::path::PathBuf;

use super::path::FieldPath;

/// How bad a [`Problem`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// The configuration is accepted, and the operator told.
    Warning,
}

/// One thing that is wrong, at one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// The field.
    pub path: FieldPath,
    /// What was found and what would be accepted. Never holds key material.
    pub message: String,
}

/// Collects problems while a configuration is read and checked, so that all of them can be shown at once.
#[derive(Default)]
pub struct Problems {
    list: RefCell<Vec<Problem>>,
    errors: Cell<usize>,
}

impl Problems {
    /// Adds an error.
    pub fn error(&self, path: FieldPath, message: impl Into<String>) {
        self.errors.set(self.errors.get() + 1);
        self.push(Severity::Error, path, message.into());
    }

    /// Adds a warning.
    pub fn warning(&self, path: FieldPath, message: impl Into<String>) {
        self.push(Severity::Warning, path, message.into());
    }

    /// Errors so far.
    pub fn errors(&self) -> usize {
        self.errors.get()
    }

    /// All problems, in the order in which they were found.
    pub fn into_vec(self) -> Vec<Problem> {
        self.list.into_inner()
    }

    fn push(&self, severity: Severity, path: FieldPath, message: String) {
        self.list.borrow_mut().push(Problem { severity, path, message });
    }
}

/// A place in the file, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Column, in characters.
    pub column: usize,
}

/// Problems with their places, in the order of the file. Shown one a line, as compilers do:
/// `gateway.yaml:12:10: error: ports.wan.mtu: found 70000, expected a number from 576 to 9216`.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    file: String,
    list: Vec<(Option<Position>, Problem)>,
}

impl Diagnostics {
    /// Sorts the problems of `file` by place.
    pub fn new(file: String, mut list: Vec<(Option<Position>, Problem)>) -> Self {
        list.sort_by_key(|(position, _)| *position);
        Self { file, list }
    }

    /// Every problem with its place.
    pub fn iter(&self) -> impl Iterator<Item = &(Option<Position>, Problem)> {
        self.list.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// More problems than an operator reads at once.
const SHOWN: usize = 200;

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (position, problem)) in self.list.iter().take(SHOWN).enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.file)?;
            if let Some(Position { line, column }) = position {
                write!(f, "{line}:{column}:")?;
            }
            let severity = match problem.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            };
            write!(f, " {severity}: ")?;
            if !problem.path.is_root() {
                write!(f, "{}: ", problem.path)?;
            }
            f.write_str(&problem.message)?;
        }
        match self.list.len().checked_sub(SHOWN) {
            Some(more) if more > 0 => write!(f, "\n{}: and {more} more problems", self.file),
            _ => Ok(()),
        }
    }
}

/// Why a configuration was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file can be read and is wrong. Warnings are among the problems.
    #[error("{0}")]
    Invalid(Diagnostics),
}
