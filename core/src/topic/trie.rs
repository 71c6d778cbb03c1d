//! All patterns of an exchange, walked together, level by level.
//!
//! ```text
//!   open ──a──► ○ ──#──► ○            guarded ──+──► ○ ──x──► ○
//!        ──b──► ○ ──+──► ○                    ──#──► ○
//! ```
//!
//! There are two roots: leading wildcards of the slash dialect hang under the second, which topics that start with `$`
//! never enter. The walk keeps the set of nodes reached after each level, instead of recursing, so that its cost is
//! bounded by levels times nodes even for patterns with many `#`, and no depth can exhaust the stack.

use super::{Level, Levels, Pattern};
use crate::ledger;
use foldhash::fast::RandomState;
use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;
use std::hash::{BuildHasher, Hasher};
use std::mem::size_of;

/// A set of patterns, each with the values inserted under it.
pub struct Trie<T> {
    nodes: Slab<Node<T>>,
    /// Literal edges of all nodes, by parent and label, as the child's index. Never iterated: its order is random.
    edges: HashTable<u32>,
    hasher: RandomState,
    /// Bytes of the labels of literal edges.
    labels: usize,
}

struct Node<T> {
    parent: u32,
    edge: Edge,
    /// Child along `One`, or [`NONE`].
    one: u32,
    /// Child along `Many`, or [`NONE`].
    many: u32,
    /// Number of literal children.
    literals: u32,
    /// Reached along `Many`, below another `Many`: the only nodes that a walk can enter twice at one level.
    nested: bool,
    values: Vec<T>,
}

enum Edge {
    Root,
    Literal(Box<str>),
    One,
    Many,
}

const OPEN: u32 = 0;
const GUARDED: u32 = 1;
const NONE: u32 = u32::MAX;

/// The nodes a walk has reached.
type Reached = SmallVec<[u32; 32]>;

impl<T> Node<T> {
    fn new(parent: u32, edge: Edge, nested: bool) -> Node<T> {
        Node {
            parent,
            edge,
            one: NONE,
            many: NONE,
            literals: 0,
            nested,
            values: Vec::new(),
        }
    }
    fn is_leaf(&self) -> bool {
        self.one == NONE && self.many == NONE && self.literals == 0
    }
}

impl<T> Default for Trie<T> {
    fn default() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::new(NONE, Edge::Root, false));
        nodes.insert(Node::new(NONE, Edge::Root, false));
        Trie {
            nodes,
            edges: HashTable::new(),
            hasher: RandomState::default(),
            labels: 0,
        }
    }
}

impl<T: PartialEq> Trie<T> {
    /// Adds `value` under `pattern`, after those already there. The same value may be added twice.
    pub fn insert(&mut self, pattern: &Pattern, value: T) {
        let mut at = root(pattern);
        let mut below_many = false;
        for level in pattern.levels() {
            let next = self.child(at, level);
            at = if next == NONE {
                self.grow(at, level, below_many)
            } else {
                next
            };
            below_many |= *level == Level::Many;
        }
        self.nodes[at as usize].values.push(value);
    }

    /// Takes one `value` away from `pattern`. Returns whether it was there.
    pub fn remove(&mut self, pattern: &Pattern, value: &T) -> bool {
        let mut at = root(pattern);
        for level in pattern.levels() {
            at = self.child(at, level);
            if at == NONE {
                return false;
            }
        }
        let values = &mut self.nodes[at as usize].values;
        let Some(index) = values.iter().position(|v| v == value) else {
            return false;
        };
        values.remove(index);
        if values.is_empty() {
            *values = Vec::new();
        }
        self.prune(at);
        true
    }

    /// Calls `found` with every value whose pattern matches, each once, in an order that depends on the history of the
    /// trie only.
    pub fn visit(&self, key: &Levels<'_>, mut found: impl FnMut(&T)) {
        self.walk(OPEN, key, &mut found);
        if !self.nodes[GUARDED as usize].is_leaf() && !key.is_dollar() {
            self.walk(GUARDED, key, &mut found);
        }
    }

    /// Bytes of memory it occupies, roughly: the values' own are not in it.
    pub(crate) fn memory(&self) -> usize {
        self.nodes.len() * node_bytes::<T>() + self.labels
    }

