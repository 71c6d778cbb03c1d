//! All patterns of an exchange in one tree, which a walk matches level by level.
//!
//! ```text
//!   open ──a──► ○ ──#──► ○            guarded ──+──► ○ ──x──► ○
//!        ──b──► ○ ──+──► ○                    ──#──► ○
//! ```
//!
//! There are two roots. Leading wildcards of the slash dialect hang under the second one, which a topic that starts
//! with `$` never enters. The walk does not recurse: it keeps the set of nodes reached after each level. So its cost is
//! at most levels times nodes even for patterns with many `#`, and deep patterns cannot exhaust the stack. Clients
//! choose how many nodes their filters and topics make a walk visit, so it can stop after any number of steps and
//! continue later ([`Walk`]).

use super::ids::Ids;
use super::{Level, Levels, Pattern};
use crate::ledger;
use crate::segmented::Segmented;
use foldhash::fast::RandomState;
use hashbrown::HashSet;
use slab::Slab;
use smallvec::SmallVec;
use std::hash::BuildHasher;
use std::mem::size_of;

/// A set of patterns, each with the numbers (bindings) inserted under it.
pub(crate) struct Trie {
    nodes: Slab<Node>,
    /// Literal edges of all nodes, by parent and label; the value is the child's index. Never iterated: its order is
    /// random.
    edges: Segmented<u32>,
    hasher: RandomState,
    /// Bytes that the labels of literal edges occupy.
    labels: usize,
    /// The last serial number given to a node.
    serial: u64,
}

struct Node {
    parent: u32,
    edge: Edge,
    /// The child by a `One` level, or [`NONE`].
    one: u32,
    /// The child by a `Many` level, or [`NONE`].
    many: u32,
    /// The number of literal children.
    literals: u32,
    /// The node is reached by a `Many` level below another `Many`. Only such a node can be entered twice after one
    /// level.
    nested: bool,
    /// Tells it from an earlier node at the same index, at which a walk may have stopped.
    serial: u64,
    values: Ids,
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

/// A node that a walk has reached: its index and serial number.
type Place = (u32, u64);

/// The progress of a walk over the patterns that match a key. Patterns may be added and removed between two steps: one
/// that exists throughout is found, one that exists part of the time may be found.
#[derive(Default)]
pub(crate) struct Walk {
    stage: Stage,
    /// Patterns that begin with a wildcard do not match.
    skips_leading_wildcards: bool,
    /// The number of the key's levels that are done.
    level: usize,
    /// Nodes reached after these levels. Those before index `at` are done.
    now: SmallVec<[Place; 16]>,
    at: usize,
    /// Nodes reached after the next level.
    next: SmallVec<[Place; 16]>,
    /// Nodes of `next` that a second path may reach, so that they are entered once.
    nested: HashSet<u32, RandomState>,
    /// Nodes whose patterns match. The numbers of the last one may have been reported in part, up to `cursor`.
    matched: SmallVec<[Place; 16]>,
    cursor: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Start,
    Open,
    Guarded,
    Done,
}

impl Walk {
    /// Sets whether patterns of any dialect that begin with a wildcard are skipped. To be called before the walk
    /// begins.
    pub(crate) fn skip_leading_wildcards(&mut self, skip: bool) {
        self.skips_leading_wildcards = skip;
    }
}

impl Node {
    fn new(parent: u32, edge: Edge, nested: bool, serial: u64) -> Node {
        Node {
            parent,
            edge,
            one: NONE,
            many: NONE,
            literals: 0,
            nested,
            serial,
            values: Ids::default(),
        }
    }
    fn is_leaf(&self) -> bool {
        self.one == NONE && self.many == NONE && self.literals == 0
    }
}

impl Default for Trie {
    fn default() -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::new(NONE, Edge::Root, false, 0));
        nodes.insert(Node::new(NONE, Edge::Root, false, 0));
        Trie {
            nodes,
            edges: Segmented::default(),
            hasher: RandomState::default(),
            labels: 0,
            serial: 0,
        }
    }
}

impl Trie {
    /// Adds a number under `pattern`.
    pub(crate) fn insert(&mut self, pattern: &Pattern, value: u32) {
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
        self.nodes[at as usize].values.insert(value);
    }

    /// Removes a number from `pattern`. Returns whether it was there.
    pub(crate) fn remove(&mut self, pattern: &Pattern, value: u32) -> bool {
        let mut at = root(pattern);
        for level in pattern.levels() {
            at = self.child(at, level);
            if at == NONE {
                return false;
            }
        }
        let there = self.nodes[at as usize].values.remove(value);
        if there {
            self.prune(at);
        }
        there
    }

