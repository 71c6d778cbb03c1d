//! `gatepost trace`: follows single messages from their publish to their end.

use super::client::Client;
use super::table::{Output, cell};
use super::target::Format;
use crate::exit::{Failure, print};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::time::Duration;

#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum Trace {
    /// Trace the next messages that match all conditions. Prints the trace's id
    Start(Wanted),
    /// List traces
    List {
        /// In one vhost
        #[arg(long)]
        vhost: Option<String>,
    },
    /// Show the hops of a trace's messages
    Show {
        id: String,
        /// Continue with new hops until the trace has ended. Ctrl-C ends only this command
        #[arg(long)]
        follow: bool,
    },
    /// End and delete a trace
    Delete { id: String },
}

/// The messages to trace.
#[derive(Args, Debug)]
pub struct Wanted {
    /// Messages whose topic matches this filter, such as plant/+/temp
    #[arg(long, value_name = "FILTER")]
    topic: Option<String>,
    /// Messages whose routing key matches this pattern, such as plant.*.temp
    #[arg(long, value_name = "PATTERN", conflicts_with = "topic")]
    routing_key: Option<String>,
    /// Messages to this exchange; amq.default is the default one
    #[arg(long, value_name = "NAME")]
    exchange: Option<String>,
    /// Messages with this property: message-id, correlation-id, content-type, reply-to, type, app-id, user-id or header:NAME
    #[arg(long, value_name = "NAME=VALUE")]
    property: Option<String>,
    /// Maximum number of messages
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
    messages: u64,
    /// For how long
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    #[arg(long, default_value = "/")]
    vhost: String,
    /// Print the hops as they come, until the trace has ended. Ctrl-C ends only this command
    #[arg(long)]
    follow: bool,
}

impl Wanted {
    fn body(&self) -> Result<Value, Failure> {
        let mut body = Map::new();
        let named = [&self.topic, &self.routing_key, &self.exchange, &self.property];
        if named.iter().all(|wanted| wanted.is_none()) {
            let text = "say what to trace: --topic, --routing-key, --exchange or --property";
            return Err(Failure::Usage(text.to_owned()));
        }
        let given = [
            ("vhost", Some(&self.vhost)),
            ("topic", self.topic.as_ref()),
            ("routing_key", self.routing_key.as_ref()),
            ("exchange", self.exchange.as_ref()),
        ];
        for (key, value) in given {
            body.extend(value.map(|value| (key.to_owned(), json!(value))));
        }
        if let Some(property) = &self.property {
            let (name, value) = property
                .split_once('=')
                .ok_or_else(|| Failure::Usage("--property: expected NAME=VALUE".to_owned()))?;
            body.insert("property".to_owned(), json!(name));
            body.insert("value".to_owned(), json!(value));
        }
        body.insert("messages".to_owned(), json!(self.messages));
        body.insert("seconds".to_owned(), json!(self.seconds));
        Ok(Value::Object(body))
    }
}

const HOPS: &[&str] = &["message", "routing_key", "after_ms", "hop", "queue", "client", "detail"];
const TRACES: &[&str] = &[
    "id",
    "vhost",
    "topic",
    "routing_key",
    "exchange",
    "property",
    "value",
    "state",
    "caught",
    "messages_max",
];
/// Maximum messages of a trace.
const ALL: &str = "1000";
/// How often new hops are fetched.
const EVERY: Duration = Duration::from_secs(1);

pub(super) async fn act(verb: &Trace, format: Format, client: &mut Client) -> Result<Output, Failure> {
    match verb {
        Trace::Start(wanted) => {
            let trace = client.post_for(&["gatepost", "trace"], &wanted.body()?).await?;
            let id = trace["id"].as_str().unwrap_or_default();
            if wanted.follow {
                return follow(id, format, client).await;
            }
            Ok(match format {
                Format::Json => Output::Text(format!("{trace:#}\n")),
                _ => Output::Text(format!("{id}\n")),
            })
        }
        Trace::List { vhost } => {
            let query: Vec<(&str, &str)> = vhost.iter().map(|vhost| ("vhost", vhost.as_str())).collect();
            let rows = client.get_with(&["gatepost", "trace"], &query).await?;
            Ok(listed(TRACES, rows))
        }
        Trace::Show { id, follow: true } => follow(id, format, client).await,
        Trace::Show { id, follow: false } => Ok(listed(HOPS, Value::Array(hops(&show(id, client).await?)))),
        Trace::Delete { id } => {
            client.delete(&["gatepost", "trace", id]).await?;
            Ok(Output::Nothing)
        }
    }
}