    /// Whether it holds no pattern.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 2 && self.nodes.iter().all(|(_, node)| node.values.is_empty())
    }

    fn walk(&self, root: u32, key: &Levels<'_>, found: &mut impl FnMut(&T)) {
        let mut now = Reached::new();
        let mut next = Reached::new();
        self.enter(root, &mut now, found);
        for level in key.iter() {
            let mut nested = false;
            for &at in &now {
                let node = &self.nodes[at as usize];
                if matches!(node.edge, Edge::Many) {
                    next.push(at);
                    nested |= node.nested;
                }
                if node.literals > 0 {
                    let child = self.literal(at, level);
                    if child != NONE {
                        nested |= self.enter(child, &mut next, found);
                    }
                }
                if node.one != NONE {
                    nested |= self.enter(node.one, &mut next, found);
                }
            }
            if nested {
                next.sort_unstable();
                next.dedup();
            }
            std::mem::swap(&mut now, &mut next);
            next.clear();
            if now.is_empty() {
                return;
            }
        }
        for at in now {
            self.nodes[at as usize].values.iter().for_each(&mut *found);
        }
    }

    /// Adds a node to those reached, and with it what its `#` matches by taking no level. Returns whether that may
    /// have been there before.
    fn enter(&self, at: u32, reached: &mut Reached, found: &mut impl FnMut(&T)) -> bool {
        reached.push(at);
        let many = self.nodes[at as usize].many;
        if many == NONE {
            return false;
        }
        let node = &self.nodes[many as usize];
        if node.is_leaf() && !node.nested {
            // Whatever follows matches, and this node is entered only once in a walk.
            node.values.iter().for_each(found);
            return false;
        }
        reached.push(many);
        node.nested
    }

    fn child(&self, at: u32, level: &Level) -> u32 {
        let node = &self.nodes[at as usize];
        match level {
            Level::One => node.one,
            Level::Many => node.many,
            Level::Literal(label) => self.literal(at, label),
        }
    }

    fn literal(&self, parent: u32, label: &str) -> u32 {
        let same = |&child: &u32| {
            let node = &self.nodes[child as usize];
            node.parent == parent && matches!(&node.edge, Edge::Literal(l) if **l == *label)
        };
        self.edges.find(self.hash(parent, label), same).copied().unwrap_or(NONE)
    }

    fn grow(&mut self, parent: u32, level: &Level, below_many: bool) -> u32 {
        let edge = match level {
            Level::One => Edge::One,
            Level::Many => Edge::Many,
            Level::Literal(label) => Edge::Literal(label.clone()),
        };
        let nested = below_many && *level == Level::Many;
        let child = self.nodes.insert(Node::new(parent, edge, nested));
        // Each binding adds at most 256 nodes and their number is limited, far below what 32 bits count.
        let child = u32::try_from(child).expect("bindings are limited");
        let node = &mut self.nodes[parent as usize];
        match level {
            Level::One => node.one = child,
            Level::Many => node.many = child,
            Level::Literal(label) => {
                node.literals += 1;
                self.labels += label_bytes(label);
                let hash = self.hash(parent, label);
                let Trie {
                    nodes, edges, hasher, ..
                } = self;
                edges.insert_unique(hash, child, |&child| rehash(hasher, nodes, child));
            }
        }
        child
    }

    /// Removes nodes that lead nowhere, from `at` upwards.
    fn prune(&mut self, mut at: u32) {
        while at != OPEN && at != GUARDED {
            let node = &self.nodes[at as usize];
            if !node.values.is_empty() || !node.is_leaf() {
                return;
            }
            let parent = node.parent;
            match &node.edge {
                Edge::Literal(label) => {
                    self.labels -= label_bytes(label);
                    let hash = self.hash(parent, label);
                    if let Ok(entry) = self.edges.find_entry(hash, |&child| child == at) {
                        entry.remove();
                    }
                    self.nodes[parent as usize].literals -= 1;
                }
                Edge::One => self.nodes[parent as usize].one = NONE,
                Edge::Many => self.nodes[parent as usize].many = NONE,
                Edge::Root => return,
            }
            self.nodes.remove(at as usize);
            at = parent;
        }
    }

    fn hash(&self, parent: u32, label: &str) -> u64 {
        edge_hash(&self.hasher, parent, label)
    }
}

/// A node, with a share of the room that the list of nodes keeps free.
const fn node_bytes<T>() -> usize {
    size_of::<Node<T>>() * 5 / 4
}

/// The label of a literal edge and its place among the edges.
fn label_bytes(label: &str) -> usize {
    ledger::allocation(label.len()) + ledger::hashed::<u32>()
}

/// At most what a pattern adds to a trie: a node for each level.
pub(crate) fn pattern_bytes(text: &str, levels: usize) -> usize {
    levels * (node_bytes::<u32>() + label_bytes("")) + text.len()
}

