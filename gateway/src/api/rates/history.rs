//! A copy of a ring, and its output as rates and samples.

use super::super::fields::Fields;
use super::super::query::Query;
use super::figures::{OF_CHANNEL, OF_EXCHANGE, OF_NODE, OF_QUEUE, Sample};

/// Maximum samples of one answer.
const SAMPLES_MAX: u64 = 1_000;
/// Minimum time between two points for a rate.
pub(super) const LEAST_MS: u64 = 1_000;

/// How far back samples go, and in which steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::api) struct Span {
    age_s: u64,
    step_s: u64,
}

/// The samples that a request asks for.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::api) struct Spans {
    pub(in crate::api) lengths: Option<Span>,
    pub(in crate::api) messages: Option<Span>,
    pub(in crate::api) data: Option<Span>,
    pub(in crate::api) node: Option<Span>,
}

impl Spans {
    /// Both values of a pair must be present and be numbers; otherwise the pair is ignored.
    pub(in crate::api) fn of(query: &Query) -> Spans {
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

    pub(super) fn are_wanted(&self) -> bool {
        [self.lengths, self.messages, self.data, self.node]
            .iter()
            .any(Option::is_some)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Point<const N: usize> {
    /// Unix milliseconds.
    pub(super) at: u64,
    pub(super) sample: Sample<N>,
}

/// A copy of a ring, oldest point first.
#[derive(Clone, Debug)]
pub(in crate::api) struct History<const N: usize>(pub(super) Vec<Point<N>>);

/// The history of a queue.
pub(in crate::api) type QueueHistory = History<OF_QUEUE>;
/// The history of a channel.
pub(in crate::api) type ChannelHistory = History<OF_CHANNEL>;
/// The history of an exchange.
pub(in crate::api) type ExchangeHistory = History<OF_EXCHANGE>;
/// The history of a vhost or the node.
pub(in crate::api) type NodeHistory = History<OF_NODE>;

impl<const N: usize> Default for History<N> {
    fn default() -> Self {
        History(Vec::new())
    }
}

impl<const N: usize> History<N> {
    /// Adds point by point, where both have one.
    pub(in crate::api) fn add(&mut self, other: &Self) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
        }
        for point in &mut self.0 {
            if let Some(same) = other.0.iter().find(|same| same.at == point.at) {
                point.sample.add(&same.sample);
            }
        }
    }

    /// Writes `key`, which is the value `now`, and `key_details`.
    pub(in crate::api) fn write(
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
    pub(in crate::api) fn write_details(
        &self,
        fields: &mut Fields<'_>,
        key: &str,
        span: Option<Span>,
        of: impl Fn(&Sample<N>) -> u64,
    ) {
        fields.object(&format!("{key}_details"), |fields| {
            write_rate(fields, self.rate(&of));
            let Some(span) = span else { return };
            let samples = self.samples(span, &of);
            // Samples before it are made up: as many are expected as were asked for.
            fields.count("known_since", self.0.first().map_or(0, |point| point.at));
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

    /// The rate per second over the last interval. `None`: there was none yet, or it was too short.
    fn rate(&self, of: impl Fn(&Sample<N>) -> u64) -> Option<f64> {
        let [.., before, last] = &*self.0 else { return None };
        let ms = last.at.saturating_sub(before.at);
        (ms >= LEAST_MS).then(|| difference(of(&last.sample), of(&before.sample)) / (ms as f64 / 1e3))
    }

    /// Adds the current values, if the points are too few for a rate. So the second view of an object has one, even if
    /// the object was not sampled since the first.
    pub(super) fn up_to_now(mut self, now: u64, sample: Sample<N>) -> Self {
        let is_rate_known = self.rate(|_| 0).is_some();
        let last = self.0.last().map(|last| last.at);
        if !is_rate_known && last.is_some_and(|last| now.saturating_sub(last) >= LEAST_MS) {
            self.0.push(Point { at: now, sample });
        }
        self
    }

    /// Values and times, newest first. Before the first point, its value is repeated.
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

/// Writes a rate. Clients expect a number, so an unknown rate is 0, and a member beside it says that it is unknown.
pub(in crate::api) fn write_rate(fields: &mut Fields<'_>, rate: Option<f64>) {
    fields.float("rate", rate.unwrap_or_default());
    if rate.is_none() {
        fields.flag("unknown", true);
    }
}

pub(super) fn difference(now: u64, before: u64) -> f64 {
    now as f64 - before as f64
}

#[cfg(test)]
mod tests {
    use super::super::super::fields::{Columns, object};
    use super::super::figures::{Figure, NodeSample};
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

    /// The console showed 0/s for whatever it showed for the first time.
    #[test]
    fn a_rate_of_0_that_is_not_known_yet_is_told_from_one_that_is() {
        let unknown = |points| written(&history(points), None)["publish_details"]["unknown"] == true;
        assert!(unknown(&[]) && unknown(&[(5_000, 50)]) && unknown(&[(9_990, 0), (10_000, 50)]));
        assert!(!unknown(&[(5_000, 50), (10_000, 50)]));
    }

    #[test]
    fn the_second_view_of_an_object_has_a_rate_before_it_was_sampled() {
        let viewed = |points: &[(u64, u64)], now, value| {
            let mut sample = NodeSample::default();
            sample.set(Figure::Publish, value);
            written(&history(points).up_to_now(now, sample), None)["publish_details"].clone()
        };
        assert_eq!(viewed(&[(5_000, 50)], 7_000, 90), serde_json::json!({ "rate": 20.0 }));
        assert_eq!(viewed(&[(5_000, 50)], 5_500, 90)["unknown"], true);
        let early = viewed(&[(4_900, 0), (5_000, 50)], 7_000, 90);
        assert_eq!(
            early,
            serde_json::json!({ "rate": 20.0 }),
            "sampled right after the first view"
        );
        let sampled = &[(5_000, 50), (10_000, 50)];
        assert_eq!(
            viewed(sampled, 12_000, 90),
            serde_json::json!({ "rate": 0.0 }),
            "of the last interval"
        );
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
        assert_eq!(details["known_since"], 5_000);
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
}
