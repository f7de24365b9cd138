//! Reading typed values out of the parsed YAML, and collecting everything that is wrong with them.
//!
//! serde stops at the first error. An operator with six mistakes wants to see six, so the tree that
//! `serde_yaml` parsed is read by [`FromNode`] instead of by derived `Deserialize` impls: each field reports
//! its own problem and reading goes on. A struct asks [`Fields`] for its keys, and whatever key it never asked
//! for is unknown, so the list of valid keys cannot fall out of step with the code.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path as FilePath, PathBuf};

use indexmap::IndexMap;
use ipnet::IpNet;
use serde_yaml::{Mapping, Value};

use super::error::Problems;
use super::path::{FieldPath, Trail};

/// What all nodes of one file share.
pub(super) struct Context {
    /// Where problems go.
    pub(super) problems: Problems,
    /// The directory of the file, which relative paths start from.
    pub(super) base: PathBuf,
}

/// One value of the file, where it stands, and where its problems go.
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) value: &'a Value,
    trail: &'a Trail<'a>,
    context: &'a Context,
}

/// A type that is read from a [`Node`]. `None` means that a problem was reported.
pub(super) trait FromNode: Sized {
    /// What is accepted, as it stands after "expected" in a message.
    fn expected() -> Cow<'static, str>;

    fn from_node(node: Node<'_>) -> Option<Self>;
}

/// A type that is written as one of a few words.
pub(super) trait Keyword: Copy + 'static {
    /// The words, and what they stand for.
    const KEYWORDS: &'static [(&'static str, Self)];
}

impl<'a> Node<'a> {
    /// The whole file.
    pub(super) fn top(value: &'a Value, context: &'a Context) -> Self {
        Self { value, trail: &Trail::TOP, context }
    }

    /// Where it stands.
    pub(super) fn path(self) -> FieldPath {
        self.trail.to_path()
    }

    /// Reports a problem at this value.
    pub(super) fn error<T>(self, message: impl Into<String>) -> Option<T> {
        self.context.problems.error(self.path(), message);
        None
    }

    /// Reports a warning at this value.
    pub(super) fn warning(self, message: impl Into<String>) {
        self.context.problems.warning(self.path(), message);
    }

    /// A path of the file, made absolute or relative to where we run.
    pub(super) fn resolve(self, path: &FilePath) -> PathBuf {
        self.context.base.join(path)
    }

    /// Reports that this value is not what it should be.
    pub(super) fn unexpected<T>(self, expected: &str) -> Option<T> {
        self.error(format!("found {}, expected {expected}", self.found()))
    }

    /// The value as it is shown in a message.
    pub(super) fn found(self) -> String {
        match self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => value.to_string(),
            Value::Number(value) => value.to_string(),
            Value::String(text) => quoted(text),
            Value::Sequence(_) => "a list".to_owned(),
            Value::Mapping(_) => "a mapping".to_owned(),
            Value::Tagged(value) => format!("the tag {}", value.tag),
        }
    }

    /// The value as text, or a problem.
    pub(super) fn text(self, expected: &str) -> Option<&'a str> {
        match self.value {
            Value::String(text) => Some(text),
            _ => self.unexpected(expected),
        }
    }

    /// The value as a whole number within a range, or a problem. `unit` names what is counted.
    pub(super) fn number<T: TryFrom<u64>>(self, range: RangeInclusive<u64>, unit: &str) -> Option<T> {
        let number = self.value.as_u64().filter(|number| range.contains(number));
        match number.and_then(|number| T::try_from(number).ok()) {
            Some(number) => Some(number),
            None => self.unexpected(&format!("{unit} from {} to {}", range.start(), range.end())),
        }
    }

    /// The value as a mapping with known keys, or a problem.
    pub(super) fn fields(self) -> Option<Fields<'a>> {
        match self.value {
            Value::Mapping(mapping) => Some(Fields { node: self, mapping, asked: Vec::new() }),
            _ => self.unexpected("a mapping"),
        }
    }

    /// Reads every element of a list with a function of its own; `None` when one of them was wrong.
    pub(super) fn each<T>(self, mut read: impl FnMut(Node<'_>) -> Option<T>) -> Option<Vec<T>> {
        let Value::Sequence(list) = self.value else { return self.unexpected("a list") };
        let read = |(index, value): (usize, &'a Value)| {
            let trail = self.trail.index(index);
            read(Node { value, trail: &trail, context: self.context })
        };
        // Every element is read, so that each reports its problem, before a failure is looked for.
        let elements: Vec<Option<T>> = list.iter().enumerate().map(read).collect();
        elements.into_iter().collect()
    }
}

