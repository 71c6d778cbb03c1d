//! `gatepost top`: rates, queues and connections, refreshed every few seconds.

use super::client::Client;
use super::table::cell;
use crate::exit::{Failure, print};
use clap::{Args, ValueEnum};
use rustix::termios::tcgetwinsize;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// What to show, and how often.
#[derive(Args, Debug)]
pub struct Watching {
    /// Print one frame and end, as is done if standard output is no terminal. Its rates are over --interval
    #[arg(long)]
    once: bool,
    /// Seconds between two frames
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    interval: u64,
    /// Order of the queues
    #[arg(long, value_enum, default_value_t = By::Rate)]
    by: By,
}

/// The sort key of the queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// Incoming messages a second
    Rate,
    /// Waiting messages
    Messages,
    /// Names
    Name,
}

/// Lines and columns if the terminal does not say.
const USUAL: (usize, usize) = (40, 120);
/// Lines for everything but the two lists.
const HEAD: usize = 9;
/// Maximum queues and connections that are examined: those with the highest counters. More would cost the gateway much
/// work.
const PAGE: &str = "500";
const QUEUE_COLUMNS: &str =
    "vhost,name,messages_ready,messages_unacknowledged,consumers,message_stats.publish,message_stats.deliver_get";
const CONNECTION_COLUMNS: &str = "vhost,name,user,user_provided_name,protocol,channels,recv_oct,send_oct";

/// Switches to the terminal's other screen, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
const HOME: &str = "\x1b[H";
const REST_OF_LINE: &str = "\x1b[K\r\n";
const REST_OF_SCREEN: &str = "\x1b[J";

pub(super) async fn top(asked: &Watching, client: &mut Client) -> Result<(), Failure> {
    let mut before = look(asked, client).await?;
    let interval = Duration::from_secs(asked.interval);
    if asked.once || !io::stdout().is_terminal() {
        tokio::time::sleep(interval).await;
        let lines = look(asked, client).await?.lines(asked, &before, USUAL);
        return print(&lines.iter().map(|line| line.clone() + "\n").collect::<String>());
    }
    let stopped = |error: io::Error| Failure::Internal(format!("cannot handle signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(stopped)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(stopped)?;
    print(ENTER)?;
    let ended = loop {
        let size = size_of_terminal();
        let now = match look(asked, client).await {
            Ok(now) => now,
            Err(failure) => break Err(failure),
        };
        // No line end after the last line: the terminal would scroll.
        let lines = now.lines(asked, &before, size).join(REST_OF_LINE);
        if let Err(failure) = print(&format!("{HOME}{lines}{REST_OF_SCREEN}")) {
            break Err(failure);
        }
        before = now;
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            _ = interrupt.recv() => break Ok(()),
            _ = terminate.recv() => break Ok(()),
        }
    };
    print(LEAVE)?;
    ended
}

fn size_of_terminal() -> (usize, usize) {
    match tcgetwinsize(io::stdout()) {
        // A terminal that does not know its size reports 0.
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row.into(), size.ws_col.into()),
        _ => USUAL,
    }
}

/// The values at one moment.
struct Moment {
    at: Instant,
    overview: Value,
    node: Value,
    queues: Vec<Value>,
    connections: Vec<Value>,
    /// Counters of queues and connections: incoming and outgoing.
    counts: HashMap<String, (u64, u64)>,
}

async fn look(asked: &Watching, client: &mut Client) -> Result<Moment, Failure> {
    let overview = client.get(&["overview"]).await?;
    let mut nodes = client.get(&["nodes"]).await?;
    let (sort, reverse) = match asked.by {
        By::Rate => ("message_stats.publish", "true"),
        By::Messages => ("messages", "true"),
        By::Name => ("name", "false"),
    };
    let queues = page(client, "queues", QUEUE_COLUMNS, (sort, reverse)).await?;
    let connections = page(client, "connections", CONNECTION_COLUMNS, ("recv_oct", "true")).await?;
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let of_queue = |queue: &Value| {
        let stats = &queue["message_stats"];
        (key(queue), (number(&stats["publish"]), number(&stats["deliver_get"])))
    };
    let of_connection = |connection: &Value| {
        let counts = (number(&connection["recv_oct"]), number(&connection["send_oct"]));
        (key(connection), counts)
    };
    let counts = queues.iter().map(of_queue).chain(connections.iter().map(of_connection));
    Ok(Moment {
        at: Instant::now(),
        counts: counts.collect(),
        overview,
        node: nodes[0].take(),
        queues,
        connections,
    })
}

