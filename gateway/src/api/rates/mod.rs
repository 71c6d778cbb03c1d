//! Rates: values of counters and gauges every five seconds, in rings of fixed length.
//!
//! ```text
//!   every 5 s: counters of each vhost ──► its ring, and the node's      (2 points; 121 of the node's)
//!              what was viewed of queues, exchanges
//!              and channels ──► their rings                              (2 points in lists; 60 once samples are asked for)
//! ```
//!
//! An object has a ring from its first view on, and keeps it for [`VIEWED`] after the last one. The rings of each kind
//! have a limit on their memory; objects beyond it have unknown rates, which are written as 0. So rates of objects cost nothing while nobody views
//! them, and a bounded amount if all are polled.

mod figures;
mod history;
mod rings;

pub(super) use figures::{ChannelSample, ExchangeSample, Figure, NodeSample, QueueSample, clients};
pub(super) use history::{ChannelHistory, ExchangeHistory, NodeHistory, QueueHistory, Spans, write_rate};

use crate::node::Node;
use crate::vhost::Vhost;
use figures::{OF_CHANNEL, OF_EXCHANGE, OF_NODE, OF_QUEUE, Sample};
use gatepost_core::engine::{Carried, Engine, Link};
use gatepost_core::properties::Name;
use gatepost_core::store::VhostId;
use history::{History, LEAST_MS, difference};
use parking_lot::Mutex;
use rings::{Rings, Series};
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time from one point to the next.
const INTERVAL_MS: u64 = 5_000;
/// Points of the node's ring: ten minutes and the start.
const NODE_POINTS: usize = 121;
/// Points of a ring for which samples were requested.
const VIEWED_POINTS: usize = 60;
/// Points for a rate.
const RATE_POINTS: usize = 2;
/// Maximum connections with rates.
const CONNECTIONS_MAX: usize = 20_000;
/// A ring that was not viewed for this long is dropped.
const VIEWED: Duration = Duration::from_secs(300);
/// Maximum memory of all queues' rings, in bytes.
const QUEUES_BYTES_MAX: usize = 8 << 20;
/// Maximum memory of all channels' rings, in bytes.
const CHANNELS_BYTES_MAX: usize = 4 << 20;
/// Maximum memory of all exchanges' rings, in bytes.
const EXCHANGES_BYTES_MAX: usize = 2 << 20;
/// Maximum vhosts with more than two points.
const VHOSTS_VIEWED_MAX: usize = 64;
/// Maximum queues or connections read in one hold.
const PER_HOLD: usize = 256;

/// All rings.
pub(crate) struct Rates(Mutex<State>);

struct State {
    node: Series<OF_NODE>,
    vhosts: BTreeMap<VhostId, Series<OF_NODE>>,
    queues: Rings<Of<Name>, OF_QUEUE>,
    exchanges: Rings<Of<Name>, OF_EXCHANGE>,
    channels: Rings<Of<(Link, u16)>, OF_CHANNEL>,
    connections: HashMap<(VhostId, Link), Flow>,
}

/// An object of a vhost.
type Of<K> = (VhostId, K);

/// Bytes that a connection's socket had carried at the last two points.
#[derive(Clone, Copy)]
struct Flow {
    last: (u64, Carried),
    before: Option<(u64, Carried)>,
    viewed: Instant,
}

impl Flow {
    /// Bytes per second, in and out, in the last interval. As long as there was none: from the first view until now,
    /// when it has carried as much as `now` says. `None`: that time is too short.
    fn rates(&self, now: (u64, Carried)) -> Option<(f64, f64)> {
        let ((from, before), (to, last)) = match self.before {
            Some(before) => (before, self.last),
            None => (self.last, now),
        };
        let ms = to.saturating_sub(from);
        let seconds = ms as f64 / 1e3;
        (ms >= LEAST_MS).then(|| {
            (
                difference(last.bytes_in, before.bytes_in) / seconds,
                difference(last.bytes_out, before.bytes_out) / seconds,
            )
        })
    }
}

impl Default for Rates {
    fn default() -> Rates {
        Rates(Mutex::new(State {
            node: Series::new(NODE_POINTS),
            vhosts: BTreeMap::new(),
            queues: Rings::new(QUEUES_BYTES_MAX),
            exchanges: Rings::new(EXCHANGES_BYTES_MAX),
            channels: Rings::new(CHANNELS_BYTES_MAX),
            connections: HashMap::new(),
        }))
    }
}

impl Rates {
    pub(super) fn node(&self) -> NodeHistory {
        self.0.lock().node.history()
    }

    pub(super) fn vhost(&self, vhost: VhostId, spans: &Spans) -> NodeHistory {
        let mut state = self.0.lock();
        let many = state.vhosts.values().filter(|series| series.keep > RATE_POINTS).count() >= VHOSTS_VIEWED_MAX;
        let Some(series) = state.vhosts.get_mut(&vhost) else {
            return History::default();
        };
        if spans.are_wanted() && !many {
            series.keep = VIEWED_POINTS;
        }
        series.history()
    }

    /// The history of a queue whose current values are these.
    pub(super) fn queue(
        &self,
        now: u64,
        vhost: VhostId,
        queue: &Name,
        figures: QueueSample,
        spans: &Spans,
    ) -> QueueHistory {
        let key = (vhost, Name::clone(queue));
        self.0.lock().queues.view(now, &key, figures, spans)
    }

