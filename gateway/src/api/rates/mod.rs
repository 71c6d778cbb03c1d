//! Rates: what counters and gauges were, every five seconds, in rings of fixed length.
//!
//! ```text
//!   every 5 s: counters of each vhost ──► its ring, and the node's      (2 points; 121 of the node's)
//!              queues that were viewed ──► their rings                   (2 points in lists; 60 once samples are asked for)
//! ```
//!
//! A queue has a ring from its first view on, and keeps it for [`VIEWED`] after the last one. All rings of queues together
//! take [`QUEUES_BYTES_MAX`] at most; for queues beyond that rates are 0. So an operator who looks at nothing pays for
//! nothing, and one who polls everything for a bounded amount.

mod figures;
mod history;

pub(super) use figures::{Figure, NodeSample, QueueSample, clients};
pub(super) use history::{NodeHistory, QueueHistory, Spans};

use crate::node::Node;
use figures::{OF_NODE, OF_QUEUE, Sample};
use gatepost_core::engine::{Carried, Link};
use gatepost_core::properties::Name;
use gatepost_core::store::VhostId;
use history::{History, LEAST_MS, Point, difference};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// From one point to the next.
const INTERVAL_MS: u64 = 5_000;
/// Points of the node's ring: ten minutes, and where they begin.
const NODE_POINTS: usize = 121;
/// Points of a ring somebody asked samples of.
const VIEWED_POINTS: usize = 60;
/// Points for a rate.
const RATE_POINTS: usize = 2;
/// Connections whose rates are known at once.
const CONNECTIONS_MAX: usize = 20_000;
/// A ring nobody has looked at for so long is dropped.
const VIEWED: Duration = Duration::from_secs(300);
/// Bytes of all rings of queues.
const QUEUES_BYTES_MAX: usize = 8 << 20;
/// Vhosts with more than two points.
const VHOSTS_VIEWED_MAX: usize = 64;
/// Queues or connections asked about at once.
const PER_HOLD: usize = 256;

/// A ring.
struct Series<const N: usize> {
    points: VecDeque<Point<N>>,
    keep: usize,
    viewed: Instant,
}

impl<const N: usize> Series<N> {
    fn new(keep: usize) -> Series<N> {
        Series {
            points: VecDeque::new(),
            keep,
            viewed: Instant::now(),
        }
    }

    fn push(&mut self, at: u64, sample: Sample<N>) {
        while self.points.len() >= self.keep {
            self.points.pop_front();
        }
        if self.points.capacity() < self.keep {
            self.points.reserve_exact(self.keep - self.points.len());
        }
        self.points.push_back(Point { at, sample });
    }

    fn history(&mut self) -> History<N> {
        self.viewed = Instant::now();
        History(self.points.iter().copied().collect())
    }

    /// Of so many points.
    const fn bytes(points: usize) -> usize {
        points * std::mem::size_of::<Point<N>>() + 128
    }
}

/// See the module.
pub(crate) struct Rates(Mutex<State>);

struct State {
    node: Series<OF_NODE>,
    vhosts: BTreeMap<VhostId, Series<OF_NODE>>,
    queues: HashMap<(VhostId, Name), Series<OF_QUEUE>>,
    /// Of all rings of queues.
    queues_bytes: usize,
    connections: HashMap<(VhostId, Link), Flow>,
}

/// What a connection's socket had carried, at the last point and the one before.
#[derive(Clone, Copy)]
struct Flow {
    last: (u64, Carried),
    before: Option<(u64, Carried)>,
    viewed: Instant,
}

impl Flow {
    /// Bytes per second, in and out.
    fn rates(&self) -> (f64, f64) {
        let Some((from, before)) = self.before else {
            return (0.0, 0.0);
        };
        let (to, last) = self.last;
        let ms = to.saturating_sub(from);
        if ms < LEAST_MS {
            return (0.0, 0.0);
        }
        let seconds = ms as f64 / 1e3;
        (
            difference(last.bytes_in, before.bytes_in) / seconds,
            difference(last.bytes_out, before.bytes_out) / seconds,
        )
    }
}

