//! `gatepost status` and `gatepost close`.

use super::client::Client;
use super::table::Output;
use crate::exit::Failure;
use clap::Subcommand;
use serde_json::{Value, json};

/// Which connections to close.
#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum Close {
    /// One connection, by the name that `gatepost list connections name` shows
    Connection {
        name: String,
        /// What its client and the log are told
        #[arg(long, default_value = REASON)]
        reason: String,
    },
    /// All connections of a user
    User {
        name: String,
        /// What the clients and the log are told
        #[arg(long, default_value = REASON)]
        reason: String,
    },
    /// All connections, or those of a vhost
    All {
        #[arg(long)]
        vhost: Option<String>,
        /// What the clients and the log are told
        #[arg(long, default_value = REASON)]
        reason: String,
    },
}

const REASON: &str = "closed by the operator";

/// Prints the state of the gateway.
pub(super) async fn status(client: &mut Client) -> Result<Output, Failure> {
    let overview = client.get(&["overview"]).await?;
    let nodes = client.get(&["nodes"]).await?;
    let node = &nodes[0];
    let listeners = overview["listeners"].as_array().into_iter().flatten();
    let listeners = listeners.map(|listener| {
        let text = |key: &str| listener[key].as_str().unwrap_or_default().to_owned();
        json!(format!(
            "{} {} {}",
            text("protocol"),
            text("ip_address"),
            listener["port"]
        ))
    });
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
        ("listener", &Value::Array(listeners.collect())),
    ];
    Ok(Output::Facts(facts.map(|(name, value)| (name, value.clone())).to_vec()))
}

pub(super) async fn close(asked: &Close, client: &mut Client) -> Result<Output, Failure> {
    match asked {
        Close::Connection { name, reason } => client.close_for(&["connections", name], reason).await?,
        Close::User { name, reason } => {
            // If the user does not exist, nothing would be closed, and nobody would notice the mistake.
            client.get(&["users", name]).await.map_err(|failure| match failure {
                Failure::DataDamaged(_) => Failure::NoSuchUser(format!("no such user: '{name}'")),
                other => other,
            })?;
            client.close_for(&["connections", "username", name], reason).await?;
        }
        Close::All { vhost, reason } => close_all(vhost.as_deref(), reason, client).await?,
    }
    Ok(Output::Nothing)
}

async fn close_all(vhost: Option<&str>, reason: &str, client: &mut Client) -> Result<(), Failure> {
    let all = match vhost {
        Some(vhost) => client.get(&["vhosts", vhost, "connections"]).await?,
        None => client.get(&["connections"]).await?,
    };
    let names = all.as_array().into_iter().flatten();
    for name in names.filter_map(|connection| connection["name"].as_str()) {
        match client.close_for(&["connections", name], reason).await {
            // It has been closed meanwhile.
            Err(Failure::DataDamaged(_)) => {}
            closed => closed?,
        }
    }
    Ok(())
}
