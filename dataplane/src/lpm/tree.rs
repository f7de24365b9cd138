//! A path-compressed trie with eight bits a node: the part of a longest-prefix match below its root array.
//! On its own it is a longest-prefix match that takes next to no memory for a few prefixes.

use arrayvec::ArrayVec;

/// Most nodes on the way to one prefix.
const LEVELS: usize = 16;

/// Values by prefix of a left-aligned 128-bit key.
#[derive(Debug)]
pub(crate) struct Tree<T>(Option<Box<Node<T>>>);

/// Eight bits of the key, from bit `depth` on. Holds the prefixes of `depth + 1` to `depth + 8` bits, and the
/// prefix of no bits in the node at depth 0.
#[derive(Debug)]
#[repr(align(64))]
struct Node<T> {
    /// By byte of the key.
    children: Ranks<4>,
    /// By [`heap_index`] of the prefix's last bits.
    prefixes: Ranks<8>,
    /// The key above `depth`; the nodes that led there and did nothing else were left out.
    path: u128,
    /// A multiple of 8.
    depth: u8,
    /// In the order of `children`.
    nodes: Vec<Node<T>>,
    /// In the order of `prefixes`.
    values: Vec<T>,
}

impl<T> Tree<T> {
    pub(crate) const fn new() -> Self {
        Self(None)
    }

    /// Adds a prefix, or replaces its value and returns the old one. Bits of `key` behind `len` must be 0.
    pub(crate) fn insert(&mut self, key: u128, len: u8, value: T) -> Option<T> {
        let home = home_depth(len);
        let mut node = &mut **self.0.get_or_insert_with(|| Box::new(Node::new(key, home)));
        loop {
            let shared = ((key ^ node.path).leading_zeros() as u8 & !7).min(home).min(node.depth);
            if shared < node.depth {
                node.split(shared);
            }
            if node.depth == home {
                return node.put(heap_index(key, home, len), value);
            }
            let byte = byte(key, node.depth);
            let rank = node.children.rank(byte);
            if node.children.insert(byte) {
                node.nodes.reserve_exact(1);
                node.nodes.insert(rank, Node::new(key, home));
            }
            node = &mut node.nodes[rank];
        }
    }

    /// Removes a prefix and returns its value.
    pub(crate) fn remove(&mut self, key: u128, len: u8) -> Option<T> {
        let root = self.0.as_mut()?;
        let value = root.take(key, len)?;
        match root.nodes.len() {
            0 if root.values.is_empty() => self.0 = None,
            1 if root.values.is_empty() => root.skip(),
            _ => {}
        }
        Some(value)
    }

    /// The value of exactly this prefix.
    pub(crate) fn get_mut(&mut self, key: u128, len: u8) -> Option<&mut T> {
        let home = home_depth(len);
        let mut node = &mut **self.0.as_mut()?;
        while node.depth < home {
            let byte = byte(key, node.depth);
            if !node.children.contains(byte) {
                return None;
            }
            node = &mut node.nodes[node.children.rank(byte)];
        }
        let index = heap_index(key, home, len);
        if node.depth == home && node.is_on_path(key) && node.prefixes.contains(index) {
            return node.values.get_mut(node.prefixes.rank(index));
        }
        None
    }

    /// All values, in no particular order.
    pub(crate) fn into_values(self) -> Vec<T> {
        let mut nodes: Vec<_> = self.0.map(|root| *root).into_iter().collect();
        let mut values = Vec::new();
        while let Some(mut node) = nodes.pop() {
            values.append(&mut node.values);
            nodes.append(&mut node.nodes);
        }
        values
    }

    /// The value of the longest prefix of `key`.
    #[inline]
    pub(crate) fn longest(&self, key: u128) -> Option<&T> {
        let mut longest = None;
        let mut next = self.0.as_deref();
        while let Some(node) = next
            && node.is_on_path(key)
        {
            let byte = byte(key, node.depth);
            // Top down, so that the search in this node overlaps with the load of the next.
            if let Some(index) = node.prefixes.last_on_path(FULL | byte) {
                longest = Some((node, index));
            }
            next = node.child(byte);
        }
        let (node, index) = longest?;
        node.values.get(node.prefixes.rank(index))
    }

    /// The values of the prefixes of `key`, longest first.
    #[inline]
    pub(crate) fn path(&self, key: u128) -> Path<'_, T> {
        let mut path = Path { key, above: ArrayVec::new(), node: None, index: 0 };
        let mut next = self.0.as_deref();
        while let Some(node) = next
            && node.is_on_path(key)
        {
            path.above.extend(path.node.replace(node));
            let byte = byte(key, node.depth);
            path.index = FULL | byte;
            next = node.child(byte);
        }
        path
    }

    #[cfg(test)]
    pub(crate) fn nodes(&self) -> usize {
        self.0.as_ref().map_or(0, |root| root.count())
    }
}