/// The keys of a mapping while a struct is read from it.
pub(super) struct Fields<'a> {
    node: Node<'a>,
    mapping: &'a Mapping,
    asked: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The value of a key; `None` when it is missing or empty, or wrong, which was then reported.
    pub(super) fn optional<T: FromNode>(&mut self, key: &'static str) -> Option<T> {
        self.read(key, T::from_node).flatten()
    }

    /// The value of a key that must be there; `None` was reported.
    pub(super) fn required<T: FromNode>(&mut self, key: &'static str) -> Option<T> {
        match self.read(key, T::from_node) {
            Some(value) => value,
            None => self.error(key, format!("missing, expected {}", T::expected())),
        }
    }

    /// Like [`Fields::optional`], for a number within a range.
    pub(super) fn number<T: TryFrom<u64>>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        unit: &str,
    ) -> Option<T> {
        self.read(key, |node| node.number(range, unit)).flatten()
    }

    /// Whether a key is there and not empty. It counts as known from now on.
    pub(super) fn has(&mut self, key: &'static str) -> bool {
        self.read(key, |_| ()).is_some()
    }

    /// Reads a key with a function of its own; `None` when it is missing or empty.
    pub(super) fn read<R>(&mut self, key: &'static str, read: impl FnOnce(Node<'_>) -> R) -> Option<R> {
        if !self.asked.contains(&key) {
            self.asked.push(key);
        }
        let value = self.mapping.get(key).filter(|value| !value.is_null())?;
        let trail = self.node.trail.key(key);
        Some(read(Node { value, trail: &trail, context: self.node.context }))
    }

    /// Reports a problem at a key.
    pub(super) fn error<T>(&self, key: &str, message: impl Into<String>) -> Option<T> {
        self.node.context.problems.error(self.node.trail.key(key).to_path(), message);
        None
    }

    /// Reports a warning at a key.
    pub(super) fn warning(&self, key: &str, message: impl Into<String>) {
        self.node.context.problems.warning(self.node.trail.key(key).to_path(), message);
    }

    /// Reports every key that was never asked for.
    pub(super) fn finish(self) {
        for key in self.mapping.keys() {
            match key {
                Value::String(key) if self.asked.contains(&key.as_str()) => {}
                Value::String(key) => {
                    let advice = match nearest(key, self.asked.iter().copied()) {
                        Some(near) => format!("did you mean `{near}`?"),
                        None => format!("expected one of {}", self.asked.join(", ")),
                    };
                    self.error::<()>(key, format!("unknown key; {advice}"));
                }
                other => {
                    let found = Node { value: other, ..self.node }.found();
                    self.node.error::<()>(format!("found the key {found}, expected a name"));
                }
            }
        }
    }
}

/// Values with names, in the order of the file.
pub(super) struct Named<T> {
    pub(super) entries: IndexMap<String, T>,
    /// Whether no entry was left out because of a problem within it: only then can a name or an address that
    /// is not there be called unknown.
    pub(super) complete: bool,
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self { entries: IndexMap::new(), complete: true }
    }
}

impl<T: FromNode> FromNode for Named<T> {
    fn expected() -> Cow<'static, str> {
        "a mapping of names".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let Value::Mapping(mapping) = node.value else {
            return node.unexpected("a mapping of names");
        };
        let before = node.context.problems.errors();
        let mut entries = IndexMap::with_capacity(mapping.len());
        for (key, value) in mapping {
            let Value::String(name) = key else {
                node.error::<()>(format!(
                    "found the key {}, expected a name (put it in quotes)",
                    Node { value: key, ..node }.found()
                ));
                continue;
            };
            let trail = node.trail.key(name);
            let entry = Node { value, trail: &trail, context: node.context };
            if !is_name(name) {
                entry.error::<()>(format!(
                    "found the name {}, expected up to {NAME_MAX} letters, digits, `-`, `_` or `.`",
                    quoted(name)
                ));
            }
            let errors = node.context.problems.errors();
            if let Some(entry) = T::from_node(entry).filter(|_| node.context.problems.errors() == errors) {
                entries.insert(name.clone(), entry);
            }
        }
        Some(Self { entries, complete: node.context.problems.errors() == before })
    }
}