fn root(pattern: &Pattern) -> u32 {
    if pattern.hides_dollar() { GUARDED } else { OPEN }
}

fn edge_hash(hasher: &RandomState, parent: u32, label: &str) -> u64 {
    let mut hasher = hasher.build_hasher();
    hasher.write_u32(parent);
    hasher.write(label.as_bytes());
    hasher.finish()
}

fn rehash<T>(hasher: &RandomState, nodes: &Slab<Node<T>>, child: u32) -> u64 {
    match nodes.get(child as usize) {
        Some(Node {
            parent,
            edge: Edge::Literal(label),
            ..
        }) => edge_hash(hasher, *parent, label),
        _ => unreachable!("only literal children are in the table"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Dialect;

    struct Random(u64);

    impl Random {
        fn below(&mut self, n: usize) -> usize {
            self.0 = self
                .0
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % n
        }
        fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
            from[self.below(from.len())]
        }
        fn pattern(&mut self) -> Pattern {
            let (dialect, separator, words): (_, _, &[&str]) = match self.below(2) {
                0 => (Dialect::Dot, ".", &["a", "b", "", "*", "#", "#", "$x"]),
                _ => (Dialect::Slash, "/", &["a", "b", "", "+", "$x"]),
            };
            let mut levels: Vec<&str> = (0..=self.below(5)).map(|_| self.pick(words)).collect();
            if dialect == Dialect::Slash && self.below(3) == 0 {
                levels.push("#");
            }
            let text = levels.join(separator);
            Pattern::parse(&text, dialect).unwrap_or_else(|_| Pattern::parse("/", Dialect::Slash).expect("valid"))
        }
        fn key(&mut self) -> String {
            let words: Vec<&str> = (0..self.below(6)).map(|_| self.pick(&["a", "b", "", "$x"])).collect();
            words.join(".")
        }
    }

    #[test]
    fn the_trie_agrees_with_matching_one_by_one_under_random_change() {
        for seed in 0..40 {
            let mut random = Random(seed);
            let mut trie = Trie::default();
            let mut all: Vec<(Pattern, u32)> = Vec::new();
            for step in 0..600 {
                if all.len() < 5 || random.below(5) > 1 {
                    let pattern = random.pattern();
                    trie.insert(&pattern, step);
                    all.push((pattern, step));
                } else {
                    let (pattern, value) = all.swap_remove(random.below(all.len()));
                    assert!(trie.remove(&pattern, &value));
                    assert!(!trie.remove(&pattern, &value));
                }
                let key = random.key();
                let levels = Levels::new(&key, Dialect::Dot);
                let mut found = Vec::new();
                trie.visit(&levels, |&v| found.push(v));
                found.sort_unstable();
                let mut expected: Vec<u32> = all
                    .iter()
                    .filter(|(p, _)| p.matches(&levels))
                    .map(|&(_, v)| v)
                    .collect();
                expected.sort_unstable();
                assert_eq!(found, expected, "seed {seed}, step {step}, key {key:?}");
            }
            for (pattern, value) in all.drain(..) {
                assert!(trie.remove(&pattern, &value));
            }
            assert!(
                trie.is_empty() && trie.edges.is_empty(),
                "seed {seed} leaves nodes behind"
            );
        }
    }

    #[test]
    fn many_hashes_in_one_pattern_cost_no_more_than_their_product() {
        let mut trie = Trie::default();
        // 64 times `#.a`: by recursion the walk would take the age of the universe.
        let text = vec!["#.a"; 64].join(".");
        trie.insert(&Pattern::parse(&text, Dialect::Dot).expect("valid"), 1);
        let mut found = 0;
        trie.visit(&Levels::new(&vec!["a"; 127].join("."), Dialect::Dot), |_| found += 1);
        assert_eq!(found, 1);
    }

    #[test]
    fn the_longest_topic_walks_without_recursion() {
        let mut trie = Trie::default();
        trie.insert(&Pattern::parse("#", Dialect::Slash).expect("valid"), 1);
        trie.insert(
            &Pattern::parse(&vec!["+"; super::super::LEVELS_MAX].join("/"), Dialect::Slash).expect("valid"),
            2,
        );
        let mut found = Vec::new();
        trie.visit(&Levels::new(&"/".repeat(65_535), Dialect::Slash), |&v| found.push(v));
        trie.visit(&Levels::new(&"/".repeat(199), Dialect::Slash), |&v| found.push(v));
        assert_eq!(found, [1, 1, 2]);
    }
}
