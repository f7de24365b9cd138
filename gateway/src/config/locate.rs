//! From the path of a field to its line and column.
//!
//! `serde_yaml` parses the values but does not keep where they stood. A file that has problems is therefore
//! scanned a second time, by a parser that reports positions, and only then.

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser};

use super::error::Position;
use super::path::{FieldPath, Step};

/// Where every value of a file stands.
pub(super) struct Locator {
    top: Rc<Spot>,
    duplicates: Vec<Duplicate>,
}

/// A key that stands twice in one mapping.
pub(super) struct Duplicate {
    pub(super) path: FieldPath,
    pub(super) position: Position,
    pub(super) first: Position,
}

/// One value: its children and where they stand.
enum Spot {
    Scalar,
    List(Vec<(Position, Rc<Spot>)>),
    Mapping(HashMap<String, (Position, Rc<Spot>)>),
}

impl Locator {
    /// Scans a file as far as it can be scanned.
    pub(super) fn new(text: &str) -> Self {
        let mut builder = Builder::default();
        let mut parser = Parser::new_from_str(text);
        while let Some(Ok((event, span))) = parser.next_event() {
            if event == Event::StreamEnd {
                break;
            }
            builder.event(event, position(span.start));
        }
        builder.finish()
    }

    /// The place of a field: that of its key, or of the element in a list. For a field that is not there, the
    /// place of the innermost value around it that is.
    pub(super) fn find(&self, path: &FieldPath) -> Option<Position> {
        let mut found = None;
        let mut spot = &self.top;
        for step in path.steps() {
            let Some((position, child)) = spot.child(step) else { break };
            found = Some(*position);
            spot = child;
        }
        found
    }

    /// Keys that stand twice in one mapping.
    pub(super) fn duplicates(&self) -> &[Duplicate] {
        &self.duplicates
    }
}

impl Spot {
    fn child(&self, step: &Step) -> Option<&(Position, Rc<Spot>)> {
        match (self, step) {
            (Self::List(elements), Step::Index(index)) => elements.get(*index),
            (Self::Mapping(entries), Step::Key(key)) => {
                // A key that came in through a merge (`<<: *defaults`) stands where the merged mapping does.
                entries.get(key).or_else(|| entries.get("<<").and_then(|(_, merged)| merged.merged(step)))
            }
            _ => None,
        }
    }

    fn merged(&self, step: &Step) -> Option<&(Position, Rc<Spot>)> {
        match self {
            Self::List(sources) => sources.iter().find_map(|(_, source)| source.child(step)),
            _ => self.child(step),
        }
    }
}

/// Builds spots from events. The mappings and lists that are open form a stack, so that deep nesting cannot
/// exhaust the thread's own.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Spot>>,
    top: Option<Rc<Spot>>,
    duplicates: Vec<Duplicate>,
}

struct Open {
    anchor: usize,
    position: Position,
    content: Content,
}

enum Content {
    List(Vec<(Position, Rc<Spot>)>),
    Mapping { entries: HashMap<String, (Position, Rc<Spot>)>, key: Option<(String, Position)> },
}