fn listed(columns: &[&str], rows: Value) -> Output {
    Output::List {
        columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        rows,
        is_chosen: false,
    }
}

async fn show(id: &str, client: &mut Client) -> Result<Value, Failure> {
    client.get_with(&["gatepost", "trace", id], &[("count", ALL)]).await
}

/// A row for each hop, message by message.
fn hops(trace: &Value) -> Vec<Value> {
    let messages = trace["messages"].as_array().into_iter().flatten();
    messages.flat_map(hops_of).collect()
}

fn hops_of(message: &Value) -> impl Iterator<Item = Value> + '_ {
    message["hops"].as_array().into_iter().flatten().map(|hop| {
        json!({
            "message": message["number"].as_u64().map(|number| number + 1),
            "routing_key": message["routing_key"],
            "at": hop["at"],
            "after_ms": hop["after_ms"],
            "hop": hop["hop"],
            "queue": hop.get("queue").unwrap_or(&json!("")),
            "client": hop["client"]["name"].as_str().unwrap_or_default(),
            "detail": detail(hop),
        })
    })
}

/// Further details of a hop.
fn detail(hop: &Value) -> String {
    let mut parts = Vec::new();
    let numbers = [
        ("queues", "queues"),
        ("ahead", "messages ahead"),
        ("packet_id", "packet id"),
    ];
    for (key, what) in numbers {
        parts.extend(
            hop[key]
                .as_u64()
                .filter(|n| key != "ahead" || *n > 0)
                .map(|n| format!("{what} {n}")),
        );
    }
    let exchange = |key: &str| {
        let name = hop[key].as_str()?;
        Some(if name.is_empty() { "amq.default" } else { name })
    };
    parts.extend(exchange("source").map(|source| format!("from {source}")));
    if let Some(exchange) = exchange("exchange") {
        // An exchange that passes a message on keeps its key.
        let key = hop["routing_key"].as_str().filter(|_| hop["hop"] != "passed_on");
        let key = key.map_or_else(String::new, |key| format!(" with {key}"));
        parts.push(format!("to {exchange}{key}"));
    }
    if hop["redelivered"] == true {
        parts.push("redelivered".to_owned());
    }
    if hop["ack_required"] == false {
        parts.push("not to be acknowledged".to_owned());
    }
    parts.extend(hop["reason"].as_str().map(str::to_owned));
    parts.join(", ")
}

/// Prints hops as they come.
async fn follow(id: &str, format: Format, client: &mut Client) -> Result<Output, Failure> {
    let mut printed: HashMap<usize, usize> = HashMap::new();
    loop {
        let trace = show(id, client).await?;
        let mut text = String::new();
        for (number, message) in trace["messages"].as_array().into_iter().flatten().enumerate() {
            let before = printed.entry(number).or_default();
            for row in hops_of(message).skip(*before) {
                *before += 1;
                text += &match format {
                    Format::Json => format!("{row}\n"),
                    _ => line(&row),
                };
            }
        }
        print(&text)?;
        if trace["state"] == "ended" {
            return Ok(Output::Nothing);
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn line(row: &Value) -> String {
    let shown = |key: &str| cell(row.get(key));
    let parts = ["hop", "queue", "client", "detail"].map(shown);
    let known: Vec<&str> = parts
        .iter()
        .map(String::as_str)
        .filter(|part| !part.is_empty())
        .collect();
    let (message, key, after) = (shown("message"), shown("routing_key"), shown("after_ms"));
    format!("{message:>4} {key} {after:>8} ms  {}\n", known.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hop_is_a_row_with_what_is_known_of_it() {
        let hop = json!({
            "at": 5, "after_ms": 3, "hop": "dead_lettered", "queue": "work", "exchange": "", "routing_key": "dead",
        });
        let trace = json!({ "messages": [{ "number": 0, "routing_key": "k", "hops": [hop] }] });
        let rows = hops(&trace);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0]["detail"], "to amq.default with dead");
        assert_eq!(
            line(&rows[0]),
            "   1 k        3 ms  dead_lettered work to amq.default with dead\n"
        );
        let pass = json!({ "hop": "passed_on", "source": "plant", "exchange": "audit", "routing_key": "k" });
        assert_eq!(detail(&pass), "from plant, to audit");
        let told = json!({ "redelivered": true, "ack_required": false, "reason": "why", "ahead": 0, "queues": 2 });
        assert_eq!(detail(&told), "queues 2, redelivered, not to be acknowledged, why");
    }
}
