//! What a gateway that runs is asked: `gatepost status`, `list`, `close`, `publish`, `get` and `health`.

use super::Printed;
use super::client::Client;
use crate::exit::Failure;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

/// What `gatepost list` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Connections,
    Channels,
    Consumers,
    Queues,
    Exchanges,
    Bindings,
    Sessions,
    Subscriptions,
    Retained,
    Vhosts,
    Users,
    Policies,
}

/// What to list, and how much of it.
#[derive(Args, Debug)]
pub struct Listing {
    /// What to list
    kind: Kind,
    /// Fields of the management API to show, such as name messages; a.b is the field b inside a
    columns: Vec<String>,
    /// In one vhost only; for sessions, subscriptions and retained messages the default is /
    #[arg(long)]
    vhost: Option<String>,
    /// Only what has this value in a field, as FIELD=VALUE; may be given several times
    #[arg(long = "where", value_name = "FIELD=VALUE")]
    filters: Vec<String>,
}

/// Which connections to close.
#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum Close {
    /// One connection, by the name that `gatepost list connections name` shows
    Connection {
        name: String,
        /// What its client and the log are told
        #[arg(long, default_value = "closed by the operator")]
        reason: String,
    },
    /// All connections of a user
    User {
        name: String,
        /// What the clients and the log are told
        #[arg(long, default_value = "closed by the operator")]
        reason: String,
    },
}

/// A message to publish.
#[derive(Args, Debug)]
pub struct Outgoing {
    /// amq.default: the routing key is the name of a queue
    exchange: String,
    routing_key: String,
    /// The message
    payload: String,
    #[arg(long, default_value = "/")]
    vhost: String,
}

/// Messages to look at or to take.
#[derive(Args, Debug)]
pub struct Fetch {
    queue: String,
    /// Take so many messages at most
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Take them out of the queue, instead of putting them back
    #[arg(long)]
    remove: bool,
    #[arg(long, default_value = "/")]
    vhost: String,
}

/// What to look at besides alarms and the service itself.
#[derive(Args, Debug)]
pub struct Checks {
    /// This port must listen; may be given several times
    #[arg(long, value_name = "PORT")]
    port: Vec<u16>,
    /// This protocol must be served, such as mqtt or amqp/ssl; may be given several times
    #[arg(long, value_name = "NAME")]
    protocol: Vec<String>,
    /// Warn of certificates that expire within so many days
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    certificate_days: u32,
}

impl Listing {
    /// What is declared can be read from the data directory, too.
    pub(super) fn must_run(&self) -> bool {
        matches!(self.kind, Kind::Connections | Kind::Channels | Kind::Consumers)
    }
}

impl Kind {
    fn path(self, vhost: Option<&str>) -> Vec<&str> {
        let (noun, of_vhost) = match self {
            Kind::Connections => ("connections", false),
            Kind::Channels => ("channels", false),
            Kind::Consumers => ("consumers", true),
            Kind::Queues => ("queues", true),
            Kind::Exchanges => ("exchanges", true),
            Kind::Bindings => ("bindings", true),
            Kind::Policies => ("policies", true),
            Kind::Vhosts => ("vhosts", false),
            Kind::Users => ("users", false),
            Kind::Sessions | Kind::Subscriptions => return vec!["gatepost", "sessions", vhost.unwrap_or("/")],
            Kind::Retained => return vec!["gatepost", "retained", vhost.unwrap_or("/")],
        };
        match (vhost, self, of_vhost) {
            (Some(vhost), Kind::Connections | Kind::Channels, _) => vec!["vhosts", vhost, noun],
            (Some(vhost), _, true) => vec![noun, vhost],
            _ => vec![noun],
        }
    }

    fn columns(self) -> &'static [&'static str] {
        match self {
            Kind::Connections => &["name", "user", "vhost", "protocol", "state"],
            Kind::Channels => &["name", "user", "consumer_count", "messages_unacknowledged"],
            Kind::Consumers => &[
                "queue.name",
                "channel_details.name",
                "consumer_tag",
                "ack_required",
                "prefetch_count",
            ],
            Kind::Queues => &["vhost", "name", "messages", "consumers"],
            Kind::Exchanges => &["vhost", "name", "type"],
            Kind::Bindings => &["vhost", "source", "destination_type", "destination", "routing_key"],
            Kind::Sessions => &["client_id", "user", "connected", "messages", "in_flight"],
            Kind::Subscriptions => &["client_id", "filter", "qos"],
            Kind::Retained => &["topic", "bytes"],
            Kind::Vhosts => &["name", "description"],
            Kind::Users => &["name", "tags"],
            Kind::Policies => &["vhost", "name", "pattern", "apply-to", "priority", "definition"],
        }
    }
}

