//! The lines that are printed at the start: the listeners' addresses, and commands to try.

use crate::config::MANAGEMENT;
use crate::listener::{Bound, Carrier};
use crate::node::Node;
use crate::protocols;
use crate::terms::Terms;
use gatepost_core::keys::Address;
use std::fmt::Write as _;
use std::time::Duration;

/// The banner of a node that is ready.
pub(crate) fn text(node: &Node, ports: &[Bound], threads: usize, ready_in: Duration) -> String {
    let managements = node.config();
    let managements = managements
        .listeners
        .iter()
        .filter(|(_, keys)| keys.protocol == MANAGEMENT);
    let managements: Vec<_> = managements.map(|(name, _)| name.clone()).collect();
    let is_management = |port: &Bound| managements.contains(&port.name);
    let mut text = format!(
        "\nGatepost {} - ready in {} ms\n\n",
        env!("CARGO_PKG_VERSION"),
        ready_in.as_millis()
    );
    let config = node.config();
    let data = &config.node.data_dir;
    let data = std::fs::canonicalize(data).unwrap_or_else(|_| data.clone());
    let plural = if threads == 1 { "" } else { "s" };
    let _ = writeln!(text, "  node       {} ({threads} I/O thread{plural})", config.node.name);
    let _ = writeln!(text, "  data       {}", data.display());
    for port in ports {
        let note = match port.terms {
            None if is_management(port) => "  (the console in a browser; /api)",
            None => "  (/metrics, /healthz, /readyz)",
            Some(_) => match port.carrier {
                Carrier::Plain => "",
                Carrier::Tls => "  (TLS)",
                Carrier::Quic => "  (QUIC)",
            },
        };
        let _ = writeln!(text, "  {:10} {}{note}", port.name, port.address);
    }
    let has_guest = node.user(GUEST).is_some();
    let tries: Vec<String> = ports
        .iter()
        .filter(|port| port.carrier == Carrier::Plain)
        .filter_map(|port| match &port.address {
            Address::Ip(address) if is_management(port) => Some(format!(
                "http://localhost:{}   in a browser: the console (guest, guest)",
                address.port()
            )),
            Address::Ip(address) => try_it(port.terms.as_deref(), address.port()),
            Address::Unix(_) => None,
        })
        .map(|line| if has_guest { line } else { without_guest(&line) })
        .collect();
    if !tries.is_empty() {
        text.push_str("\n  Try it, from this machine:\n");
        if !has_guest {
            // The following lines need a user. In a container, for example, `guest` is not created.
            text.push_str("    gatepost user add NAME --tag administrator   makes a user\n");
        }
        for line in tries {
            let _ = writeln!(text, "    {line}");
        }
    }
    text
}

/// The user that a first start creates, unless the configuration or definitions name others.
const GUEST: &str = "guest";

/// The line with a user of the operator in the place of `guest`.
fn without_guest(line: &str) -> String {
    line.replace("guest:guest", "NAME:PASSWORD")
        .replace("(guest, guest)", "(your user and its password)")
}

fn try_it(terms: Option<&Terms>, port: u16) -> Option<String> {
    let line = match terms {
        Some(terms) if terms.websocket.is_some() => return None,
        Some(terms) => protocols::ALL.get(terms.protocol)?.try_it?,
        None => "curl localhost:{port}/metrics",
    };
    Some(line.replace("{port}", &port.to_string()))
}
