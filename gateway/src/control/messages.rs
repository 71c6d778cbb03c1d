//! `gatepost publish` and `gatepost get`.

use super::client::Client;
use super::table::Output;
use crate::exit::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// A message to publish.
#[derive(Args, Debug)]
pub struct Outgoing {
    /// amq.default: the routing key is the name of a queue
    exchange: String,
    routing_key: String,
    /// The message. Without it and without --file it is read from standard input
    #[arg(allow_hyphen_values = true)]
    payload: Option<String>,
    /// The file with the message; -: standard input
    #[arg(long, value_name = "FILE", conflicts_with = "payload")]
    file: Option<PathBuf>,
    /// A property of the message, such as delivery_mode=2, content_type=text/plain or expiration=60000; may be given
    /// several times
    #[arg(long = "property", value_name = "NAME=VALUE")]
    properties: Vec<String>,
    #[arg(long, default_value = "/")]
    vhost: String,
}

/// Messages to fetch.
#[derive(Args, Debug)]
pub struct Fetch {
    queue: String,
    /// Maximum messages to fetch
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Remove them from the queue, instead of requeuing them
    #[arg(long)]
    remove: bool,
    #[arg(long, default_value = "/")]
    vhost: String,
}

/// Maximum bytes of a message that is read: more than any gateway accepts, and less than this machine's memory.
const PAYLOAD_MAX: u64 = 1 << 30;
const STDIN: &str = "-";
/// Properties that are numbers in the API.
const NUMBERS: [&str; 3] = ["delivery_mode", "priority", "timestamp"];

impl Outgoing {
    fn payload(&self) -> Result<Vec<u8>, Failure> {
        if let Some(text) = &self.payload {
            return Ok(text.clone().into_bytes());
        }
        let file = self.file.as_deref().unwrap_or(Path::new(STDIN));
        let mut payload = Vec::new();
        let read = if file.as_os_str() == STDIN {
            io::stdin().take(PAYLOAD_MAX).read_to_end(&mut payload)
        } else {
            File::open(file).and_then(|file| file.take(PAYLOAD_MAX).read_to_end(&mut payload))
        };
        read.map_err(|error| Failure::Usage(format!("{}: {error}", file.display())))?;
        Ok(payload)
    }

    fn properties(&self) -> Result<Map<String, Value>, Failure> {
        let mut members = Map::new();
        for property in &self.properties {
            let wrong = || Failure::Usage(format!("--property {property}: expected NAME=VALUE"));
            let (name, value) = property.split_once('=').ok_or_else(wrong)?;
            let value = match value.parse::<i64>() {
                Ok(number) if NUMBERS.contains(&name) => json!(number),
                _ => json!(value),
            };
            members.insert(name.to_owned(), value);
        }
        Ok(members)
    }
}

pub(super) async fn publish(asked: &Outgoing, client: &mut Client) -> Result<Output, Failure> {
    // A body that is not text is sent as base64, so that it arrives unchanged.
    let (payload, encoding) = match String::from_utf8(asked.payload()?) {
        Ok(text) => (text, "string"),
        Err(bytes) => (STANDARD.encode(bytes.as_bytes()), "base64"),
    };
    let body = json!({
        "properties": asked.properties()?,
        "routing_key": asked.routing_key,
        "payload": payload,
        "payload_encoding": encoding,
    });
    let path = ["exchanges", &asked.vhost, &asked.exchange, "publish"];
    let answer = client.post_for(&path, &body).await?;
    if answer["routed"] == Value::Bool(true) {
        return Ok(Output::Nothing);
    }
    Err(Failure::DataDamaged(format!(
        "the message went nowhere: no queue takes {:?} of {}",
        asked.routing_key, asked.exchange
    )))
}

pub(super) async fn get(asked: &Fetch, client: &mut Client) -> Result<Output, Failure> {
    let mode = if asked.remove {
        "ack_requeue_false"
    } else {
        "ack_requeue_true"
    };
    let body = json!({ "count": asked.count, "ackmode": mode, "encoding": "auto" });
    let rows = client
        .post_for(&["queues", &asked.vhost, &asked.queue, "get"], &body)
        .await?;
    let columns = ["exchange", "routing_key", "redelivered", "payload_encoding", "payload"];
    Ok(Output::List {
        columns: columns.map(str::to_owned).to_vec(),
        rows,
        is_chosen: false,
    })
}
