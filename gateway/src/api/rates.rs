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

use super::fields::Fields;
use super::query::Query;
use crate::node::Node;
use gatepost_core::engine::{Carried, Counters, Link, QueueCounts, Traffic};
use gatepost_core::in_process;
use gatepost_core::properties::Name;
use gatepost_core::store::VhostId;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
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
/// Samples of one answer.
const SAMPLES_MAX: u64 = 1_000;
/// A shorter time says nothing about a rate.
const LEAST_MS: u64 = 1_000;

/// What is counted. Those of queues are first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    Publish,
    Deliver,
    DeliverNoAck,
    Get,
    GetNoAck,
    GetEmpty,
    Ack,
    Redeliver,
    Ready,
    Unacknowledged,
    Confirm,
    DropUnroutable,
    ReturnUnroutable,
    DiskReads,
    DiskWrites,
    ReceivedBytes,
    SentBytes,
    ConnectionCreated,
    ConnectionClosed,
    QueueCreated,
    QueueDeleted,
    MemoryUsed,
    FilesUsed,
    SocketsUsed,
    DiskFree,
}

const OF_QUEUE: usize = Figure::Unacknowledged as usize + 1;
const OF_NODE: usize = Figure::DiskFree as usize + 1;

/// All figures at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sample<const N: usize>([u64; N]);

/// Of a queue.
pub(super) type QueueSample = Sample<OF_QUEUE>;
/// Of a vhost or the node.
pub(super) type NodeSample = Sample<OF_NODE>;

impl<const N: usize> Default for Sample<N> {
    fn default() -> Self {
        Sample([0; N])
    }
}

impl<const N: usize> Sample<N> {
    pub(super) fn of(&self, figure: Figure) -> u64 {
        self.0.get(figure as usize).copied().unwrap_or_default()
    }

    pub(super) fn messages(&self) -> u64 {
        self.of(Figure::Ready) + self.of(Figure::Unacknowledged)
    }

    pub(super) fn deliver_get(&self) -> u64 {
        let all = [Figure::Deliver, Figure::DeliverNoAck, Figure::Get, Figure::GetNoAck];
        all.into_iter().map(|figure| self.of(figure)).sum()
    }

    fn set(&mut self, figure: Figure, value: u64) {
        if let Some(place) = self.0.get_mut(figure as usize) {
            *place = value;
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (value, more) in self.0.iter_mut().zip(other.0) {
            *value = value.saturating_add(more);
        }
    }
}

impl QueueSample {
    pub(super) fn new(counts: &QueueCounts, ready: u64, unsettled: u64) -> QueueSample {
        let mut sample = QueueSample::default();
        for (figure, value) in [
            (Figure::Publish, counts.published),
            (Figure::Deliver, counts.delivered),
            (Figure::DeliverNoAck, counts.delivered_no_ack),
            (Figure::Get, counts.got),
            (Figure::GetNoAck, counts.got_no_ack),
            (Figure::GetEmpty, counts.get_empty),
            (Figure::Ack, counts.acknowledged),
            (Figure::Redeliver, counts.redelivered),
            (Figure::Ready, ready),
            (Figure::Unacknowledged, unsettled),
        ] {
            sample.set(figure, value);
        }
        sample
    }
}

impl NodeSample {
    /// Of a vhost.
    pub(super) fn new(counters: &Counters) -> NodeSample {
        let traffic = clients(counters);
        let mut sample = NodeSample::default();
        for (figure, value) in [
            (Figure::Publish, traffic.published),
            (Figure::Confirm, traffic.confirmed),
            (Figure::Deliver, traffic.delivered),
            (Figure::DeliverNoAck, traffic.delivered_no_ack),
            (Figure::Get, traffic.got.saturating_sub(traffic.got_no_ack)),
            (Figure::GetNoAck, traffic.got_no_ack),
            (Figure::GetEmpty, traffic.get_empty),
            (Figure::Ack, traffic.acknowledged),
            (Figure::Redeliver, traffic.redelivered),
            (Figure::DropUnroutable, traffic.unroutable_dropped),
            (Figure::ReturnUnroutable, traffic.unroutable_returned),
            (Figure::ReceivedBytes, traffic.bytes_in),
            (Figure::SentBytes, traffic.bytes_out),
            (Figure::DiskReads, counters.bodies_loaded),
            (Figure::QueueCreated, counters.queues_created),
            (Figure::QueueDeleted, counters.queues_deleted),
            (Figure::Ready, counters.messages_ready),
            (Figure::Unacknowledged, counters.messages_unsettled),
        ] {
            sample.set(figure, value);
        }
        sample
    }