pub(super) async fn list(asked: &Listing, client: &mut Client) -> Result<Printed, Failure> {
    if asked.vhost.is_some() && matches!(asked.kind, Kind::Vhosts | Kind::Users) {
        return Err(Failure::Usage("--vhost: vhosts and users are not in one".to_owned()));
    }
    let answer = client.get(&asked.kind.path(asked.vhost.as_deref())).await?;
    let mut rows = match (asked.kind, answer) {
        (Kind::Subscriptions, Value::Array(sessions)) => sessions.iter().flat_map(subscriptions).collect(),
        (Kind::Retained, mut page) => match page["items"].take() {
            Value::Array(items) => items,
            _ => Vec::new(),
        },
        (_, Value::Array(rows)) => rows,
        _ => Vec::new(),
    };
    let columns: Vec<String> = match &*asked.columns {
        [] => asked.kind.columns().iter().map(|name| (*name).to_owned()).collect(),
        named => named.to_vec(),
    };
    let mut filters = Vec::new();
    for filter in &asked.filters {
        let pair = filter.split_once('=');
        filters.push(pair.ok_or_else(|| Failure::Usage(format!("--where {filter}: expected FIELD=VALUE")))?);
    }
    let named = asked.columns.iter().map(String::as_str);
    for name in named.chain(filters.iter().map(|(name, _)| *name)) {
        // Of an empty list nobody can say what its fields are.
        if !rows.is_empty() && rows.iter().all(|row| field(row, name).is_none()) {
            return Err(Failure::Usage(unknown(name, &rows)));
        }
    }
    rows.retain(|row| {
        filters
            .iter()
            .all(|(name, wanted)| field(row, name).is_some_and(|value| text(value) == *wanted))
    });
    let shown = rows.iter().map(|row| {
        let members = columns
            .iter()
            .map(|name| (name.clone(), field(row, name).cloned().unwrap_or(Value::Null)));
        Value::Object(members.collect())
    });
    let shown: Vec<Value> = shown.collect();
    Ok(Some((columns, shown.into())))
}

fn unknown(name: &str, rows: &[Value]) -> String {
    let known = rows.iter().filter_map(Value::as_object).flat_map(|row| row.keys());
    let known: std::collections::BTreeSet<&str> = known.map(String::as_str).collect();
    let known: Vec<&str> = known.into_iter().collect();
    format!("there is no column {name}; there are {}", known.join(", "))
}

fn subscriptions(session: &Value) -> Vec<Value> {
    let subscriptions = session["subscriptions"].as_array().into_iter().flatten();
    let with_client = subscriptions.map(|subscription| {
        let mut row = subscription.clone();
        row["client_id"] = session["client_id"].clone();
        row
    });
    with_client.collect()
}

/// What is at `a`, or at `a.b`. A field's own name may have a dot.
fn field<'a>(row: &'a Value, name: &str) -> Option<&'a Value> {
    row.get(name).or_else(|| {
        let (outer, inner) = name.split_once('.')?;
        field(row.get(outer)?, inner)
    })
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// One line for each fact that an operator asks for first.
pub(super) async fn status(client: &mut Client) -> Result<Printed, Failure> {
    let overview = client.get(&["overview"]).await?;
    let nodes = client.get(&["nodes"]).await?;
    let node = &nodes[0];
    let facts = [
        ("node", &node["name"]),
        ("product", &overview["product_name"]),
        ("version", &overview["product_version"]),
        ("pid", &node["os_pid"]),
        ("uptime_ms", &node["uptime"]),
        ("data", &node["db_dir"]),
        ("connections", &overview["object_totals"]["connections"]),
        ("queues", &overview["object_totals"]["queues"]),
        ("consumers", &overview["object_totals"]["consumers"]),
        ("messages", &overview["queue_totals"]["messages"]),
        ("memory_used", &node["mem_used"]),
        ("memory_limit", &node["mem_limit"]),
        ("memory_alarm", &node["mem_alarm"]),
        ("disk_free", &node["disk_free"]),
        ("disk_free_limit", &node["disk_free_limit"]),
        ("disk_alarm", &node["disk_free_alarm"]),
        ("files_used", &node["fd_used"]),
        ("files_limit", &node["fd_total"]),
        ("listeners", &overview["listeners"]),
    ];
    let mut rows = Vec::new();
    for (name, value) in facts {
        match value {
            Value::Array(listeners) => {
                let one = |listener: &Value| {
                    let at = format!("{} {}", text(&listener["ip_address"]), text(&listener["port"]));
                    json!({ "name": "listener", "value": format!("{} {at}", text(&listener["protocol"])) })
                };
                rows.extend(listeners.iter().map(one));
            }
            value => rows.push(json!({ "name": name, "value": value })),
        }
    }
    Ok(Some((vec!["name".to_owned(), "value".to_owned()], rows.into())))
}

