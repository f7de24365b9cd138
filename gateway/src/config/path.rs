//! Where a value stands in the file.

use std::fmt;

/// One step from a value to a value within it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// To the value of a key of a mapping.
    Key(String),
    /// To an element of a list, counted from 0.
    Index(usize),
}

/// The path of a field, shown as `connections.branch.ike.proposals[0]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldPath(Vec<Step>);

impl FieldPath {
    /// The path through these keys.
    pub fn of<const N: usize>(keys: [&str; N]) -> Self {
        Self(keys.into_iter().map(|key| Step::Key(key.to_owned())).collect())
    }

    /// One key further.
    #[must_use]
    pub fn key(mut self, key: &str) -> Self {
        self.0.push(Step::Key(key.to_owned()));
        self
    }

    /// One element further.
    #[must_use]
    pub fn index(mut self, index: usize) -> Self {
        self.0.push(Step::Index(index));
        self
    }

    /// The whole file.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// From the top of the file to the field.
    pub fn steps(&self) -> &[Step] {
        &self.0
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    if position > 0 {
                        f.write_str(".")?;
                    }
                    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                    if !key.is_empty() && key.chars().all(plain) {
                        f.write_str(key)?;
                    } else {
                        write!(f, "{key:?}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// The path of a value while it is read: a chain on the stack, so that a good file costs no allocation.
#[derive(Clone, Copy)]
pub(super) struct Trail<'a>(Link<'a>);

#[derive(Clone, Copy)]
enum Link<'a> {
    Top,
    Key(&'a Trail<'a>, &'a str),
    Index(&'a Trail<'a>, usize),
}

impl<'a> Trail<'a> {
    /// The top of the file.
    pub(super) const TOP: Self = Self(Link::Top);

    pub(super) fn key(&'a self, key: &'a str) -> Self {
        Self(Link::Key(self, key))
    }

    pub(super) fn index(&'a self, index: usize) -> Self {
        Self(Link::Index(self, index))
    }

    pub(super) fn to_path(self) -> FieldPath {
        let mut steps = Vec::new();
        let mut at = self;
        loop {
            at = match at.0 {
                Link::Top => break,
                Link::Key(parent, key) => {
                    steps.push(Step::Key(key.to_owned()));
                    *parent
                }
                Link::Index(parent, index) => {
                    steps.push(Step::Index(index));
                    *parent
                }
            };
        }
        steps.reverse();
        FieldPath(steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_shown_as_operators_write_it() {
        let path = FieldPath::of(["connections", "branch", "ike", "proposals"]).index(0);
        assert_eq!(path.to_string(), "connections.branch.ike.proposals[0]");
        assert_eq!(FieldPath::of(["ports", "a.b c"]).to_string(), "ports.\"a.b c\"");
        assert!(FieldPath::default().is_root());
    }

    #[test]
    fn a_trail_becomes_the_same_path() {
        let routes = Trail::TOP.key("routes");
        let first = routes.index(3);
        let to = first.key("to");
        assert_eq!(to.to_path(), FieldPath::of(["routes"]).index(3).key("to"));
    }
}