impl Default for Rates {
    fn default() -> Rates {
        Rates(Mutex::new(State {
            node: Series::new(NODE_POINTS),
            vhosts: BTreeMap::new(),
            queues: HashMap::new(),
            queues_bytes: 0,
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

    /// Of a queue that has those figures now.
    pub(super) fn queue(
        &self,
        now: u64,
        vhost: VhostId,
        queue: &Name,
        figures: QueueSample,
        spans: &Spans,
    ) -> QueueHistory {
        let keep = if spans.are_wanted() { VIEWED_POINTS } else { RATE_POINTS };
        let mut state = self.0.lock();
        let State {
            queues, queues_bytes, ..
        } = &mut *state;
        let key = (vhost, Name::clone(queue));
        let kept = queues
            .get(&key)
            .map_or(0, |series| Series::<OF_QUEUE>::bytes(series.keep));
        let wanted = Series::<OF_QUEUE>::bytes(keep);
        if wanted > kept {
            if *queues_bytes + wanted - kept > QUEUES_BYTES_MAX && kept == 0 {
                return History::default();
            }
            if *queues_bytes + wanted - kept <= QUEUES_BYTES_MAX {
                *queues_bytes += wanted - kept;
                let series = queues.entry(key.clone()).or_insert_with(|| Series::new(keep));
                series.keep = keep;
                if kept == 0 {
                    series.push(now, figures);
                }
            }
        }
        queues.get_mut(&key).map(Series::history).unwrap_or_default()
    }

    /// Bytes per second, in and out, of a connection that has carried so much now.
    pub(super) fn connection(&self, now: u64, vhost: VhostId, link: Link, carried: Carried) -> (f64, f64) {
        let mut state = self.0.lock();
        if state.connections.len() >= CONNECTIONS_MAX && !state.connections.contains_key(&(vhost, link)) {
            return (0.0, 0.0);
        }
        let flow = state.connections.entry((vhost, link)).or_insert(Flow {
            last: (now, carried),
            before: None,
            viewed: Instant::now(),
        });
        flow.viewed = Instant::now();
        flow.rates()
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

    /// Looks at everything, once.
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
        let viewed: Vec<(VhostId, Name)> = {
            let mut state = self.0.lock();
            state.node.push(at, all.of_node(node));
            state
                .vhosts
                .retain(|number, _| samples.iter().any(|(known, _)| known == number));
            for (number, sample) in samples {
                let series = state.vhosts.entry(number).or_insert_with(|| Series::new(RATE_POINTS));
                if series.viewed.elapsed() > VIEWED {
                    series.keep = RATE_POINTS;
                }
                series.push(at, sample);
            }
            let State {
                queues, queues_bytes, ..
            } = &mut *state;
            queues.retain(|_, series| {
                let keeps = series.viewed.elapsed() <= VIEWED;
                if !keeps {
                    *queues_bytes -= Series::<OF_QUEUE>::bytes(series.keep);
                }
                keeps
            });
            if queues.is_empty() {
                queues.shrink_to_fit();
            }
            let mut viewed: Vec<_> = queues.keys().cloned().collect();
            viewed.sort_unstable();
            viewed
        };
        for batch in viewed.chunk_by(|a, b| a.0 == b.0) {
            let Some(vhost) = batch
                .first()
                .and_then(|(number, _)| vhosts.iter().find(|v| v.number == *number))
            else {
                continue;
            };
            for batch in batch.chunks(PER_HOLD) {
                let found: Vec<_> = vhost.enter(|engine| {
                    let figures = batch.iter().map(|(_, name)| engine.queue_counts(name));
                    figures.collect()
                });
                let mut state = self.0.lock();
                for (key, figures) in batch.iter().zip(found) {
                    let Some((counts, ready, unsettled)) = figures else {
                        continue;
                    };
                    if let Some(series) = state.queues.get_mut(key) {
                        series.push(at, QueueSample::new(&counts, ready as u64, unsettled as u64));
                    }
                }
            }
        }
    }
}

/// Looks at everything every five seconds, for ever.
pub(crate) async fn run(node: &Arc<Node>) {
    node.rates.look(node);
    loop {
        let past = node.clock.now().wall.0 % INTERVAL_MS;
        tokio::time::sleep(Duration::from_millis(INTERVAL_MS - past)).await;
        node.rates.look(node);
    }
}

#[cfg(test)]
mod tests {
    use super::super::query::Query;
    use super::*;

    #[test]
    fn rings_of_queues_take_no_more_than_they_may() {
        let rates = Rates::default();
        let spans = Spans::of(&Query::parse("lengths_age=60&lengths_incr=5"));
        let vhost = VhostId(1);
        for n in 0..20_000 {
            let name: Name = format!("q{n}").into();
            rates.queue(5_000, vhost, &name, QueueSample::default(), &Spans::default());
        }
        let first: Name = "q0".into();
        assert_eq!(
            rates
                .queue(5_000, vhost, &first, QueueSample::default(), &spans)
                .0
                .len(),
            1
        );
        assert_eq!(rates.0.lock().queues.len(), 20_000);
        for n in 0..20_000 {
            let name: Name = format!("long{n}").into();
            rates.queue(5_000, vhost, &name, QueueSample::default(), &spans);
        }
        let state = rates.0.lock();
        assert!(state.queues_bytes <= QUEUES_BYTES_MAX && state.queues.len() < 30_000);
        let bytes = state
            .queues
            .values()
            .map(|series| Series::<OF_QUEUE>::bytes(series.keep));
        assert_eq!(bytes.sum::<usize>(), state.queues_bytes);
    }
}