    /// With what only the node knows.
    pub(super) fn of_node(mut self, node: &Node) -> NodeSample {
        let sum = |of: fn(&crate::node::ConnectionCounts) -> u64| node.connections.iter().map(of).sum::<u64>();
        let open = node.connections_open();
        for (figure, value) in [
            (
                Figure::DiskWrites,
                node.store_stats.messages_written.load(Ordering::Relaxed),
            ),
            (
                Figure::ConnectionCreated,
                sum(|counts| counts.opened.load(Ordering::Relaxed)),
            ),
            (
                Figure::ConnectionClosed,
                sum(|counts| counts.closed.load(Ordering::Relaxed)),
            ),
            (Figure::MemoryUsed, crate::machine::resident_bytes()),
            (Figure::FilesUsed, crate::machine::open_files()),
            (Figure::SocketsUsed, open),
            (Figure::DiskFree, node.health.disk_free.load(Ordering::Relaxed)),
        ] {
            self.set(figure, value);
        }
        self
    }
}

/// What clients do. What the gateway publishes itself, for `$SYS`, is none of it.
pub(super) fn clients(counters: &Counters) -> Traffic {
    let clients = counters
        .by_protocol
        .iter()
        .filter(|(name, _)| *name != in_process::PROTOCOL);
    clients.map(|(_, traffic)| *traffic).sum()
}

/// How far back, and in which steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    age_s: u64,
    step_s: u64,
}

/// What samples were asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spans {
    pub(super) lengths: Option<Span>,
    pub(super) messages: Option<Span>,
    pub(super) data: Option<Span>,
    pub(super) node: Option<Span>,
}

impl Spans {
    /// Both of a pair must be there and be numbers; else it counts for nothing.
    pub(super) fn of(query: &Query) -> Spans {
        let span = |name: &str| {
            let number = |suffix: &str| query.get(&format!("{name}{suffix}"))?.parse::<u64>().ok();
            let (age_s, step_s) = (number("_age")?, number("_incr")?);
            (age_s > 0 && step_s > 0).then_some(Span { age_s, step_s })
        };
        Spans {
            lengths: span("lengths"),
            messages: span("msg_rates"),
            data: span("data_rates"),
            node: span("node_stats"),
        }
    }

    fn are_wanted(&self) -> bool {
        [self.lengths, self.messages, self.data, self.node]
            .iter()
            .any(Option::is_some)
    }
}

#[derive(Clone, Copy, Debug)]
struct Point<const N: usize> {
    /// Unix milliseconds.
    at: u64,
    sample: Sample<N>,
}

/// What a ring held when it was looked at, oldest first.
#[derive(Clone, Debug)]
pub(super) struct History<const N: usize>(Vec<Point<N>>);

/// Of a queue.
pub(super) type QueueHistory = History<OF_QUEUE>;
/// Of a vhost or the node.
pub(super) type NodeHistory = History<OF_NODE>;

impl<const N: usize> Default for History<N> {
    fn default() -> Self {
        History(Vec::new())
    }
}

impl<const N: usize> History<N> {
    /// Point for point, where both have one.
    pub(super) fn add(&mut self, other: &Self) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
        }
        for point in &mut self.0 {
            if let Some(same) = other.0.iter().find(|same| same.at == point.at) {
                point.sample.add(&same.sample);
            }
        }
    }

    /// Writes `key`, which is `now`, and `key_details`.
    pub(super) fn write(
        &self,
        fields: &mut Fields<'_>,
        key: &str,
        now: u64,
        span: Option<Span>,
        of: impl Fn(&Sample<N>) -> u64,
    ) {
        fields.count(key, now);
        self.write_details(fields, key, span, of);
    }

    /// Writes `key_details` only.
    pub(super) fn write_details(
        &self,
        fields: &mut Fields<'_>,
        key: &str,
        span: Option<Span>,
        of: impl Fn(&Sample<N>) -> u64,
    ) {
        fields.object(&format!("{key}_details"), |fields| {
            fields.float("rate", self.rate(&of));
            let Some(span) = span else { return };
            let samples = self.samples(span, &of);
            let values = samples.iter().map(|(value, _)| *value as f64);
            fields.float("avg", values.sum::<f64>() / samples.len().max(1) as f64);
            let ends = samples.first().zip(samples.last());
            let rate = ends
                .filter(|_| samples.len() > 1)
                .map(|((newest, to), (oldest, from))| difference(*newest, *oldest) / ((to - from).max(1) as f64 / 1e3));
            fields.float("avg_rate", rate.unwrap_or_default());
            fields.list("samples", samples, |fields, (value, at)| {
                fields.count("sample", value);
                fields.count("timestamp", at);
            });
        });
    }

    /// Per second, over the last interval.
    fn rate(&self, of: impl Fn(&Sample<N>) -> u64) -> f64 {
        let [.., before, last] = &*self.0 else { return 0.0 };
        let ms = last.at.saturating_sub(before.at);
        if ms < LEAST_MS {
            return 0.0;
        }
        difference(of(&last.sample), of(&before.sample)) / (ms as f64 / 1e3)
    }

    /// Values and times, the newest first. Before the first point it was what it is there: nobody knows better.
    fn samples(&self, span: Span, of: impl Fn(&Sample<N>) -> u64) -> Vec<(u64, u64)> {
        let Some(newest) = self.0.last() else {
            return Vec::new();
        };
        let step = span.step_s.saturating_mul(1_000);
        let count = (span.age_s / span.step_s).saturating_add(1).min(SAMPLES_MAX);
        let from = newest.at - newest.at % step;
        let times = (0..count).map(|n| from.saturating_sub(n.saturating_mul(step)));
        let mut points = self.0.iter().rev().peekable();
        let mut value = 0;
        times
            .map(|at| {
                while let Some(point) = points.peek() {
                    value = of(&point.sample);
                    if point.at <= at {
                        break;
                    }
                    points.next();
                }
                (value, at)
            })
            .collect()
    }
}

