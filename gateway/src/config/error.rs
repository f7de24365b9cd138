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

impl Diagnostics {
    /// One line a problem, without an end of line.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let more = self.list.len().checked_sub(SHOWN).filter(|more| *more > 0);
        let more = more.map(|more| format!("{}: and {more} more problems", self.file));
        self.list.iter().take(SHOWN).map(|(position, problem)| self.line(*position, problem)).chain(more)
    }

    fn line(&self, position: Option<Position>, problem: &Problem) -> String {
        let mut line = format!("{}:", self.file);
        if let Some(Position { line: number, column }) = position {
            line.push_str(&format!("{number}:{column}:"));
        }
        line.push_str(match problem.severity {
            Severity::Error => " error: ",
            Severity::Warning => " warning: ",
        });
        if !problem.path.is_root() {
            line.push_str(&format!("{}: ", problem.path));
        }
        line.push_str(&problem.message);
        line
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines().collect::<Vec<_>>().join("\n"))
    }
}

/// Why a configuration was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("{}", path.display())]
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
