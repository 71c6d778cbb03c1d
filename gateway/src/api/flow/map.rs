//! The flow map: its edges, their rates, and the selection that is shown.
//!
//! A look at a vhost collects the counts of its engine ([`Gathering`]) and then updates the map at once
//! ([`Map::update`]). Both are bounded: if there are more edges, the fastest stay.

use super::node::{FlowNode, NodeKind, OTHER_TOPICS};
use super::waits::Waits;
use foldhash::fast::RandomState;
use gatepost_core::engine::flow::{ConsumerId, Flowed, Source, Tally};
use gatepost_core::properties::Name;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::mem::size_of;
use std::sync::Arc;

/// The nodes at both ends.
type Pair = (Arc<FlowNode>, Arc<FlowNode>);

type Table<K, V> = HashMap<K, V, RandomState>;

/// Maximum edges of all vhosts together: about 3 MiB with short names.
pub(super) const EDGES_MAX: usize = 8192;
/// Maximum consumers that a look remembers, to which the waiting times that it reads later belong. Further ones have no
/// waiting times.
const CONSUMERS_MAX: usize = 2 * EDGES_MAX;
/// An edge is removed after this many looks without a message.
const SILENT_MAX: u8 = 3;
/// Maximum counts for topics that the look has not named yet.
const UNKNOWN_MAX: usize = 4096;

/// The messages along an edge in one look.
#[derive(Default)]
struct Fresh {
    tally: Tally,
    has_bytes: bool,
    waits: Option<Box<Waits>>,
}

/// The counts that a look has collected so far.
pub(super) struct Gathering {
    vhost: Name,
    /// The nodes of topics and exchanges.
    sources: Table<Source, Arc<FlowNode>>,
    /// The two nodes of each consumer's deliveries.
    consumers: Table<ConsumerId, Pair>,
    edges: Table<Pair, Fresh>,
    /// Counts of clients' messages to topics that are not named yet.
    unknown: Vec<(Arc<FlowNode>, Source, Tally)>,
    last_queue: Option<Arc<FlowNode>>,
    /// Number of edges that were left out.
    left_out: u64,
}

impl Gathering {
    pub(super) fn new(vhost: &Name) -> Gathering {
        let default = FlowNode::new(vhost, NodeKind::Exchange, &Name::default());
        Gathering {
            vhost: vhost.clone(),
            sources: Table::from_iter([(Source::exchange(""), default)]),
            consumers: Table::default(),
            edges: Table::default(),
            unknown: Vec::new(),
            last_queue: None,
            left_out: 0,
        }
    }

    /// Approximate memory in bytes, without names that the engine holds.
    pub(super) fn memory(&self) -> usize {
        let nodes = self.edges.len() + self.sources.len() + self.consumers.len();
        self.edges.capacity() * size_of::<(Pair, Fresh)>()
            + self.sources.capacity() * size_of::<(Source, Arc<FlowNode>)>()
            + self.consumers.capacity() * size_of::<(ConsumerId, Pair)>()
            + nodes * NODE_BYTES
    }