/// A list, or a single value for a list of one.
pub(super) struct OneOrMany<T>(pub(super) Vec<T>);

impl<T: FromNode> FromNode for OneOrMany<T> {
    fn expected() -> Cow<'static, str> {
        format!("{}, or a list of them", T::expected()).into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        match node.value {
            Value::Sequence(list) if list.is_empty() => node.error("found an empty list"),
            Value::Sequence(_) => node.each(T::from_node).map(Self),
            _ => T::from_node(node).map(|value| Self(vec![value])),
        }
    }
}

impl<T: FromNode> FromNode for Vec<T> {
    fn expected() -> Cow<'static, str> {
        "a list".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        node.each(T::from_node)
    }
}

impl<T: Keyword> FromNode for T {
    fn expected() -> Cow<'static, str> {
        let words: Vec<_> = T::KEYWORDS.iter().map(|(word, _)| *word).collect();
        match words.split_last() {
            Some((last, [])) => (*last).into(),
            Some((last, rest)) => format!("{} or {last}", rest.join(", ")).into(),
            None => "".into(),
        }
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let text = node.text(&T::expected())?;
        if let Some((_, value)) = T::KEYWORDS.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        match nearest(text, T::KEYWORDS.iter().map(|(word, _)| *word)) {
            Some(near) => node.unexpected(&format!("{}; did you mean `{near}`?", T::expected())),
            None => node.unexpected(&T::expected()),
        }
    }
}

impl FromNode for bool {
    fn expected() -> Cow<'static, str> {
        "true or false".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        node.value.as_bool().or_else(|| node.unexpected("true or false"))
    }
}

impl FromNode for String {
    fn expected() -> Cow<'static, str> {
        "text".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        match node.value {
            Value::Bool(_) | Value::Number(_) => node.unexpected("text (put it in quotes)"),
            _ => node.text("text").map(str::to_owned),
        }
    }
}

impl FromNode for PathBuf {
    fn expected() -> Cow<'static, str> {
        "the path of a file".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        match node.text(&Self::expected())? {
            "" => node.unexpected(&Self::expected()),
            path => Some(path.into()),
        }
    }
}

impl FromNode for IpAddr {
    fn expected() -> Cow<'static, str> {
        "an address such as 192.0.2.1 or \"2001:db8::1\"".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let expected = Self::expected();
        node.text(&expected)?.parse().ok().or_else(|| node.unexpected(&expected))
    }
}

impl FromNode for SocketAddr {
    fn expected() -> Cow<'static, str> {
        "an address and port such as \"127.0.0.1:9464\"".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let expected = Self::expected();
        node.text(&expected)?.parse().ok().or_else(|| node.unexpected(&expected))
    }
}

/// A prefix, without host bits.
impl FromNode for IpNet {
    fn expected() -> Cow<'static, str> {
        "a prefix such as 10.1.0.0/16".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let text = node.text(&Self::expected())?;
        if let Ok(prefix) = text.parse::<IpNet>() {
            if prefix == prefix.trunc() {
                return Some(prefix);
            }
            return node.error(format!("{prefix} has host bits set, expected {}", prefix.trunc()));
        }
        match text.parse::<IpAddr>() {
            Ok(address) => node.unexpected(&format!("a prefix: {}", IpNet::from(address))),
            Err(_) => node.unexpected(&Self::expected()),
        }
    }
}

/// The candidate that was probably meant, if one is near enough to be a slip of the hand.
pub(super) fn nearest<'c>(word: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|&(distance, candidate)| distance * 3 <= word.len().max(candidate.len()))
        .map(|(_, candidate)| candidate)
}

/// Text as it is shown in a message.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}...", text.get(..end).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

const NAME_MAX: usize = 64;

/// Names stand in metrics labels, in paths and as CONNECTION/CHILD on the command line.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_slips_and_nothing_far_off() {
        let keys = ["driver", "device", "mtu", "addresses"];
        assert_eq!(nearest("devise", keys.into_iter()), Some("device"));
        assert_eq!(nearest("adresses", keys.into_iter()), Some("addresses"));
        assert_eq!(nearest("gateway", keys.into_iter()), None);
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(quoted("a\"b"), r#""a\"b""#);
        assert_eq!(quoted(&"ä".repeat(61)), format!("{:?}...", "ä".repeat(60)));
    }
}
