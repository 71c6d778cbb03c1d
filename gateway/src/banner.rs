//! The lines a person sees at the start: where everything is, and how to try it.

use crate::listener::Bound;
use crate::node::Node;
use std::fmt::Write as _;
use std::time::Duration;

/// The banner of a node that is ready.
pub(crate) fn text(node: &Node, ports: &[Bound], threads: usize, ready_in: Duration) -> String {
    let mut text = format!(
        "\nGatepost {} - ready in {} ms\n\n",
        env!("CARGO_PKG_VERSION"),
        ready_in.as_millis()
    );
    let data = &node.config.node.data_dir;
    let data = std::fs::canonicalize(data).unwrap_or_else(|_| data.clone());
    let plural = if threads == 1 { "" } else { "s" };
    let _ = writeln!(
        text,
        "  node     {} ({threads} I/O thread{plural})",
        node.config.node.name
    );
    let _ = writeln!(text, "  data     {}", data.display());
    for port in ports {
        let note = if port.name == "metrics" {
            "  (/metrics, /healthz, /readyz)"
        } else {
            ""
        };
        let _ = writeln!(text, "  {:8} {}{note}", port.name, port.address);
    }
    let tries: Vec<String> = ports
        .iter()
        .filter_map(|port| try_it(port.name, port.address.port()))
        .collect();
    if !tries.is_empty() {
        text.push_str("\n  Try it, from this machine:\n");
        for line in tries {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}

fn try_it(name: &str, port: u16) -> Option<String> {
    Some(match name {
        "mqtt" => format!("mosquitto_sub -p {port} -t 'plant/#' &  mosquitto_pub -p {port} -t plant/1/temp -m 21.5"),
        "amqp" => format!("amqp://guest:guest@localhost:{port}/   (topic plant/1/temp is amq.topic, key plant.1.temp)"),
        "metrics" => format!("curl localhost:{port}/metrics"),
        _ => return None,
    })
}