    /// Adds the counts of a hold.
    pub(super) fn add(&mut self, flowed: Vec<Flowed>) {
        for flowed in flowed {
            match flowed {
                Flowed::Routed {
                    source,
                    exchange,
                    topic,
                    tally,
                    queues,
                    exchanges,
                    more,
                } => {
                    let from = match &topic {
                        Some(topic) => FlowNode::new(&self.vhost, NodeKind::Topic, topic),
                        None => FlowNode::new(&self.vhost, NodeKind::Exchange, &exchange),
                    };
                    let from = Arc::clone(self.sources.entry(source).or_insert(from));
                    for queue in queues {
                        let to = self.queue_node(&queue);
                        self.note((Arc::clone(&from), to), tally);
                    }
                    for exchange in exchanges {
                        let to = FlowNode::new(&self.vhost, NodeKind::Exchange, &exchange);
                        self.note((Arc::clone(&from), to), tally);
                    }
                    self.left_out += more as u64;
                }
                Flowed::DeadLettered {
                    queue,
                    to,
                    exchange,
                    tally,
                } => {
                    let from = FlowNode::new(&self.vhost, NodeKind::Queue, &queue);
                    let exchange = exchange.map(|name| FlowNode::new(&self.vhost, NodeKind::Exchange, &name));
                    match exchange.or_else(|| self.sources.get(&to).cloned()) {
                        Some(to) => self.note((from, to), tally),
                        None => self.note_unknown(&from, to, tally),
                    }
                }
                Flowed::Published { party, to, others } => {
                    let from = FlowNode::of_client(&self.vhost, &party);
                    for (source, tally) in to {
                        match self.sources.get(&source) {
                            Some(topic) => self.note((Arc::clone(&from), Arc::clone(topic)), tally),
                            None => self.note_unknown(&from, source, tally),
                        }
                    }
                    self.note_others(&from, others);
                }
                Flowed::Delivered {
                    party,
                    consumer,
                    queue,
                    messages,
                } => {
                    let from = FlowNode::new(&self.vhost, NodeKind::Queue, &queue);
                    let pair = (from, FlowNode::of_client(&self.vhost, &party));
                    if let Some(consumer) = consumer
                        && self.consumers.len() < CONSUMERS_MAX
                    {
                        self.consumers.insert(consumer, pair.clone());
                    }
                    self.edges.entry(pair).or_default().tally.messages += messages;
                }
                Flowed::Waited(samples) => self.note_waits(samples),
                _ => {}
            }
            if self.edges.len() >= 2 * EDGES_MAX {
                self.thin(EDGES_MAX);
            }
        }
    }

    /// Topics that were published to for the first time during the look; the caller asks the engine for their names.
    pub(super) fn take_unknown(&mut self) -> Vec<Source> {
        self.unknown.iter().map(|(_, source, _)| *source).collect()
    }

    /// Adds the names for the result of [`Gathering::take_unknown`], in the same order.
    pub(super) fn resolve(&mut self, names: Vec<Option<Name>>) {
        for ((from, _, tally), name) in std::mem::take(&mut self.unknown).into_iter().zip(names) {
            match name {
                Some(name) => {
                    let topic = FlowNode::new(&self.vhost, NodeKind::Topic, &name);
                    self.note((from, topic), tally);
                }
                None => self.note_others(&from, tally),
            }
        }
    }

    /// The node of a queue. Often many topics in a row lead to the same queue.
    fn queue_node(&mut self, queue: &Name) -> Arc<FlowNode> {
        match &self.last_queue {
            Some(last) if last.name == *queue => Arc::clone(last),
            _ => {
                let node = FlowNode::new(&self.vhost, NodeKind::Queue, queue);
                Arc::clone(self.last_queue.insert(node))
            }
        }
    }

    fn note(&mut self, pair: Pair, tally: Tally) {
        let fresh = self.edges.entry(pair).or_default();
        fresh.tally.add(tally);
        fresh.has_bytes = true;
    }

    fn note_unknown(&mut self, from: &Arc<FlowNode>, source: Source, tally: Tally) {
        if self.unknown.len() < UNKNOWN_MAX {
            self.unknown.push((Arc::clone(from), source, tally));
        } else {
            self.note_others(from, tally);
        }
    }

    fn note_others(&mut self, from: &Arc<FlowNode>, tally: Tally) {
        if !tally.is_empty() {
            let others = FlowNode::new(&self.vhost, NodeKind::Others, &OTHER_TOPICS.into());
            self.note((Arc::clone(from), others), tally);
        }
    }

    fn note_waits(&mut self, samples: Vec<(ConsumerId, u32)>) {
        for (consumer, ms) in samples {
            let pair = self.consumers.get(&consumer);
            if let Some(fresh) = pair.and_then(|pair| self.edges.get_mut(pair)) {
                fresh.waits.get_or_insert_default().record(ms);
            }
        }
    }

    /// Keeps only the fastest edges.
    fn thin(&mut self, most: usize) {
        let mut stays = largest(self.edges.values().map(|fresh| fresh.tally.messages).collect(), most);
        let before = self.edges.len();
        self.edges.retain(|_, fresh| stays(fresh.tally.messages));
        self.left_out += (before - self.edges.len()) as u64;
    }
}