impl Builder {
    fn event(&mut self, event: Event<'_>, position: Position) {
        match event {
            Event::Scalar(text, _, anchor, _) => self.value(position, Spot::Scalar, anchor, Some(&text)),
            Event::Alias(anchor) => {
                let spot = self.anchors.get(&anchor).cloned().unwrap_or_else(|| Rc::new(Spot::Scalar));
                self.place(position, spot, None);
            }
            Event::SequenceStart(anchor, _) => {
                self.open.push(Open { anchor, position, content: Content::List(Vec::new()) });
            }
            Event::MappingStart(anchor, _) => {
                let content = Content::Mapping { entries: HashMap::new(), key: None };
                self.open.push(Open { anchor, position, content });
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            _ => {}
        }
    }

    fn close(&mut self) {
        let Some(Open { anchor, position, content }) = self.open.pop() else { return };
        let spot = match content {
            Content::List(elements) => Spot::List(elements),
            Content::Mapping { entries, .. } => Spot::Mapping(entries),
        };
        self.value(position, spot, anchor, None);
    }

    fn value(&mut self, position: Position, spot: Spot, anchor: usize, text: Option<&str>) {
        let spot = Rc::new(spot);
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&spot));
        }
        self.place(position, spot, text);
    }

    /// Puts a finished value into the mapping or list around it. `text` is that of a scalar, which may be a key.
    fn place(&mut self, position: Position, spot: Rc<Spot>, text: Option<&str>) {
        let Some(parent) = self.open.last_mut() else {
            self.top = Some(spot);
            return;
        };
        match &mut parent.content {
            Content::List(elements) => elements.push((position, spot)),
            Content::Mapping { entries, key } => match key.take() {
                None => *key = Some((text.unwrap_or_default().to_owned(), position)),
                Some((name, at)) => {
                    if let Some((first, _)) = entries.get(&name) {
                        let first = *first;
                        let path = self.path().key(&name);
                        self.duplicates.push(Duplicate { path, position: at, first });
                    } else {
                        entries.insert(name, (at, spot));
                    }
                }
            },
        }
    }

    /// The path of the innermost open value.
    fn path(&self) -> FieldPath {
        let mut path = FieldPath::default();
        for open in self.open.iter().rev().skip(1).rev() {
            path = match &open.content {
                Content::List(elements) => path.index(elements.len()),
                Content::Mapping { key, .. } => match key {
                    Some((name, _)) => path.key(name),
                    None => path,
                },
            };
        }
        path
    }

    fn finish(mut self) -> Locator {
        while !self.open.is_empty() {
            self.close();
        }
        Locator { top: self.top.unwrap_or_else(|| Rc::new(Spot::Scalar)), duplicates: self.duplicates }
    }
}

fn position(marker: Marker) -> Position {
    Position { line: marker.line(), column: marker.col() + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
defaults: &defaults { mtu: 1500 }
ports:
  wan:
    <<: *defaults
    addresses: [10.0.0.1/8, 'x']
  lan: *defaults
";

    fn find(path: FieldPath) -> Option<(usize, usize)> {
        Locator::new(TEXT).find(&path).map(|at| (at.line, at.column))
    }

    #[test]
    fn finds_keys_elements_and_values_behind_aliases_and_merges() {
        let wan = || FieldPath::of(["ports", "wan"]);
        assert_eq!(find(wan()), Some((3, 3)));
        assert_eq!(find(wan().key("addresses").index(1)), Some((5, 29)));
        assert_eq!(find(wan().key("mtu")), Some((1, 23)));
        assert_eq!(find(FieldPath::of(["ports", "lan", "mtu"])), Some((1, 23)));
    }

    #[test]
    fn what_is_not_there_is_placed_at_what_surrounds_it() {
        assert_eq!(find(FieldPath::of(["ports", "wan", "driver"])), Some((3, 3)));
        assert_eq!(find(FieldPath::of(["routes"])), None);
    }

    #[test]
    fn duplicate_keys_are_found_with_their_paths() {
        let locator = Locator::new("a:\n  - x: 1\n    y: 2\n    x: 3\nb: 1\nb: 2\n");
        let found: Vec<_> = locator
            .duplicates()
            .iter()
            .map(|d| (d.path.to_string(), d.position.line, d.first.line))
            .collect();
        assert_eq!(found, [("a[0].x".to_owned(), 4, 2), ("b".to_owned(), 6, 5)]);
    }

    #[test]
    fn a_file_that_ends_early_is_located_as_far_as_it_goes() {
        let locator = Locator::new("ports:\n  wan: { mtu: 1500, addresses: [");
        assert_eq!(locator.find(&FieldPath::of(["ports", "wan", "mtu"])).map(|at| at.line), Some(2));
    }
}