/// The values of the prefixes of a key, longest first.
pub(crate) struct Path<'a, T> {
    key: u128,
    /// Nodes that are still to be searched after `node`, deepest last.
    above: ArrayVec<&'a Node<T>, LEVELS>,
    node: Option<&'a Node<T>>,
    /// The next place in `node` to look at.
    index: usize,
}

impl<'a, T> Iterator for Path<'a, T> {
    type Item = &'a T;

    #[inline]
    fn next(&mut self) -> Option<&'a T> {
        loop {
            let node = self.node?;
            if let Some(index) = node.prefixes.last_on_path(self.index) {
                self.index = index / 2;
                return node.values.get(node.prefixes.rank(index));
            }
            self.node = self.above.pop();
            self.index = self.node.map_or(0, |node| FULL | byte(self.key, node.depth));
        }
    }
}

impl<T> Node<T> {
    fn new(key: u128, depth: u8) -> Self {
        Self {
            children: Ranks::default(),
            prefixes: Ranks::default(),
            path: key & mask(depth),
            depth,
            nodes: Vec::new(),
            values: Vec::new(),
        }
    }

    #[inline]
    fn is_on_path(&self, key: u128) -> bool {
        is_prefix(self.path, self.depth, key)
    }

    #[inline]
    fn child(&self, byte: usize) -> Option<&Self> {
        if self.children.contains(byte) { self.nodes.get(self.children.rank(byte)) } else { None }
    }

    /// Puts a new node at `depth` above this one.
    fn split(&mut self, depth: u8) {
        let above = Self::new(self.path, depth);
        let below = std::mem::replace(self, above);
        self.children.insert(byte(below.path, depth));
        self.nodes = vec![below];
    }

    /// Puts the only child in the place of this node.
    fn skip(&mut self) {
        if let Some(child) = self.nodes.pop() {
            *self = child;
        }
    }

    fn put(&mut self, index: usize, value: T) -> Option<T> {
        let rank = self.prefixes.rank(index);
        if self.prefixes.insert(index) {
            self.values.insert(rank, value);
            return None;
        }
        Some(std::mem::replace(&mut self.values[rank], value))
    }

    /// Takes a prefix out of this node or those below. Removes nodes below that have become useless.
    fn take(&mut self, key: u128, len: u8) -> Option<T> {
        let home = home_depth(len);
        if !self.is_on_path(key) || self.depth > home {
            return None;
        }
        if self.depth == home {
            let index = heap_index(key, home, len);
            let rank = self.prefixes.rank(index);
            return self.prefixes.remove(index).then(|| self.values.remove(rank));
        }
        let byte = byte(key, self.depth);
        if !self.children.contains(byte) {
            return None;
        }
        let rank = self.children.rank(byte);
        let child = &mut self.nodes[rank];
        let value = child.take(key, len)?;
        match child.nodes.len() {
            0 if child.values.is_empty() => {
                self.children.remove(byte);
                self.nodes.remove(rank);
            }
            1 if child.values.is_empty() => child.skip(),
            _ => {}
        }
        Some(value)
    }

    #[cfg(test)]
    fn count(&self) -> usize {
        1 + self.nodes.iter().map(Self::count).sum::<usize>()
    }
}

/// A set of numbers below `64 * W` that knows how many of its members are less than a number.
#[derive(Debug)]
struct Ranks<const W: usize> {
    words: [u64; W],
    /// Members in the words before each.
    before: [u16; W],
}

impl<const W: usize> Default for Ranks<W> {
    fn default() -> Self {
        Self { words: [0; W], before: [0; W] }
    }
}

impl<const W: usize> Ranks<W> {
    #[inline]
    fn contains(&self, number: usize) -> bool {
        self.words[number / 64] >> (number % 64) & 1 != 0
    }

    /// Members that are less than `number`.
    #[inline]
    fn rank(&self, number: usize) -> usize {
        let below = self.words[number / 64] & ((1 << (number % 64)) - 1);
        usize::from(self.before[number / 64]) + below.count_ones() as usize
    }

    /// Whether it was not a member.
    fn insert(&mut self, number: usize) -> bool {
        let new = !self.contains(number);
        self.words[number / 64] |= 1 << (number % 64);
        self.before[number / 64 + 1..].iter_mut().for_each(|before| *before += u16::from(new));
        new
    }

    /// Whether it was a member.
    fn remove(&mut self, number: usize) -> bool {
        let old = self.contains(number);
        self.words[number / 64] &= !(1 << (number % 64));
        self.before[number / 64 + 1..].iter_mut().for_each(|before| *before -= u16::from(old));
        old
    }
}

impl Ranks<8> {
    /// The first member of `index`, `index / 2`, `index / 4`, ... 1. `index` may be 0 for none.
    #[inline]
    fn last_on_path(&self, mut index: usize) -> Option<usize> {
        while index >= 64 {
            if self.contains(index) {
                return Some(index);
            }
            index /= 2;
        }
        (self.words[0] & HALVES[index]).checked_ilog2().map(|index| index as usize)
    }
}