/// Returns a function that says whether a number is among the `most` largest. Ask it once about each number, in any
/// order.
fn largest(mut numbers: Vec<u64>, most: usize) -> impl FnMut(u64) -> bool {
    let (least, mut ties) = if numbers.len() <= most {
        (0, usize::MAX)
    } else {
        let (larger, least, _) = numbers.select_nth_unstable_by(most, |a, b| b.cmp(a));
        let least = *least;
        (least, larger.iter().filter(|number| **number == least).count())
    };
    move |number| {
        let stays = number > least || (number == least && ties > 0);
        ties -= usize::from(stays && number == least);
        stays
    }
}

/// Memory of a node without its name, and of its entry in a table.
const NODE_BYTES: usize = size_of::<FlowNode>() + 2 * size_of::<usize>() + 32;

/// An edge of the map.
struct Edge {
    /// Counts of the last look.
    last: Tally,
    has_bytes: bool,
    /// Messages since it appeared.
    total: u64,
    /// Looks without a message so far.
    silent: u8,
    waits: Option<Box<Waits>>,
}

/// The edges of a vhost.
#[derive(Default)]
pub(super) struct Map {
    edges: Table<Pair, Edge>,
    /// Each node once, shared by its edges.
    nodes: HashSet<Arc<FlowNode>, RandomState>,
    /// Duration of the last look's interval.
    seconds: f64,
    /// Edges left out at the last look.
    left_out: u64,
}

impl Map {
    pub(super) fn len(&self) -> usize {
        self.edges.len()
    }

    /// Approximate memory in bytes.
    pub(super) fn memory(&self) -> usize {
        let edges = self.edges.capacity() * size_of::<(Pair, Edge)>();
        let waits = self.edges.values().filter(|edge| edge.waits.is_some()).count();
        let names: usize = self.nodes.iter().map(|node| node.name.len()).sum();
        edges + waits * size_of::<Waits>() + self.nodes.len() * NODE_BYTES + names
    }

    /// Updates the map with a look over this many seconds, and keeps at most this many edges.
    pub(super) fn update(&mut self, gathered: Gathering, seconds: f64, edges_max: usize) {
        let Gathering {
            edges: mut fresh,
            left_out,
            ..
        } = gathered;
        self.seconds = seconds;
        self.left_out = left_out;
        self.edges.retain(|pair, edge| {
            if let Some(waits) = &mut edge.waits {
                waits.halve();
            }
            match fresh.remove(pair) {
                Some(fresh) => edge.flow(fresh),
                None => {
                    edge.last = Tally::default();
                    edge.silent += 1;
                }
            }
            edge.silent < SILENT_MAX
        });
        for ((from, to), fresh) in fresh {
            // An exchange whose messages reach no queue gets a node but no edge.
            if fresh.tally.is_empty() {
                continue;
            }
            let mut edge = Edge {
                last: Tally::default(),
                has_bytes: false,
                total: 0,
                silent: 0,
                waits: None,
            };
            edge.flow(fresh);
            let pair = (self.shared(from), self.shared(to));
            self.edges.insert(pair, edge);
        }
        if self.edges.len() > edges_max {
            self.thin(edges_max);
        }
        let unused = |node: &Arc<FlowNode>| Arc::strong_count(node) == 1;
        self.nodes.retain(|node| !unused(node));
        if self.edges.is_empty() {
            self.edges.shrink_to_fit();
            self.nodes.shrink_to_fit();
        }
    }

    fn shared(&mut self, node: Arc<FlowNode>) -> Arc<FlowNode> {
        if let Some(known) = self.nodes.get(&node) {
            return Arc::clone(known);
        }
        self.nodes.insert(Arc::clone(&node));
        node
    }

    fn thin(&mut self, most: usize) {
        let mut stays = largest(self.edges.values().map(|edge| edge.last.messages).collect(), most);
        let before = self.edges.len();
        self.edges.retain(|_, edge| stays(edge.last.messages));
        self.left_out += (before - self.edges.len()) as u64;
    }
}

impl Edge {
    fn flow(&mut self, fresh: Fresh) {
        self.last = fresh.tally;
        self.has_bytes = fresh.has_bytes;
        self.total += fresh.tally.messages;
        self.silent = 0;
        if let Some(waits) = fresh.waits {
            self.waits.get_or_insert_default().add(&waits);
        }
    }
}

