//! The fastest edges of the flow map, for Prometheus: at most `metrics.flow_edges`.

use super::page::{Label, Page};
use crate::node::Node;
use std::collections::BTreeMap;

/// The labels of an edge: vhost, kind and name of either end.
type Names<'a> = [&'a str; 5];

const LABELS: [&str; 5] = ["vhost", "from_kind", "from", "to_kind", "to"];

/// Appends the edges.
pub(super) fn edges(page: &mut Page, node: &Node) {
    let config = node.config();
    if !config.management.flow || config.metrics.flow_edges == 0 {
        return;
    }
    let shown = node.flow.fastest(config.metrics.flow_edges);
    // Two clients of one name with different protocols are merged, since a sample must not occur twice.
    let mut sums: BTreeMap<Names<'_>, (f64, Option<(f64, f64)>)> = BTreeMap::new();
    for edge in &shown.edges {
        let (from, to) = (&edge.from, &edge.to);
        let names = [&*from.vhost, from.kind.word(), &*from.name, to.kind.word(), &*to.name];
        let (rate, latency) = sums.entry(names).or_default();
        *rate += edge.rate;
        let (half, most) = latency.unwrap_or_default();
        let longest = |(a, b): (f64, f64)| (a.max(half), b.max(most));
        *latency = edge.latency_ms.map(longest).or(*latency);
    }
    for (names, (rate, latency)) in sums {
        let mut labels: Vec<Label<'_>> = LABELS.into_iter().zip(names).collect();
        page.gauge("gatepost_flow_edge_messages_per_second", &labels, rate);
        for (quantile, ms) in latency.iter().flat_map(|(half, most)| [("0.5", half), ("0.99", most)]) {
            labels.truncate(LABELS.len());
            labels.push(("quantile", quantile));
            page.gauge("gatepost_flow_edge_latency_seconds", &labels, ms / 1e3);
        }
    }
    page.gauge("gatepost_flow_edges_left_out", &[], shown.left_out_edges as f64);
}