/// For each number below 64, the set of itself and its halves down to 1.
const HALVES: [u64; 64] = {
    let mut halves = [0; 64];
    let mut index = 1;
    while index < 64 {
        halves[index] = 1 << index | halves[index / 2];
        index += 1;
    }
    halves
};

/// The first `len` bits.
#[inline]
pub(crate) fn mask(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

/// Whether `key` starts with the first `len` bits of `prefix`.
#[inline]
pub(crate) fn is_prefix(prefix: u128, len: u8, key: u128) -> bool {
    // In halves, because shifts of 128 bits by a variable are slow.
    let differ = key ^ prefix;
    let (high, low) = ((differ >> 64) as u64, differ as u64);
    if len <= 64 {
        high.checked_shr(64 - u32::from(len)).unwrap_or(0) == 0
    } else {
        high == 0 && low >> (128 - len) == 0
    }
}

/// Depth of the node that holds prefixes of this length.
fn home_depth(len: u8) -> u8 {
    len.saturating_sub(1) & !7
}

/// The key's eight bits from `depth` on.
#[inline]
fn byte(key: u128, depth: u8) -> usize {
    let half = if depth < 64 { (key >> 64) as u64 } else { key as u64 };
    (half >> (56 - depth % 64)) as usize & 0xFF
}

/// [`heap_index`] of a prefix of all eight bits of a node, without the bits.
const FULL: usize = 256;

/// Numbers the prefixes of a node as a binary heap does: 1 is the prefix of no bits, and halving an index
/// gives the prefix that is one bit shorter.
fn heap_index(key: u128, depth: u8, len: u8) -> usize {
    (FULL | byte(key, depth)) >> (8 - (len - depth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_takes_three_cache_lines() {
        assert_eq!(size_of::<Node<u32>>(), 192);
    }

    #[test]
    fn prefixes_of_every_length_are_told_apart() {
        let key = 0x2001_0db8_1234_5678_9abc_def0_0fed_cba9;
        for len in 0..=128 {
            assert!(is_prefix(key & mask(len), len, key), "{len}");
            assert!(is_prefix(key ^ !mask(len), len, key), "{len}");
            for bit in 1..=len {
                assert!(!is_prefix(key ^ 1 << (128 - bit), len, key), "{len} {bit}");
            }
        }
    }

    #[test]
    fn nodes_that_do_nothing_are_left_out_and_come_and_go() {
        let mut tree = Tree::new();
        let (a, b) = (0x2001_0db8_0000_0001 << 64, 0x2001_0db8_00ff_0001 << 64);
        tree.insert(a, 64, 'a');
        assert_eq!(tree.nodes(), 1);
        tree.insert(b, 64, 'b');
        assert_eq!(tree.nodes(), 3, "one that branches");
        tree.insert(a & mask(33), 33, 'c');
        assert_eq!(tree.nodes(), 4, "one that holds a prefix");
        assert_eq!(tree.path(a).collect::<String>(), "ac");
        assert_eq!(tree.path(b).collect::<String>(), "bc");
        assert_eq!(tree.path(a & mask(34)).collect::<String>(), "c");
        assert_eq!(tree.path(a & mask(16)).collect::<String>(), "");
        tree.remove(a & mask(33), 33);
        assert_eq!(tree.nodes(), 3);
        tree.remove(b, 64);
        assert_eq!(tree.nodes(), 1);
        assert_eq!(tree.remove(b, 64), None);
        assert_eq!(tree.remove(a, 63), None);
        assert_eq!(tree.remove(a, 64), Some('a'));
        assert_eq!(tree.nodes(), 0);
    }

    #[test]
    fn every_prefix_of_one_node_has_a_place_of_its_own() {
        let mut tree = Tree::new();
        let all = || (0..=8u8).flat_map(|len| (0..1u128 << len).map(move |bits| (bits, len)));
        for (bits, len) in all() {
            let key = bits.checked_shl(128 - u32::from(len)).unwrap_or(0);
            assert_eq!(tree.insert(key, len, (bits, len)), None);
        }
        assert_eq!(tree.nodes(), 1);
        let expected: Vec<_> = (0..=8).rev().map(|len| (0b1010_0110 >> (8 - len), len)).collect();
        assert_eq!(tree.path(0b1010_0110 << 120).copied().collect::<Vec<_>>(), expected);
        let mut copy = Tree::new();
        for (bits, len) in all() {
            let key = bits.checked_shl(128 - u32::from(len)).unwrap_or(0);
            copy.insert(key, len, (bits, len));
            assert_eq!(tree.get_mut(key, len).copied(), Some((bits, len)));
            assert_eq!(tree.remove(key, len), Some((bits, len)));
        }
        assert_eq!(tree.nodes(), 0);
        let mut values = copy.into_values();
        values.sort_unstable_by_key(|&(bits, len)| (len, bits));
        assert_eq!(values, all().collect::<Vec<_>>());
    }
}