/// An edge as it is shown.
#[derive(Clone, Debug)]
pub(crate) struct ShownEdge {
    pub(crate) from: Arc<FlowNode>,
    pub(crate) to: Arc<FlowNode>,
    /// Messages a second at the last look.
    pub(crate) rate: f64,
    /// Bytes of bodies a second, if they are counted.
    pub(crate) bytes_rate: Option<f64>,
    /// Messages since the edge appeared.
    pub(crate) total: u64,
    /// Waiting time of messages before delivery: median and 99th percentile.
    pub(crate) latency_ms: Option<(f64, f64)>,
}

impl ShownEdge {
    /// Whether a queue sends along it what it could not deliver.
    pub(super) fn carries_dead_letters(&self) -> bool {
        self.from.kind == NodeKind::Queue && self.to.kind != NodeKind::Client
    }
}

/// A part of the map.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// The fastest first.
    pub(crate) edges: Vec<ShownEdge>,
    /// By name.
    pub(crate) nodes: Vec<Arc<FlowNode>>,
    pub(crate) left_out_nodes: u64,
    pub(crate) left_out_edges: u64,
}

/// The selection of a part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    /// Text that the name of one end must contain, in lower case; empty: any.
    pub(crate) name: &'a str,
    pub(crate) nodes_max: usize,
    pub(crate) edges_max: usize,
}