/// A unique key of an object; queues and connections do not collide.
fn key(object: &Value) -> String {
    json!([object["vhost"], object["name"], object["protocol"]]).to_string()
}

impl Moment {
    /// The lines of one frame, with rates since `before`.
    fn lines(&self, asked: &Watching, before: &Moment, (rows, columns): (usize, usize)) -> Vec<String> {
        let room = rows.saturating_sub(HEAD).max(2);
        let (for_queues, for_connections) = (room.div_ceil(2), room / 2);
        let rated = |objects: &[Value]| -> Vec<(Value, (f64, f64))> {
            objects
                .iter()
                .map(|object| (object.clone(), self.rates(before, &key(object))))
                .collect()
        };
        let busiest = |objects: &mut Vec<(Value, (f64, f64))>| {
            objects.sort_by(|(_, a), (_, b)| (b.0 + b.1).total_cmp(&(a.0 + a.1)));
        };
        let (mut queues, mut connections) = (rated(&self.queues), rated(&self.connections));
        if asked.by == By::Rate {
            busiest(&mut queues);
        }
        busiest(&mut connections);
        let mut lines = head(&self.overview, &self.node);
        lines.push(String::new());
        lines.push(format!(
            "{:<40} {:>10} {:>10} {:>9} {:>10} {:>10}",
            "QUEUE", "READY", "UNSETTLED", "CONSUMERS", "IN/s", "OUT/s"
        ));
        lines.extend(
            queues
                .iter()
                .take(for_queues)
                .map(|(object, rates)| queue(object, *rates)),
        );
        lines.push(String::new());
        lines.push(format!(
            "{:<40} {:<16} {:<12} {:>8} {:>10} {:>10}",
            "CONNECTION", "USER", "PROTOCOL", "CHANNELS", "FROM B/s", "TO B/s"
        ));
        lines.extend(
            connections
                .iter()
                .take(for_connections)
                .map(|(object, rates)| connection(object, *rates)),
        );
        lines.truncate(rows);
        lines.iter().map(|line| line.chars().take(columns).collect()).collect()
    }

    fn rates(&self, before: &Moment, key: &str) -> (f64, f64) {
        let (Some(now), Some(then)) = (self.counts.get(key), before.counts.get(key)) else {
            return (0.0, 0.0);
        };
        let seconds = (self.at - before.at).as_secs_f64().max(0.001);
        let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
        (rate(now.0, then.0), rate(now.1, then.1))
    }
}

async fn page(
    client: &mut Client,
    what: &str,
    columns: &str,
    (sort, reverse): (&str, &str),
) -> Result<Vec<Value>, Failure> {
    let query = [
        ("page", "1"),
        ("page_size", PAGE),
        ("columns", columns),
        ("sort", sort),
        ("sort_reverse", reverse),
    ];
    let mut answer = client.get_with(&[what], &query).await?;
    Ok(match answer["items"].take() {
        Value::Array(items) => items,
        _ => Vec::new(),
    })
}

