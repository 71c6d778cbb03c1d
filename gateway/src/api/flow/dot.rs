//! The flow map as input for Graphviz: `curl … /api/gatepost/flow.dot | dot -Tsvg > flow.svg`.

use super::map::Shown;
use super::node::{FlowNode, NodeKind};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// The whole document.
pub(super) fn document(shown: &Shown) -> String {
    let mut out = String::from(
        "digraph flow {\n  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\"];\n",
    );
    let mut numbers: BTreeMap<&Arc<FlowNode>, usize> = BTreeMap::new();
    for (number, node) in shown.nodes.iter().enumerate() {
        numbers.insert(node, number);
        let shape = match node.kind {
            NodeKind::Client => "box",
            NodeKind::Exchange => "hexagon",
            NodeKind::Topic | NodeKind::Others => "ellipse",
            NodeKind::Queue => "cylinder",
        };
        let name = match (&*node.name, node.kind) {
            ("", NodeKind::Exchange) => "(default exchange)",
            (name, _) => name,
        };
        let mut label = escaped(name);
        if let Some((protocol, user)) = &node.client {
            let _ = write!(label, "\\n{}, {}", escaped(protocol), escaped(user));
        }
        if *node.vhost != *"/" {
            let _ = write!(label, "\\n{}", escaped(&node.vhost));
        }
        let _ = writeln!(out, "  n{number} [shape={shape}, label=\"{label}\"];");
    }
    for edge in &shown.edges {
        let (Some(from), Some(to)) = (numbers.get(&edge.from), numbers.get(&edge.to)) else {
            continue;
        };
        let mut label = format!("{:.1}/s", edge.rate);
        if let Some((half, most)) = edge.latency_ms {
            let _ = write!(label, "\\np50 {half} ms, p99 {most} ms");
        }
        let style = if edge.carries_dead_letters() {
            ", style=dashed"
        } else {
            ""
        };
        let _ = writeln!(out, "  n{from} -> n{to} [label=\"{label}\"{style}];");
    }
    out.push_str("}\n");
    out
}

/// A name in a quoted label. A backslash begins an escape there, such as `\N`, which Graphviz would replace.
fn escaped(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::map::ShownEdge;
    use super::*;

    #[test]
    fn names_cannot_break_out_of_their_labels() {
        let node = |kind, name: &str| FlowNode::new(&"/".into(), kind, &name.into());
        let nodes = vec![
            node(NodeKind::Exchange, ""),
            node(NodeKind::Queue, "a\"]; b -> c; \\N\n"),
        ];
        let edge = ShownEdge {
            from: Arc::clone(&nodes[0]),
            to: Arc::clone(&nodes[1]),
            rate: 1.25,
            bytes_rate: None,
            total: 6,
            latency_ms: Some((1.0, 20.0)),
        };
        let back = ShownEdge {
            from: Arc::clone(&nodes[1]),
            to: Arc::clone(&nodes[0]),
            latency_ms: None,
            ..edge.clone()
        };
        let shown = Shown {
            nodes,
            edges: vec![edge, back],
            ..Shown::default()
        };
        let document = document(&shown);
        let lines: Vec<&str> = document.lines().skip(4).collect();
        assert_eq!(
            lines,
            [
                "  n0 [shape=hexagon, label=\"(default exchange)\"];",
                "  n1 [shape=cylinder, label=\"a\\\"]; b -> c; \\\\N \"];",
                "  n0 -> n1 [label=\"1.2/s\\np50 1 ms, p99 20 ms\"];",
                "  n1 -> n0 [label=\"1.2/s\", style=dashed];",
                "}",
            ]
        );
    }
}