pub(super) async fn close(asked: &Close, client: &mut Client) -> Result<Printed, Failure> {
    match asked {
        Close::Connection { name, reason } => client.close_for(&["connections", name], reason).await?,
        Close::User { name, reason } => client.close_for(&["connections", "username", name], reason).await?,
    }
    Ok(None)
}

pub(super) async fn publish(asked: &Outgoing, client: &mut Client) -> Result<Printed, Failure> {
    let body = json!({
        "properties": {},
        "routing_key": asked.routing_key,
        "payload": asked.payload,
        "payload_encoding": "string",
    });
    let path = ["exchanges", &asked.vhost, &asked.exchange, "publish"];
    let answer = client.post_for(&path, &body).await?;
    if answer["routed"] == Value::Bool(true) {
        return Ok(None);
    }
    Err(Failure::DataDamaged(format!(
        "the message went nowhere: no queue takes {:?} of {}",
        asked.routing_key, asked.exchange
    )))
}

pub(super) async fn get(asked: &Fetch, client: &mut Client) -> Result<Printed, Failure> {
    let mode = if asked.remove {
        "ack_requeue_false"
    } else {
        "ack_requeue_true"
    };
    let body = json!({ "count": asked.count, "ackmode": mode, "encoding": "auto" });
    let list = client
        .post_for(&["queues", &asked.vhost, &asked.queue, "get"], &body)
        .await?;
    let columns = ["exchange", "routing_key", "redelivered", "payload_encoding", "payload"];
    Ok(Some((columns.map(str::to_owned).to_vec(), list)))
}

/// In the manner of monitoring plugins: one line, and 0 well, 1 warning, 2 critical, 3 unknown.
pub(super) async fn health(asked: &Checks, client: &mut Client) -> Result<(), Failure> {
    let mut checks = vec![
        (2, vec!["is-in-service".to_owned()]),
        (2, vec!["alarms".to_owned()]),
        (1, vec!["below-node-connection-limit".to_owned()]),
    ];
    let ports = asked
        .port
        .iter()
        .map(|port| vec!["port-listener".to_owned(), port.to_string()]);
    checks.extend(ports.map(|path| (2, path)));
    let protocols = asked
        .protocol
        .iter()
        .map(|name| vec!["protocol-listener".to_owned(), name.clone()]);
    checks.extend(protocols.map(|path| (2, path)));
    let days = asked.certificate_days.to_string();
    checks.push((1, vec!["certificate-expiration".to_owned(), days, "days".to_owned()]));
    let (mut worst, mut found) = (0, Vec::new());
    for (code, path) in &checks {
        let whole: Vec<&str> = ["health", "checks"]
            .into_iter()
            .chain(path.iter().map(String::as_str))
            .collect();
        if let Some(reason) = client.check(&whole).await? {
            worst = worst.max(*code);
            found.push(format!("{}: {reason}", path.join(" ")));
        }
    }
    match worst {
        0 => {
            println!("OK - {} checks passed", checks.len());
            Ok(())
        }
        1 => Err(Failure::Check(1, format!("WARNING - {}", found.join("; ")))),
        _ => Err(Failure::Check(2, format!("CRITICAL - {}", found.join("; ")))),
    }
}