fn head(overview: &Value, node: &Value) -> Vec<String> {
    let totals = |name: &str| count(&overview["object_totals"][name]);
    let messages = |name: &str| count(&overview["queue_totals"][name]);
    let rate = |name: &str| per_second(&overview["message_stats"][format!("{name}_details")]);
    let bytes = |name: &str| size(node[name].as_f64().unwrap_or(0.0));
    let alarms: Vec<&str> = [("mem_alarm", "MEMORY"), ("disk_free_alarm", "DISK")]
        .into_iter()
        .filter_map(|(key, name)| (node[key] == Value::Bool(true)).then_some(name))
        .collect();
    let alarms = if alarms.is_empty() {
        "none".to_owned()
    } else {
        alarms.join(", ")
    };
    vec![
        format!(
            "{}  {} {}  up {}  alarms: {alarms}",
            cell(Some(&node["name"])),
            cell(Some(&overview["product_name"])),
            cell(Some(&overview["product_version"])),
            up(node["uptime"].as_u64().unwrap_or(0)),
        ),
        format!(
            "connections {}  channels {}  consumers {}  queues {}  messages {} ({} ready, {} unsettled)",
            totals("connections"),
            totals("channels"),
            totals("consumers"),
            totals("queues"),
            messages("messages"),
            messages("messages_ready"),
            messages("messages_unacknowledged"),
        ),
        format!(
            "a second: in {}  out {}  confirmed {}  settled {}  redelivered {}",
            rate("publish"),
            rate("deliver_get"),
            rate("confirm"),
            rate("ack"),
            rate("redeliver"),
        ),
        format!(
            "memory {} of {}  disk {} free (alarm under {})  files {} of {}",
            bytes("mem_used"),
            bytes("mem_limit"),
            bytes("disk_free"),
            bytes("disk_free_limit"),
            count(&node["fd_used"]),
            count(&node["fd_total"]),
        ),
    ]
}

fn queue(queue: &Value, (into, out): (f64, f64)) -> String {
    let name = match queue["vhost"].as_str() {
        None | Some("/") => cell(Some(&queue["name"])),
        Some(_) => format!("{}: {}", cell(Some(&queue["vhost"])), cell(Some(&queue["name"]))),
    };
    format!(
        "{} {:>10} {:>10} {:>9} {into:>10.1} {out:>10.1}",
        short(&name, 40),
        count(&queue["messages_ready"]),
        count(&queue["messages_unacknowledged"]),
        count(&queue["consumers"]),
    )
}

fn connection(connection: &Value, (from, to): (f64, f64)) -> String {
    let name = match connection["user_provided_name"].as_str() {
        Some(_) => cell(Some(&connection["user_provided_name"])),
        None => cell(Some(&connection["name"])),
    };
    format!(
        "{} {} {} {:>8} {from:>10.1} {to:>10.1}",
        short(&name, 40),
        short(&cell(Some(&connection["user"])), 16),
        short(&cell(Some(&connection["protocol"])), 12),
        count(&connection["channels"]),
    )
}

/// Exactly this many characters.
fn short(text: &str, width: usize) -> String {
    let cut = if text.chars().count() > width {
        text.chars().take(width - 1).chain(['~']).collect()
    } else {
        text.to_owned()
    };
    format!("{cut:<width$}")
}

fn count(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".to_owned(), |n| n.to_string())
}

fn per_second(details: &Value) -> String {
    details["rate"]
        .as_f64()
        .map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"))
}

fn size(bytes: f64) -> String {
    let mut value = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return format!("{value:.1} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

fn up(ms: u64) -> String {
    let minutes = ms / 60_000;
    let mut text = String::new();
    if minutes >= 24 * 60 {
        let _ = write!(text, "{} d ", minutes / (24 * 60));
    }
    let _ = write!(text, "{}:{:02} h", minutes / 60 % 24, minutes % 60);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_keep_their_width_and_figures_are_short() {
        assert_eq!(short("abc", 5), "abc  ");
        assert_eq!(short("abcdef", 5), "abcd~");
        assert_eq!(size(512.0), "512.0 B");
        assert_eq!(size(1536.0 * 1024.0), "1.5 MiB");
        assert_eq!(up(59_000), "0:00 h");
        assert_eq!(up(26 * 3_600_000 + 120_000), "1 d 2:02 h");
        assert_eq!(per_second(&Value::Null), "-");
    }
}