fn difference(now: u64, before: u64) -> f64 {
    now as f64 - before as f64
}

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
    use super::super::fields::{Columns, object};
    use super::*;

    fn history(points: &[(u64, u64)]) -> NodeHistory {
        let point = |(at, value): &(u64, u64)| {
            let mut sample = NodeSample::default();
            sample.set(Figure::Publish, *value);
            Point { at: *at, sample }
        };
        History(points.iter().map(point).collect())
    }

    fn written(history: &NodeHistory, span: Option<Span>) -> serde_json::Value {
        let mut out = String::new();
        object(&mut out, &Columns::All, |fields| {
            history.write(fields, "publish", 9, span, |sample| sample.of(Figure::Publish));
        });
        serde_json::from_str(&out).expect("JSON")
    }

    #[test]
    fn a_rate_is_of_the_last_interval_and_may_be_negative() {
        let rate = |points| written(&history(points), None)["publish_details"]["rate"].as_f64();
        assert_eq!(rate(&[(5_000, 0), (10_000, 100), (15_000, 150)]), Some(10.0));
        assert_eq!(rate(&[(5_000, 50), (10_000, 0)]), Some(-10.0));
        assert_eq!(rate(&[(5_000, 50)]), Some(0.0));
        assert_eq!(rate(&[]), Some(0.0));
        assert_eq!(rate(&[(9_990, 0), (10_000, 50)]), Some(0.0), "too short to say");
    }

    #[test]
    fn samples_are_newest_first_and_one_more_than_steps() {
        let history = history(&[(5_000, 10), (10_000, 20), (15_000, 40), (20_000, 40)]);
        let span = |age_s, step_s| Some(Span { age_s, step_s });
        let details = &written(&history, span(15, 5))["publish_details"];
        let expected = serde_json::json!([
            { "sample": 40, "timestamp": 20_000 },
            { "sample": 40, "timestamp": 15_000 },
            { "sample": 20, "timestamp": 10_000 },
            { "sample": 10, "timestamp": 5_000 },
        ]);
        assert_eq!(details["samples"], expected);
        assert_eq!(
            (details["avg"].as_f64(), details["avg_rate"].as_f64()),
            (Some(27.5), Some(2.0))
        );
        let details = &written(&history, span(30, 10))["publish_details"];
        let samples = details["samples"].as_array().expect("samples");
        let values: Vec<_> = samples.iter().map(|sample| sample["sample"].as_u64()).collect();
        assert_eq!(values, [Some(40), Some(20), Some(10), Some(10)]);
        let endless = written(&history, span(u64::MAX, 1));
        assert_eq!(
            endless["publish_details"]["samples"].as_array().map(Vec::len),
            Some(1_000)
        );
    }

    #[test]
    fn junk_spans_count_for_nothing() {
        for query in [
            "lengths_age=60",
            "lengths_age=60&lengths_incr=x",
            "lengths_age=0&lengths_incr=5",
        ] {
            assert!(!Spans::of(&Query::parse(query)).are_wanted(), "{query}");
        }
        assert!(Spans::of(&Query::parse("msg_rates_age=60&msg_rates_incr=5")).are_wanted());
    }

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
