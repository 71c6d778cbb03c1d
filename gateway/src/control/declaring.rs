//! `gatepost queue`, `gatepost exchange` and `gatepost binding`.

use super::client::Client;
use super::{Listed, list};
use crate::exit::Failure;
use clap::Subcommand;
use serde_json::{Map, Value, json};

#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum Queue {
    /// Create a queue, or check that an existing one is the same
    Declare {
        name: String,
        /// It is lost when the gateway restarts
        #[arg(long)]
        transient: bool,
        /// It is deleted with its last consumer
        #[arg(long)]
        auto_delete: bool,
        /// Such as x-max-length=1000 or x-queue-type=quorum; may be given several times
        #[arg(long = "argument", value_name = "NAME=VALUE")]
        arguments: Vec<String>,
        #[arg(long, default_value = "/")]
        vhost: String,
    },
    /// Delete a queue with its messages
    Delete {
        name: String,
        /// Not if it has messages
        #[arg(long)]
        if_empty: bool,
        /// Not if it has consumers
        #[arg(long)]
        if_unused: bool,
        #[arg(long, default_value = "/")]
        vhost: String,
    },
    /// List queues
    List {
        /// In one vhost
        #[arg(long)]
        vhost: Option<String>,
    },
    /// Drop the ready messages of a queue
    Purge {
        name: String,
        #[arg(long, default_value = "/")]
        vhost: String,
    },
}

#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum Exchange {
    /// Create an exchange, or check that an existing one is the same
    Declare {
        name: String,
        /// direct, fanout, topic or headers
        #[arg(default_value = "direct")]
        kind: String,
        /// It is lost when the gateway restarts
        #[arg(long)]
        transient: bool,
        /// It is deleted with its last binding
        #[arg(long)]
        auto_delete: bool,
        /// Only other exchanges can publish to it
        #[arg(long)]
        internal: bool,
        /// Such as alternate-exchange=lost; may be given several times
        #[arg(long = "argument", value_name = "NAME=VALUE")]
        arguments: Vec<String>,
        #[arg(long, default_value = "/")]
        vhost: String,
    },
    /// List exchanges
    List {
        /// In one vhost
        #[arg(long)]
        vhost: Option<String>,
    },
    /// Delete an exchange with its bindings
    Delete {
        name: String,
        /// Not if something is bound to it
        #[arg(long)]
        if_unused: bool,
        #[arg(long, default_value = "/")]
        vhost: String,
    },
}

#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum Binding {
    /// Bind a queue, or an exchange, to an exchange
    Add {
        source: String,
        destination: String,
        /// The routing key
        #[arg(default_value = "")]
        key: String,
        /// The destination is an exchange
        #[arg(long)]
        exchange: bool,
        /// Such as x-match=any; may be given several times
        #[arg(long = "argument", value_name = "NAME=VALUE")]
        arguments: Vec<String>,
        #[arg(long, default_value = "/")]
        vhost: String,
    },
}

pub(super) async fn queue(verb: &Queue, client: &mut Client) -> Result<Listed, Failure> {
    match verb {
        Queue::Declare {
            name,
            transient,
            auto_delete,
            arguments,
            vhost,
        } => {
            let body = json!({
                "durable": !transient, "auto_delete": auto_delete, "arguments": table(arguments)?,
            });
            client.put(&["queues", vhost, name], &body).await?;
        }
        Queue::Delete {
            name,
            if_empty,
            if_unused,
            vhost,
        } => {
            let conditions = [("if-empty", *if_empty), ("if-unused", *if_unused)];
            client.delete_if(&["queues", vhost, name], &conditions).await?;
        }
        Queue::List { vhost } => {
            let columns = &["vhost", "name", "messages", "consumers", "policy"];
            return listed(client, "queues", vhost.as_deref(), columns).await;
        }
        Queue::Purge { name, vhost } => client.delete(&["queues", vhost, name, "contents"]).await?,
    }
    Ok(None)
}

pub(super) async fn exchange(verb: &Exchange, client: &mut Client) -> Result<Listed, Failure> {
    match verb {
        Exchange::Declare {
            name,
            kind,
            transient,
            auto_delete,
            internal,
            arguments,
            vhost,
        } => {
            let body = json!({
                "type": kind, "durable": !transient, "auto_delete": auto_delete, "internal": internal,
                "arguments": table(arguments)?,
            });
            client.put(&["exchanges", vhost, name], &body).await?;
        }
        Exchange::List { vhost } => {
            let columns = &["vhost", "name", "type", "durable", "policy"];
            return listed(client, "exchanges", vhost.as_deref(), columns).await;
        }
        Exchange::Delete { name, if_unused, vhost } => {
            let conditions = [("if-unused", *if_unused)];
            client.delete_if(&["exchanges", vhost, name], &conditions).await?;
        }
    }
    Ok(None)
}

pub(super) async fn binding(verb: &Binding, client: &mut Client) -> Result<Listed, Failure> {
    let Binding::Add {
        source,
        destination,
        key,
        exchange,
        arguments,
        vhost,
    } = verb;
    let kind = if *exchange { "e" } else { "q" };
    let body = json!({ "routing_key": key, "arguments": table(arguments)? });
    client
        .post(&["bindings", vhost, "e", source, kind, destination], &body)
        .await?;
    Ok(None)
}

/// Lists all objects of a kind, or those of one vhost.
async fn listed(
    client: &mut Client,
    kind: &str,
    vhost: Option<&str>,
    columns: &'static [&'static str],
) -> Result<Listed, Failure> {
    match vhost {
        Some(vhost) => list(client, &[kind, vhost], columns).await,
        None => list(client, &[kind], columns).await,
    }
}

/// Parses arguments. A value that reads as a number, `true` or `false` becomes one; everything else is text.
fn table(arguments: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut table = Map::new();
    for argument in arguments {
        let (name, text) = argument
            .split_once('=')
            .ok_or_else(|| Failure::Usage(format!("'{argument}' is no NAME=VALUE")))?;
        let value = match serde_json::from_str(text) {
            Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
            _ => Value::from(text),
        };
        table.insert(name.to_owned(), value);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_numbers_flags_or_texts() {
        let arguments = [
            "x-max-length=10",
            "x-single-active-consumer=true",
            "x-queue-type=quorum",
            "k=a=b",
        ];
        let table = table(&arguments.map(str::to_owned)).expect("good");
        let expected = json!({
            "x-max-length": 10, "x-single-active-consumer": true, "x-queue-type": "quorum", "k": "a=b",
        });
        assert_eq!(Value::Object(table), expected);
        assert!(super::table(&["nothing".to_owned()]).is_err());
    }
}