    /// Continues a walk: calls `found` with each number whose pattern matches, once. Each node and each number costs a
    /// step. Returns whether there may be more.
    pub(crate) fn walk(
        &self,
        key: &Levels<'_>,
        walk: &mut Walk,
        steps: &mut usize,
        mut found: impl FnMut(u32),
    ) -> bool {
        let mut label = None;
        loop {
            while let Some(&place) = walk.matched.last() {
                if let Some(node) = self.node(place)
                    && node.values.visit(&mut walk.cursor, steps, &mut found)
                {
                    return true;
                }
                walk.matched.pop();
                walk.cursor = None;
            }
            if *steps == 0 && walk.stage != Stage::Done {
                return true;
            }
            match (walk.stage, walk.now.get(walk.at)) {
                (Stage::Start, _) => {
                    walk.stage = Stage::Open;
                    if walk.skips_leading_wildcards {
                        walk.next.push((OPEN, self.nodes[OPEN as usize].serial));
                    } else {
                        self.enter(OPEN, walk);
                    }
                    std::mem::swap(&mut walk.now, &mut walk.next);
                }
                (Stage::Done, _) => return false,
                (Stage::Open | Stage::Guarded, Some(&place)) if walk.level < key.len() => {
                    *steps -= 1;
                    walk.at += 1;
                    let level = key.get(walk.level).unwrap_or("");
                    // Computed once for all nodes, because a client's level may be long.
                    let hash = *label.get_or_insert_with(|| self.hasher.hash_one(level));
                    self.pass(place, level, hash, walk);
                }
                (Stage::Open | Stage::Guarded, None) if !walk.next.is_empty() => {
                    // All nodes have been followed along this level.
                    std::mem::swap(&mut walk.now, &mut walk.next);
                    walk.next.clear();
                    walk.nested.clear();
                    walk.level += 1;
                    walk.at = 0;
                    label = None;
                }
                (stage, place) => {
                    // No node is left, or all levels are done. Patterns that end at the nodes reached match.
                    if place.is_some() {
                        std::mem::swap(&mut walk.matched, &mut walk.now);
                    }
                    walk.now.clear();
                    walk.nested.clear();
                    (walk.level, walk.at) = (0, 0);
                    label = None;
                    walk.stage = Stage::Done;
                    if stage == Stage::Open && !self.nodes[GUARDED as usize].is_leaf() && !key.is_dollar() {
                        walk.stage = Stage::Guarded;
                        self.enter(GUARDED, walk);
                        std::mem::swap(&mut walk.now, &mut walk.next);
                    }
                }
            }
        }
    }

    /// Bytes that the nodes and labels occupy, roughly. The numbers are not included.
    pub(crate) fn memory(&self) -> usize {
        self.nodes.len() * node_bytes() + self.labels
    }

    /// Whether it contains no pattern.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.len() == 2 && self.nodes.iter().all(|(_, node)| node.values.is_empty())
    }

    /// The node at a place, unless it was removed and the index reused.
    fn node(&self, (at, serial): Place) -> Option<&Node> {
        self.nodes.get(at as usize).filter(|node| node.serial == serial)
    }

    /// Follows the edges from a node that match a level.
    fn pass(&self, place: Place, level: &str, hash: u64, walk: &mut Walk) {
        let Some(node) = self.node(place) else { return };
        if matches!(node.edge, Edge::Many) && (!node.nested || walk.nested.insert(place.0)) {
            walk.next.push(place);
        }
        if node.literals > 0 {
            let child = self.literal(place.0, level, hash);
            if child != NONE {
                self.enter(child, walk);
            }
        }
        if node.one != NONE && !(walk.skips_leading_wildcards && place.0 == OPEN) {
            self.enter(node.one, walk);
        }
    }

    /// Enters a node. Its `#` child also matches zero levels, so it is entered as well.
    fn enter(&self, at: u32, walk: &mut Walk) {
        let node = &self.nodes[at as usize];
        walk.next.push((at, node.serial));
        if node.many == NONE {
            return;
        }
        let many = &self.nodes[node.many as usize];
        if many.is_leaf() && !many.nested {
            // All that follows matches. This node is entered only once in a walk.
            walk.matched.push((node.many, many.serial));
        } else if !many.nested || walk.nested.insert(node.many) {
            walk.next.push((node.many, many.serial));
        }
    }

    fn child(&self, at: u32, level: &Level) -> u32 {
        let node = &self.nodes[at as usize];
        match level {
            Level::One => node.one,
            Level::Many => node.many,
            Level::Literal(label) => self.literal(at, label, self.hasher.hash_one(&**label)),
        }
    }

    /// The literal child with that label, whose hash is given.
    fn literal(&self, parent: u32, label: &str, hash: u64) -> u32 {
        let same = |&child: &u32| {
            let node = &self.nodes[child as usize];
            node.parent == parent && matches!(&node.edge, Edge::Literal(l) if **l == *label)
        };
        self.edges
            .find(edge_hash(&self.hasher, parent, hash), same)
            .copied()
            .unwrap_or(NONE)
    }

    fn grow(&mut self, parent: u32, level: &Level, below_many: bool) -> u32 {
        let edge = match level {
            Level::One => Edge::One,
            Level::Many => Edge::Many,
            Level::Literal(label) => Edge::Literal(label.clone()),
        };
        let nested = below_many && *level == Level::Many;
        self.serial += 1;
        let child = self.nodes.insert(Node::new(parent, edge, nested, self.serial));
        // The number of bindings is limited and each adds at most 256 nodes, so an index always fits.
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

    /// Removes nodes without values and children, from `at` upwards.
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
                    let Trie {
                        nodes, edges, hasher, ..
                    } = self;
                    edges.remove(hash, |&child| child == at, |&child| rehash(hasher, nodes, child));
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
        edge_hash(&self.hasher, parent, self.hasher.hash_one(label))
    }
}

