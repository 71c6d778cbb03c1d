//! Translates a `rabbitmq.conf`: a dotted key, `=` and a value on each line.

use super::draft::{Draft, quoted};

/// Beginnings of keys in `rabbitmq.conf` that no key of ours outside of sections has.
const PREFIXES: &[&str] = &[
    "auth_backends.",
    "auth_mechanisms.",
    "background_gc",
    "channel_max",
    "cluster_formation.",
    "cluster_name",
    "cluster_partition_handling",
    "collect_statistics",
    "consumer_timeout",
    "default_pass",
    "default_permissions.",
    "default_user",
    "default_vhost",
    "definitions.",
    "disk_free_limit.",
    "frame_max",
    "handshake_timeout",
    "heartbeat",
    "initial_frame_max",
    "listeners.ssl",
    "listeners.tcp",
    "load_definitions",
    "log.",
    "loopback_users",
    "management.",
    "max_message_size",
    "mqtt.",
    "num_acceptors.",
    "prometheus.",
    "proxy_protocol",
    "queue_master_locator",
    "ssl_options.",
    "stomp.",
    "tcp_listen_options.",
    "total_memory_available_override_value",
    "vm_memory_",
    "web_mqtt.",
    "web_stomp.",
];

/// Whether a line is one of `rabbitmq.conf`.
pub(super) fn is_line(line: &str) -> bool {
    let is_key = |key: &str| PREFIXES.iter().any(|prefix| key.starts_with(prefix));
    line.split_once('=').is_some_and(|(key, _)| is_key(key.trim()))
}

/// Translates a file.
pub(super) fn translate(text: &str) -> Draft {
    let mut draft = Draft::default();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let taken = line.split_once('=').is_some_and(|(key, value)| {
            let (key, value) = (key.trim(), value.trim().trim_matches('\''));
            listener(&mut draft, key, value) || tls(&mut draft, key, value) || node(&mut draft, key, value)
        });
        if !taken {
            draft.leave(line);
        }
    }
    draft
}

/// `mqtt.listeners.tcp.default = 1883`, `listeners.ssl.1 = 127.0.0.1:5671`, `stomp.listeners.tcp = none`.
fn listener(draft: &mut Draft, key: &str, value: &str) -> bool {
    let (name, rest) = match key.split_once(".listeners.") {
        Some((protocol @ ("mqtt" | "stomp"), rest)) => (protocol, rest),
        _ => match key.strip_prefix("listeners.") {
            Some(rest) => ("amqp", rest),
            None => match key {
                "management.tcp.port" => ("management", "tcp.default"),
                "management.ssl.port" => ("management", "ssl.default"),
                "prometheus.tcp.port" => ("metrics", "tcp.default"),
                "web_mqtt.tcp.port" => ("web_mqtt", "tcp.default"),
                "web_stomp.tcp.port" => ("web_stomp", "tcp.default"),
                _ => return false,
            },
        },
    };
    let bind = match rest.split('.').next() {
        Some("tcp") => "bind",
        Some("ssl") => "tls_bind",
        _ => return false,
    };
    let section = format!("listeners.{name}");
    if value == "none" {
        draft.set(&section, bind, "[]");
    } else if value.parse::<u16>().is_ok() {
        draft.push(&section, bind, &format!("[::]:{value}"));
    } else {
        draft.push(&section, bind, &value.replace("localhost", "127.0.0.1"));
    }
    true
}

fn tls(draft: &mut Draft, key: &str, value: &str) -> bool {
    let Some(key) = key.strip_prefix("ssl_options.") else {
        return false;
    };
    match (key, value) {
        ("certfile", _) => draft.set("tls", "cert", quoted(value)),
        ("keyfile", _) => draft.set("tls", "key", quoted(value)),
        ("cacertfile", _) => draft.set("tls", "client_ca", quoted(value)),
        ("verify", "verify_peer") => draft.set("tls", "client_auth", "\"optional\""),
        ("verify", _) => {}
        ("fail_if_no_peer_cert", "true") => draft.set("tls", "client_auth", "\"require\""),
        ("fail_if_no_peer_cert", _) => {}
        _ => return false,
    }
    true
}

fn node(draft: &mut Draft, key: &str, value: &str) -> bool {
    let is_number = value.parse::<u64>().is_ok();
    match key {
        "loopback_users" if value == "none" => draft.set("auth", "loopback_users", "[]"),
        "loopback_users.guest" if value == "false" => draft.set("auth", "loopback_users", "[]"),
        "heartbeat" if is_number => draft.set("limits", "heartbeat", quoted(&format!("{value}s"))),
        "channel_max" if is_number && value != "0" => draft.set("limits", "channel_max", value),
        "frame_max" if is_number && value != "0" => draft.set("limits", "frame_max", value),
        "max_message_size" if is_number => draft.set("limits", "max_message_size", value),
        "vm_memory_high_watermark.relative" => draft.set("memory", "budget", value),
        "vm_memory_high_watermark.absolute" => match bytes(value) {
            Some(bytes) => draft.set("memory", "budget", quoted(&bytes)),
            None => return false,
        },
        "disk_free_limit.absolute" => match bytes(value) {
            Some(bytes) => draft.set("disk", "free_limit", quoted(&bytes)),
            None => return false,
        },
        "cluster_name" => draft.set("node", "cluster_name", quoted(value)),
        "log.console.level" | "log.file.level" | "log.default.level" => match value {
            "debug" | "info" | "warning" | "error" => draft.set("log", "level", quoted(value)),
            "critical" => draft.set("log", "level", "\"error\""),
            _ => return false,
        },
        "mqtt.allow_anonymous" => {
            let who = if value == "true" { "\"allow\"" } else { "\"deny\"" };
            draft.set("mqtt", "anonymous", who);
        }
        "mqtt.exchange" => draft.set("mqtt", "exchange", quoted(value)),
        _ => return false,
    }
    true
}

/// A size such as `2GB` in bytes. In `rabbitmq.conf`, `GiB` and `G` are powers of two.
fn bytes(value: &str) -> Option<String> {
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let number: u64 = value.get(..digits)?.parse().ok()?;
    let factor = match value.get(digits..)?.trim() {
        "" | "B" => 1,
        "k" | "K" | "kiB" | "KiB" => 1 << 10,
        "M" | "MiB" => 1 << 20,
        "G" | "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return None,
    };
    Some(format!("{}B", number.checked_mul(factor)?))
}