    /// The history of an exchange whose current values are these.
    pub(super) fn exchange(
        &self,
        now: u64,
        vhost: VhostId,
        exchange: &Name,
        figures: ExchangeSample,
        spans: &Spans,
    ) -> ExchangeHistory {
        let key = (vhost, Name::clone(exchange));
        self.0.lock().exchanges.view(now, &key, figures, spans)
    }

    /// The history of a channel of a connection whose current values are these.
    pub(super) fn channel(
        &self,
        now: u64,
        vhost: VhostId,
        channel: (Link, u16),
        figures: ChannelSample,
        spans: &Spans,
    ) -> ChannelHistory {
        self.0.lock().channels.view(now, &(vhost, channel), figures, spans)
    }

    /// Bytes per second, in and out, of a connection that has carried this much so far. `None`: not known yet.
    pub(super) fn connection(&self, now: u64, vhost: VhostId, link: Link, carried: Carried) -> Option<(f64, f64)> {
        let mut state = self.0.lock();
        if state.connections.len() >= CONNECTIONS_MAX && !state.connections.contains_key(&(vhost, link)) {
            return None;
        }
        let flow = state.connections.entry((vhost, link)).or_insert(Flow {
            last: (now, carried),
            before: None,
            viewed: Instant::now(),
        });
        flow.viewed = Instant::now();
        flow.rates((now, carried))
    }

    fn look_at_connections(&self, node: &Node, at: u64) {
        let mut viewed: Vec<(VhostId, Link)> = {
            let mut state = self.0.lock();
            state.connections.retain(|_, flow| flow.viewed.elapsed() <= VIEWED);
            if state.connections.is_empty() {
                state.connections.shrink_to_fit();
            }
            state.connections.keys().copied().collect()
        };
        viewed.sort_unstable();
        for batch in viewed.chunk_by(|a, b| a.0 == b.0) {
            let vhost = batch.first().and_then(|(number, _)| node.vhosts.numbered(*number));
            for batch in batch.chunks(PER_HOLD) {
                let found: Vec<Option<Carried>> = match &vhost {
                    Some(vhost) => vhost.enter(|engine| batch.iter().map(|(_, link)| engine.carried(*link)).collect()),
                    None => vec![None; batch.len()],
                };
                let mut state = self.0.lock();
                for (key, carried) in batch.iter().zip(found) {
                    match (carried, state.connections.get_mut(key)) {
                        (Some(carried), Some(flow)) => {
                            flow.before = Some(flow.last);
                            flow.last = (at, carried);
                        }
                        _ => _ = state.connections.remove(key),
                    }
                }
            }
        }
    }

    /// Samples everything once.
    fn look(&self, node: &Node) {
        let at = node.clock.now().wall.0;
        let at = at - at % INTERVAL_MS;
        self.look_at_connections(node, at);
        let vhosts = node.vhosts.list();
        let mut all = NodeSample::default();
        let mut samples = Vec::new();
        for vhost in vhosts.iter() {
            let sample = NodeSample::new(&vhost.counters());
            all.add(&sample);
            samples.push((vhost.number, sample));
        }
        {
            let mut state = self.0.lock();
            state.node.push(at, all.of_node(node));
            state
                .vhosts
                .retain(|number, _| samples.iter().any(|(known, _)| known == number));
            for (number, sample) in samples {
                let series = state.vhosts.entry(number).or_insert_with(|| Series::new(RATE_POINTS));
                if !series.is_viewed() {
                    series.keep = RATE_POINTS;
                }
                series.push(at, sample);
            }
        }
        self.look_at_viewed(
            &vhosts,
            at,
            |state| &mut state.queues,
            |engine, name| {
                let (counts, ready, unsettled) = engine.queue_counts(name)?;
                Some(QueueSample::new(&counts, ready as u64, unsettled as u64))
            },
        );
        self.look_at_viewed(
            &vhosts,
            at,
            |state| &mut state.exchanges,
            |engine, name| Some(ExchangeSample::new(&engine.exchange_counts(name)?)),
        );
        self.look_at_viewed(
            &vhosts,
            at,
            |state| &mut state.channels,
            |engine, (link, number)| {
                let (counts, unsettled) = engine.channel_counts(*link, *number)?;
                Some(ChannelSample::new(&counts, unsettled as u64))
            },
        );
    }

    /// Samples the objects of one kind that were viewed lately.
    fn look_at_viewed<K: Clone + Eq + Hash + Ord, const N: usize>(
        &self,
        vhosts: &[Arc<Vhost>],
        at: u64,
        rings: impl Fn(&mut State) -> &mut Rings<Of<K>, N>,
        find: impl Fn(&Engine, &K) -> Option<Sample<N>>,
    ) {
        let viewed = rings(&mut self.0.lock()).viewed();
        for batch in viewed.chunk_by(|a, b| a.0 == b.0) {
            let number = batch.first().map(|(number, _)| *number);
            let Some(vhost) = vhosts.iter().find(|vhost| Some(vhost.number) == number) else {
                continue;
            };
            for batch in batch.chunks(PER_HOLD) {
                let found: Vec<_> = vhost.enter(|engine| batch.iter().map(|(_, key)| find(engine, key)).collect());
                let mut state = self.0.lock();
                for (key, sample) in batch.iter().zip(found) {
                    if let Some(sample) = sample {
                        rings(&mut state).push(key, at, sample);
                    }
                }
            }
        }
    }
}

/// Samples everything every five seconds. Never returns.
pub(crate) async fn run(node: &Arc<Node>) {
    node.rates.look(node);
    loop {
        let past = node.clock.now().wall.0 % INTERVAL_MS;
        tokio::time::sleep(Duration::from_millis(INTERVAL_MS - past)).await;
        node.rates.look(node);
    }
}