/// Bytes of a node, and of the free capacity that the list keeps for each.
const fn node_bytes() -> usize {
    size_of::<Node>() * 5 / 4
}

/// Bytes of a literal edge's label, and of its place in the table of edges.
fn label_bytes(label: &str) -> usize {
    ledger::allocation(label.len()) + ledger::hashed::<u32>()
}

/// The most bytes that a pattern adds to a trie: a node for each level.
pub(crate) fn pattern_bytes(text: &str, levels: usize) -> usize {
    levels * (node_bytes() + label_bytes("")) + text.len()
}

fn root(pattern: &Pattern) -> u32 {
    if pattern.hides_dollar() { GUARDED } else { OPEN }
}

/// The hash of an edge, from its parent and the hash of its label.
fn edge_hash(hasher: &RandomState, parent: u32, label: u64) -> u64 {
    hasher.hash_one((parent, label))
}

fn rehash(hasher: &RandomState, nodes: &Slab<Node>, child: u32) -> u64 {
    match nodes.get(child as usize) {
        Some(Node {
            parent,
            edge: Edge::Literal(label),
            ..
        }) => edge_hash(hasher, *parent, hasher.hash_one(&**label)),
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
                    assert!(trie.remove(&pattern, value));
                    assert!(!trie.remove(&pattern, value));
                }
                let key = random.key();
                let levels = Levels::new(&key, Dialect::Dot);
                let mut found = Vec::new();
                // In pieces of any size, as a walk continues over several holds of the lock.
                let (mut walk, piece) = (Walk::default(), 1 + random.below(9));
                while trie.walk(&levels, &mut walk, &mut piece.clone(), |v| found.push(v)) {}
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
                assert!(trie.remove(&pattern, value));
            }
            assert!(
                trie.is_empty() && trie.edges.len() == 0,
                "seed {seed} leaves nodes behind"
            );
        }
    }

    #[test]
    fn a_pattern_with_many_hashes_costs_at_most_levels_times_nodes() {
        let mut trie = Trie::default();
        // 64 times `#.a`: a recursive search would never end.
        let text = vec!["#.a"; 64].join(".");
        trie.insert(&Pattern::parse(&text, Dialect::Dot).expect("valid"), 1);
        let mut found = 0;
        let key = vec!["a"; 127].join(".");
        let mut steps = 64 * 2 * 128;
        assert!(!trie.walk(
            &Levels::new(&key, Dialect::Dot),
            &mut Walk::default(),
            &mut steps,
            |_| found += 1
        ));
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
        for length in [65_535, 199] {
            let key = "/".repeat(length);
            let levels = Levels::new(&key, Dialect::Slash);
            trie.walk(&levels, &mut Walk::default(), &mut 100_000, |v| found.push(v));
        }
        assert_eq!(found, [1, 1, 2]);
    }

    #[test]
    fn a_walk_finds_the_right_patterns_whatever_changes_between_its_steps() {
        // A pattern that stays is found once. One that never existed or does not match is never found.
        for seed in 0..60 {
            let mut random = Random(seed);
            let mut trie = Trie::default();
            let mut stay = Vec::new();
            for value in 0..150 {
                let pattern = random.pattern();
                trie.insert(&pattern, value);
                stay.push((pattern, value));
            }
            let key = random.key();
            let levels = Levels::new(&key, Dialect::Dot);
            let (mut walk, mut found, mut passing) = (Walk::default(), Vec::new(), Vec::new());
            let mut ever: Vec<(Pattern, u32)> = Vec::new();
            while trie.walk(&levels, &mut walk, &mut 3, |v| found.push(v)) {
                for _ in 0..4 {
                    if passing.len() > 20 || (!passing.is_empty() && random.below(2) == 0) {
                        let (pattern, value): (Pattern, u32) = passing.swap_remove(random.below(passing.len()));
                        trie.remove(&pattern, value);
                    } else {
                        let (pattern, value) = (random.pattern(), 1_000 + ever.len() as u32);
                        trie.insert(&pattern, value);
                        passing.push((pattern.clone(), value));
                        ever.push((pattern, value));
                    }
                }
            }
            let matching = |all: &[(Pattern, u32)]| -> Vec<u32> {
                all.iter()
                    .filter(|(p, _)| p.matches(&levels))
                    .map(|&(_, v)| v)
                    .collect()
            };
            let (old, new): (Vec<u32>, Vec<u32>) = found.into_iter().partition(|v| *v < 1_000);
            let mut sorted = old.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, matching(&stay), "seed {seed}, key {key:?}");
            let allowed = matching(&ever);
            assert!(new.iter().all(|v| allowed.contains(v)), "seed {seed}, key {key:?}");
        }
    }
}
