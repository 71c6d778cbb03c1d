//! `/api/gatepost/flow`: a map of which clients exchange messages with which, from counts of the traffic.
//!
//! ```text
//!   every management.flow_interval: what each engine has counted ──► its map ──► JSON, Graphviz, Prometheus
//! ```
//!
//! Engines count between two looks; the maps store the edges. An edge without traffic is removed after some looks. Both
//! the stored and the shown parts are bounded, and the answer says what it leaves out.

mod dot;
mod map;
mod node;
mod waits;

use super::caller::Caller;
use super::fields::Fields;
use super::query::Query;
use super::view::View;
use super::{Answer, Api, NO_CACHE, Refusal};
use crate::node::Node;
use crate::vhost::Vhost;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse as _;
use axum::routing::get;
use gatepost_core::engine::flow::FlowCursor;
use gatepost_core::store::VhostId;
use map::{EDGES_MAX, Gathering, Map, Part, Shown, shown};
pub(super) use node::called;
use node::{FlowNode, NodeKind};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// Maximum nodes and edges of one answer.
const SHOWN_NODES_MAX: usize = 500;
const SHOWN_EDGES_MAX: usize = 1000;
/// Maximum items of an engine read in one hold: about 50 µs.
const PER_HOLD: usize = 256;

pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route("/api/gatepost/flow", get(as_json))
        .route("/api/gatepost/flow.dot", get(as_graph))
}

/// The maps of all vhosts.
#[derive(Default)]
pub(crate) struct Flow(Mutex<Maps>);

#[derive(Default)]
struct Maps {
    vhosts: BTreeMap<VhostId, (Map, Instant)>,
    /// Memory of the maps, and of the look in progress.
    bytes: usize,
    gathering_bytes: usize,
    /// When the last look ended, in wall-clock time.
    at: u64,
}

impl Flow {
    /// The fastest edges of the vhosts, and when they were measured.
    fn part(&self, vhosts: &[VhostId], part: Part<'_>) -> (Shown, u64) {
        let maps = self.0.lock();
        let wanted = vhosts.iter().filter_map(|number| maps.vhosts.get(number));
        (shown(wanted.map(|(map, _)| map), part), maps.at)
    }

    /// The fastest edges of all vhosts, and the number of further edges.
    pub(crate) fn fastest(&self, edges_max: usize) -> Shown {
        let maps = self.0.lock();
        let part = Part {
            name: "",
            nodes_max: usize::MAX,
            edges_max,
        };
        shown(maps.vhosts.values().map(|(map, _)| map), part)
    }

    /// Memory in bytes; 0 while the map is off.
    pub(crate) fn bytes(&self) -> usize {
        let maps = self.0.lock();
        maps.bytes + maps.gathering_bytes
    }

    /// Removes deleted vhosts.
    fn keep(&self, vhosts: &[Arc<Vhost>]) {
        let is_there = |number: &VhostId| vhosts.iter().any(|vhost| vhost.number == *number);
        let mut maps = self.0.lock();
        maps.vhosts.retain(|number, _| is_there(number));
        maps.count();
    }

    fn note_gathering(&self, gathering: &Gathering) {
        self.0.lock().gathering_bytes = gathering.memory();
    }

    fn clear(&self) {
        *self.0.lock() = Maps::default();
    }

    /// Updates the map of a vhost with a look.
    fn update(&self, vhost: VhostId, gathered: Gathering, interval: f64) {
        let mut maps = self.0.lock();
        let number = maps.vhosts.len().max(1);
        let others: usize = maps
            .vhosts
            .iter()
            .filter(|(known, _)| **known != vhost)
            .map(|(_, (map, _))| map.len())
            .sum();
        // Each vhost has a share, however much traffic the others have.
        let edges_max = EDGES_MAX.saturating_sub(others).max(EDGES_MAX / number / 2);
        let now = Instant::now();
        let (map, looked) = maps.vhosts.entry(vhost).or_insert_with(|| (Map::default(), now));
        let seconds = now.duration_since(*looked).as_secs_f64();
        // The first look covers the time since the engine began to count.
        let seconds = if seconds > 0.0 { seconds } else { interval };
        *looked = now;
        map.update(gathered, seconds, edges_max);
        maps.gathering_bytes = 0;
        maps.count();
    }
}

impl Maps {
    fn count(&mut self) {
        self.bytes = self.vhosts.values().map(|(map, _)| map.memory()).sum();
    }
}

/// Looks at all vhosts at each interval. Never returns.
pub(crate) async fn run(node: &Arc<Node>) {
    loop {
        let management = &node.config().management;
        let (is_on, interval) = (management.flow, management.flow_interval.0);
        tokio::time::sleep(interval).await;
        let vhosts = node.vhosts.list();
        if !is_on {
            for vhost in vhosts.iter() {
                vhost.enter(|engine| engine.set_flow(false));
            }
            node.flow.clear();
            continue;
        }
        node.flow.keep(&vhosts);
        for vhost in vhosts.iter() {
            look(node, vhost, interval.as_secs_f64()).await;
        }
        node.flow.0.lock().at = node.clock.now().wall.0;
    }
}