/// The fastest edges of these vhosts.
pub(super) fn shown<'m>(maps: impl Iterator<Item = &'m Map>, part: Part<'_>) -> Shown {
    let mut edges = Vec::new();
    let mut shown = Shown::default();
    let mut all = HashSet::new();
    let named = |node: &FlowNode| part.name.is_empty() || node.name.to_lowercase().contains(part.name);
    for map in maps {
        shown.left_out_edges += map.left_out;
        for ((from, to), edge) in &map.edges {
            if named(from) || named(to) {
                all.extend([Arc::as_ptr(from), Arc::as_ptr(to)]);
                edges.push((from, to, edge, map.seconds));
            }
        }
    }
    let rate = |messages: u64, seconds: f64| messages as f64 / seconds;
    edges.sort_by(|a, b| {
        let by_rate = rate(b.2.last.messages, b.3).total_cmp(&rate(a.2.last.messages, a.3));
        by_rate
            .then_with(|| b.2.total.cmp(&a.2.total))
            .then_with(|| (a.0, a.1).cmp(&(b.0, b.1)))
    });
    let mut nodes: BTreeMap<&Arc<FlowNode>, ()> = BTreeMap::new();
    for (from, to, edge, seconds) in edges {
        let more = [from, to].iter().filter(|node| !nodes.contains_key(**node)).count();
        if shown.edges.len() >= part.edges_max || nodes.len() + more > part.nodes_max {
            shown.left_out_edges += 1;
            continue;
        }
        nodes.insert(from, ());
        nodes.insert(to, ());
        let waits = edge.waits.as_ref();
        let quantile = |hundredths| waits.and_then(|waits| waits.quantile_ms(hundredths));
        shown.edges.push(ShownEdge {
            from: Arc::clone(from),
            to: Arc::clone(to),
            rate: rate(edge.last.messages, seconds),
            bytes_rate: edge.has_bytes.then(|| rate(edge.last.bytes, seconds)),
            total: edge.total,
            latency_ms: quantile(50).zip(quantile(99)),
        });
    }
    shown.nodes = nodes.into_keys().cloned().collect();
    shown.left_out_nodes = (all.len() - shown.nodes.len()) as u64;
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(kind: NodeKind, name: &str) -> Arc<FlowNode> {
        FlowNode::new(&"/".into(), kind, &name.into())
    }

    fn gathered(edges: &[(&str, &str, u64)]) -> Gathering {
        let mut gathering = Gathering::new(&"/".into());
        for (from, to, messages) in edges {
            let pair = (node(NodeKind::Topic, from), node(NodeKind::Queue, to));
            let tally = Tally {
                messages: *messages,
                bytes: messages * 10,
            };
            gathering.note(pair, tally);
        }
        gathering
    }

    const ALL: Part<'static> = Part {
        name: "",
        nodes_max: 500,
        edges_max: 1000,
    };

    fn lines(map: &Map, part: Part<'_>) -> Vec<String> {
        let shown = shown([map].into_iter(), part);
        let line = |edge: &ShownEdge| format!("{} {} {} {}", edge.from.name, edge.to.name, edge.rate, edge.total);
        shown.edges.iter().map(line).collect()
    }

    #[test]
    fn an_edge_has_the_rate_of_the_last_look_and_leaves_after_some_silent_ones() {
        let mut map = Map::default();
        map.update(gathered(&[("a", "q", 10), ("b", "q", 20)]), 5.0, EDGES_MAX);
        assert_eq!(lines(&map, ALL), ["b q 4 20", "a q 2 10"]);
        map.update(gathered(&[("a", "q", 10)]), 5.0, EDGES_MAX);
        assert_eq!(lines(&map, ALL), ["a q 2 20", "b q 0 20"]);
        for _ in 1..SILENT_MAX {
            map.update(gathered(&[("a", "q", 10)]), 5.0, EDGES_MAX);
        }
        assert_eq!(lines(&map, ALL), ["a q 2 40"]);
        assert_eq!(map.nodes.len(), 2, "and its node with it");
        for _ in 0..SILENT_MAX {
            map.update(gathered(&[]), 5.0, EDGES_MAX);
        }
        assert!(map.edges.is_empty() && map.nodes.is_empty());
    }

    #[test]
    fn the_fastest_edges_stay_where_there_are_too_many() {
        let names: Vec<String> = (0..100).map(|n| format!("t{n:02}")).collect();
        let edges: Vec<(&str, &str, u64)> = names.iter().zip(1..).map(|(name, n)| (&**name, "q", n)).collect();
        let mut map = Map::default();
        map.update(gathered(&edges), 1.0, 10);
        let expected: Vec<String> = (90..100).rev().map(|n| format!("t{n} q {0} {0}", n + 1)).collect();
        assert_eq!(lines(&map, ALL), expected);
        assert_eq!(shown([&map].into_iter(), ALL).left_out_edges, 90);
        let few = Part { nodes_max: 4, ..ALL };
        let part = shown([&map].into_iter(), few);
        assert_eq!((part.edges.len(), part.nodes.len()), (3, 4));
        assert_eq!((part.left_out_edges, part.left_out_nodes), (97, 7));
        assert_eq!(lines(&map, Part { name: "t95", ..ALL }), ["t95 q 96 96"]);
        // Of edges with equal rates, only as many as there is room for stay.
        let alike: Vec<(&str, &str, u64)> = names.iter().map(|name| (&**name, "q", 1)).collect();
        let mut map = Map::default();
        map.update(gathered(&alike), 1.0, 10);
        assert_eq!(map.edges.len(), 10);
    }

    #[test]
    fn a_full_map_takes_some_megabytes_and_an_empty_one_nothing() {
        let mut map = Map::default();
        assert_eq!(map.memory(), 0);
        let names: Vec<String> = (0..EDGES_MAX).map(|n| format!("plant/hall/{n}/temperature")).collect();
        let edges: Vec<(&str, &str, u64)> = names.iter().map(|name| (&**name, "q", 1)).collect();
        let gathering = gathered(&edges);
        assert!(gathering.memory() > EDGES_MAX * size_of::<(Pair, Fresh)>());
        map.update(gathering, 1.0, EDGES_MAX);
        let memory = map.memory();
        assert!((1 << 20..4 << 20).contains(&memory), "{memory}");
        for _ in 0..SILENT_MAX {
            map.update(gathered(&[]), 1.0, EDGES_MAX);
        }
        assert_eq!(map.memory(), 0);
    }

    #[test]
    fn what_is_gathered_in_one_look_is_bounded() {
        let mut gathering = Gathering::new(&"/".into());
        for n in 0..3 * EDGES_MAX as u64 {
            let routed = Flowed::Routed {
                source: Source::exchange(&n.to_string()),
                exchange: Name::default(),
                topic: Some(n.to_string().as_str().into()),
                tally: Tally { messages: 1, bytes: 0 },
                queues: vec!["q".into()],
                exchanges: Vec::new(),
                more: 0,
            };
            gathering.add(vec![routed]);
            assert!(gathering.edges.len() < 2 * EDGES_MAX);
        }
        let all = gathering.edges.len() as u64 + gathering.left_out;
        assert_eq!(all, 3 * EDGES_MAX as u64);
    }
}
