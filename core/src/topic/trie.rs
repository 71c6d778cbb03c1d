//! All patterns of an exchange, walked together, level by level.
//!
//! ```text
//!   open ──a──► ○ ──#──► ○            guarded ──+──► ○ ──x──► ○
//!        ──b──► ○ ──+──► ○                    ──#──► ○
//! ```
//!
//! There are two roots: leading wildcards of the slash dialect hang under the second, which topics that start with `$`
//! never enter. The walk keeps the set of nodes reached after each level, instead of recursing, so that its cost is
//! bounded by levels times nodes even for patterns with many `#`, and no depth can exhaust the stack. It can stop after any
//! number of steps and go on later ([`Walk`]), because a client chooses how many nodes its filters and topics make it visit.

use super::ids::Ids;
use super::{Level, Levels, Pattern};
use crate::ledger;
use foldhash::fast::RandomState;
use hashbrown::{HashSet, HashTable};
use slab::Slab;
use smallvec::SmallVec;
use std::hash::BuildHasher;
use std::mem::size_of;

/// A set of patterns, each with the numbers inserted under it.
pub(crate) struct Trie {
    nodes: Slab<Node>,
    /// Literal edges of all nodes, by parent and label, as the child's index. Never iterated: its order is random.
    edges: HashTable<u32>,
    hasher: RandomState,
    /// Bytes of the labels of literal edges.
    labels: usize,
    /// Nodes made so far.
    born: u64,
}

struct Node {
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
    /// Tells it from an earlier node in the same place, which a walk may have stopped at.
    born: u64,
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

/// A node that a walk has reached: its place, and which node that was.
type Place = (u32, u64);

/// Where a walk over the patterns that match a key is. Patterns may come and go between two steps: what is there all the
/// time is found, what is there some of the time may be found.
#[derive(Default)]
pub(crate) struct Walk {
    stage: Stage,
    /// Patterns that begin with a wildcard are passed over.
    skips_leading_wildcards: bool,
    /// Levels of the key that are done.
    level: usize,
    /// Nodes reached after them; those before `at` are done.
    now: SmallVec<[Place; 16]>,
    at: usize,
    /// Nodes reached after the level being done.
    next: SmallVec<[Place; 16]>,
    /// Those of `next` that could be entered again.
    nested: HashSet<u32, RandomState>,
    /// Nodes whose numbers are found. The last one may be found in part.
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
    /// Whether patterns of any dialect that begin with a wildcard are passed over. Said before the walk begins.
    pub(crate) fn skip_leading_wildcards(&mut self, skip: bool) {
        self.skips_leading_wildcards = skip;
    }
}

impl Node {
    fn new(parent: u32, edge: Edge, nested: bool, born: u64) -> Node {
        Node {
            parent,
            edge,
            one: NONE,
            many: NONE,
            literals: 0,
            nested,
            born,
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
            edges: HashTable::new(),
            hasher: RandomState::default(),
            labels: 0,
            born: 0,
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

    /// Takes a number away from `pattern`. Returns whether it was there.
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

    /// Goes on with a walk and calls `found` with the numbers whose pattern matches, each once, a step for each node and
    /// each number. Returns whether there may be more.
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
                        walk.next.push((OPEN, self.nodes[OPEN as usize].born));
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
                    // Once for all nodes: a client chooses how long a level is.
                    let hash = *label.get_or_insert_with(|| self.hasher.hash_one(level));
                    self.pass(place, level, hash, walk);
                }
                (Stage::Open | Stage::Guarded, None) if !walk.next.is_empty() => {
                    // The level is done.
                    std::mem::swap(&mut walk.now, &mut walk.next);
                    walk.next.clear();
                    walk.nested.clear();
                    walk.level += 1;
                    walk.at = 0;
                    label = None;
                }
                (stage, place) => {
                    // No node is left, or all levels are done: the nodes reached then match.
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

    /// Bytes of memory it occupies, roughly: the values' own are not in it.
    pub(crate) fn memory(&self) -> usize {
        self.nodes.len() * node_bytes() + self.labels
    }

    /// Whether it holds no pattern.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.len() == 2 && self.nodes.iter().all(|(_, node)| node.values.is_empty())
    }

    /// The node of a place, if it is still that one.
    fn node(&self, (at, born): Place) -> Option<&Node> {
        self.nodes.get(at as usize).filter(|node| node.born == born)
    }

    /// Follows a level's edges from a node.
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

    /// Adds a node to those reached, and with it what its `#` matches by taking no level.
    fn enter(&self, at: u32, walk: &mut Walk) {
        let node = &self.nodes[at as usize];
        walk.next.push((at, node.born));
        if node.many == NONE {
            return;
        }
        let many = &self.nodes[node.many as usize];
        if many.is_leaf() && !many.nested {
            // Whatever follows matches, and this node is entered only once in a walk.
            walk.matched.push((node.many, many.born));
        } else if !many.nested || walk.nested.insert(node.many) {
            walk.next.push((node.many, many.born));
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

    /// The child along a label, whose hash is given.
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
        self.born += 1;
        let child = self.nodes.insert(Node::new(parent, edge, nested, self.born));
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
        edge_hash(&self.hasher, parent, self.hasher.hash_one(label))
    }
}

/// A node, with a share of the room that the list of nodes keeps free.
const fn node_bytes() -> usize {
    size_of::<Node>() * 5 / 4
}

/// The label of a literal edge and its place among the edges.
fn label_bytes(label: &str) -> usize {
    ledger::allocation(label.len()) + ledger::hashed::<u32>()
}

/// At most what a pattern adds to a trie: a node for each level.
pub(crate) fn pattern_bytes(text: &str, levels: usize) -> usize {
    levels * (node_bytes() + label_bytes("")) + text.len()
}

fn root(pattern: &Pattern) -> u32 {
    if pattern.hides_dollar() { GUARDED } else { OPEN }
}

/// Of a parent and the hash of a label.
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
                // In pieces of any size, as the holds of the lock leave them.
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
    fn a_walk_survives_what_comes_and_goes_between_its_steps() {
        // What stays is found, once; what was never there, or does not match, never is.
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