/// Looks at a vhost. Between two holds others get their turn, at the engine and on this thread.
async fn look(node: &Node, vhost: &Vhost, interval: f64) {
    vhost.enter(|engine| engine.set_flow(true));
    let (mut look, mut gathering) = (FlowCursor::default(), Gathering::new(&vhost.name));
    while !look.is_done() {
        gathering.add(vhost.enter(|engine| engine.flow(&mut look, PER_HOLD)));
        node.flow.note_gathering(&gathering);
        tokio::task::yield_now().await;
    }
    let mut names = Vec::new();
    for sources in gathering.take_unknown().chunks(PER_HOLD) {
        names.extend(vhost.enter(|engine| {
            sources
                .iter()
                .map(|source| engine.topic_of(*source))
                .collect::<Vec<_>>()
        }));
    }
    gathering.resolve(names);
    node.flow.update(vhost.number, gathering, interval);
}

/// The part of the map that a request asks for.
fn wanted(caller: &Caller, query: &Query, node: &Node) -> Result<(Shown, u64), Refusal> {
    caller.monitors()?;
    let vhosts = match query.get("vhost") {
        Some(name) => vec![caller.vhost(node, name)?],
        None => caller.vhosts(node),
    };
    if !node.config().management.flow {
        return Err(Refusal::of(StatusCode::NOT_FOUND, "Object Not Found", OFF));
    }
    let numbers: Vec<VhostId> = vhosts.iter().map(|vhost| vhost.number).collect();
    let part = Part {
        name: &query.get("name").unwrap_or_default().to_lowercase(),
        nodes_max: SHOWN_NODES_MAX,
        edges_max: SHOWN_EDGES_MAX,
    };
    Ok(node.flow.part(&numbers, part))
}

const OFF: &str = "management.flow is off";

/// Ready messages of each queue that is shown.
fn backlog(node: &Node, nodes: &[Arc<FlowNode>]) -> HashMap<Arc<FlowNode>, usize> {
    let mut found = HashMap::new();
    let queues: Vec<&Arc<FlowNode>> = nodes.iter().filter(|node| node.kind == NodeKind::Queue).collect();
    for of_vhost in queues.chunk_by(|a, b| a.vhost == b.vhost) {
        let Some(vhost) = of_vhost.first().and_then(|queue| node.vhost(&queue.vhost)) else {
            continue;
        };
        for queues in of_vhost.chunks(PER_HOLD) {
            vhost.enter(|engine| {
                for queue in queues {
                    let counts = engine.queue_counts(&queue.name);
                    found.extend(counts.map(|(_, ready, _)| (Arc::clone(queue), ready)));
                }
            });
        }
    }
    found
}

async fn as_json(caller: Caller, view: View, query: Query, State(node): Api) -> Answer {
    let (shown, at) = wanted(&caller, &query, &node)?;
    let backlog = backlog(&node, &shown.nodes);
    let interval = node.config().management.flow_interval.0.as_secs_f64();
    view.object(|fields| {
        fields.count("at", at);
        fields.float("interval", interval);
        fields.list("nodes", &shown.nodes, |fields, node| {
            write_node(fields, node, backlog.get(node).copied());
        });
        fields.list("edges", &shown.edges, |fields, edge| {
            fields.text("from", &edge.from.id());
            fields.text("to", &edge.to.id());
            fields.float("rate", edge.rate);
            match edge.bytes_rate {
                Some(rate) => fields.float("bytes_rate", rate),
                None => fields.null("bytes_rate"),
            }
            fields.count("total", edge.total);
            match edge.latency_ms {
                Some((half, most)) => fields.object("latency_ms", |fields| {
                    fields.float("p50", half);
                    fields.float("p99", most);
                }),
                None => fields.null("latency_ms"),
            }
        });
        fields.object("left_out", |fields| {
            fields.count("nodes", shown.left_out_nodes);
            fields.count("edges", shown.left_out_edges);
        });
    })
}

fn write_node(fields: &mut Fields<'_>, node: &FlowNode, ready: Option<usize>) {
    fields.text("id", &node.id());
    fields.text("kind", node.kind.word());
    fields.text("name", &node.name);
    fields.text("vhost", &node.vhost);
    if let Some((protocol, user)) = &node.client {
        fields.text("protocol", protocol);
        fields.text("user", user);
    }
    if let Some(ready) = ready {
        fields.count("messages", ready);
    }
}

async fn as_graph(caller: Caller, query: Query, State(node): Api) -> Answer {
    let (shown, _) = wanted(&caller, &query, &node)?;
    let kind = (header::CONTENT_TYPE, "text/vnd.graphviz; charset=utf-8");
    Ok(([kind, NO_CACHE], dot::document(&shown)).into_response())
}
