//! From a file to a [`Config`] or to everything that is wrong with it.

use std::borrow::Cow;
use std::fs;
use std::path::Path;

use serde_yaml::Value;

use super::connection::Connection;
use super::dpdk::Dpdk;
use super::error::{Diagnostics, LoadError, Position, Problem, Problems, Severity};
use super::gateway::{Gateway, Log, Workers};
use super::ike::IkeSettings;
use super::locate::Locator;
use super::manual::ManualSa;
use super::node::{Context, FromNode, Named, Node};
use super::path::FieldPath;
use super::pool::Pool;
use super::port::Port;
use super::route::{PolicyEntry, RouteEntry};
use super::{Config, validate};
use crate::host::Host;

/// A configuration that can be run.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What the operator should know all the same.
    pub warnings: Diagnostics,
}

/// Reads a file. Paths in it start from its directory.
///
/// # Errors
/// [`LoadError::Read`] when it cannot be read, [`LoadError::Invalid`] with every problem otherwise.
pub fn load(path: &Path, host: &Host) -> Result<Loaded, LoadError> {
    let text =
        fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let base = path.parent().unwrap_or(Path::new(""));
    parse(&text, &path.display().to_string(), base, host)
}

/// Reads the text of a file. `file` is its name in messages, `base` the directory that paths in it start from.
///
/// # Errors
/// [`LoadError::Invalid`] with every problem.
pub fn parse(text: &str, file: &str, base: &Path, host: &Host) -> Result<Loaded, LoadError> {
    let invalid = |problems| LoadError::Invalid(Diagnostics::new(file.to_owned(), problems));
    let mut value: Value = serde_yaml::from_str(text).map_err(|error| invalid(not_yaml(text, &error)))?;
    value.apply_merge().map_err(|error| invalid(not_yaml(text, &error)))?;

    let context = Context { problems: Problems::default(), base: base.to_owned() };
    let config = Sections::from_node(Node::top(&value, &context))
        .map(|sections| validate::validate(sections, &context.problems, host));
    let failed = context.problems.errors() > 0;
    let problems = locate(text, context.problems.into_vec());
    match config {
        Some(config) if !failed => {
            Ok(Loaded { config, warnings: Diagnostics::new(file.to_owned(), problems) })
        }
        _ => Err(invalid(problems)),
    }
}

/// The sections of a file, each valid in itself.
pub(super) struct Sections {
    pub(super) gateway: Gateway,
    pub(super) log: Log,
    pub(super) workers: Workers,
    pub(super) dpdk: Dpdk,
    pub(super) ports: Named<Port>,
    /// With their places in the file.
    pub(super) routes: Vec<(FieldPath, RouteEntry)>,
    pub(super) ike: IkeSettings,
    pub(super) pools: Named<Pool>,
    pub(super) connections: Named<Connection>,
    pub(super) manual_sas: Named<ManualSa>,
    /// With their places in the file.
    pub(super) policies: Vec<(FieldPath, PolicyEntry)>,
}

impl FromNode for Sections {
    fn expected() -> Cow<'static, str> {
        "a mapping".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        if node.value.is_null() {
            return node.error("the file is empty, expected at least the section `ports`");
        }
        let mut fields = node.fields()?;
        let sections = Self {
            gateway: fields.optional("gateway").unwrap_or_default(),
            log: fields.optional("log").unwrap_or_default(),
            workers: fields.optional("workers").unwrap_or_default(),
            dpdk: fields.optional("dpdk").unwrap_or_default(),
            ports: fields.required("ports").unwrap_or(Named { complete: false, ..Named::default() }),
            routes: fields.optional("routes").map(skip_wrong).unwrap_or_default(),
            ike: fields.optional("ike").unwrap_or_default(),
            pools: fields.optional("pools").unwrap_or_default(),
            connections: fields.optional("connections").unwrap_or_default(),
            manual_sas: fields.optional("manual_sas").unwrap_or_default(),
            policies: fields.optional("policies").map(skip_wrong).unwrap_or_default(),
        };
        fields.finish();
        Some(sections)
    }
}

/// An element of a list with its place, or nothing when it is wrong: the others are checked all the same.
struct Placed<T>(Option<(FieldPath, T)>);

impl<T: FromNode> FromNode for Placed<T> {
    fn expected() -> Cow<'static, str> {
        T::expected()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        Some(Self(T::from_node(node).map(|element| (node.path(), element))))
    }
}

fn skip_wrong<T>(elements: Vec<Placed<T>>) -> Vec<(FieldPath, T)> {
    elements.into_iter().filter_map(|Placed(element)| element).collect()
}

/// Finds the line of every problem. A file without problems is not scanned again.
fn locate(text: &str, problems: Vec<Problem>) -> Vec<(Option<Position>, Problem)> {
    if problems.is_empty() {
        return Vec::new();
    }
    let locator = Locator::new(text);
    problems.into_iter().map(|problem| (locator.find(&problem.path), problem)).collect()
}

/// The problems of a file that is not YAML, or that has a key twice.
fn not_yaml(text: &str, error: &serde_yaml::Error) -> Vec<(Option<Position>, Problem)> {
    let problem = |path, message| Problem { severity: Severity::Error, path, message };
    let locator = Locator::new(text);
    let duplicates = locator.duplicates().iter().map(|duplicate| {
        let message = format!("the key is there twice, first in line {}", duplicate.first.line);
        (Some(duplicate.position), problem(duplicate.path.clone(), message))
    });
    let mut problems: Vec<_> = duplicates.collect();
    if problems.is_empty() {
        let position = error.location().map(|at| Position { line: at.line(), column: at.column() });
        problems.push((position, problem(FieldPath::default(), format!("not valid YAML: {error}"))));
    }
    problems
}
