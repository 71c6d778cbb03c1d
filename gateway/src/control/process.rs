//! Verbs about the process: `gatepost reload`, `stop`, `await-startup`, `environment`, `report`, and those about its
//! log.

use super::asking;
use super::client::Client;
use super::table::{Output, cell};
use super::target::{Format, Target};
use crate::config::Layers;
use crate::exit::Failure;
use serde_json::{Map, Value, json};
use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

/// Pause between two checks while waiting.
const PAUSE: Duration = Duration::from_millis(50);

/// Makes the gateway read its configuration again, and prints the changes.
pub(super) async fn reload(client: &mut Client) -> Result<Output, Failure> {
    let answer = client.post_for(&["gatepost", "reload"], &json!({})).await?;
    let changes = answer["changes"].clone();
    if changes.as_array().is_none_or(Vec::is_empty) {
        eprintln!("no key is different; certificates and other files were read again");
    }
    Ok(rows(&["key", "from", "to", "applies"], changes))
}

pub(super) async fn rotate_logs(client: &mut Client) -> Result<Output, Failure> {
    client.post(&["gatepost", "log", "rotate"], &json!({})).await?;
    Ok(Output::Nothing)
}

pub(super) async fn set_log_level(level: &str, client: &mut Client) -> Result<Output, Failure> {
    client
        .put(&["gatepost", "log", "level"], &json!({ "level": level }))
        .await?;
    Ok(Output::Nothing)
}

/// Stops the gateway, and waits until it has stopped: until the lock of its data directory is free.
pub(super) async fn stop(layers: &Layers, target: &Target, client: &mut Client) -> Result<Output, Failure> {
    if target.url.is_some() {
        return Err(Failure::Usage(
            "stop goes through the control socket, on the gateway's machine".to_owned(),
        ));
    }
    match client.post_for(&["gatepost", "stop"], &json!({})).await {
        // It may stop before its answer is sent.
        Ok(_) | Err(Failure::Unavailable(_)) => {}
        Err(other) => return Err(other),
    }
    let lock = layers.data_dir().join("LOCK");
    let began = Instant::now();
    while is_held(&lock)? {
        if began.elapsed() > target.timeout() {
            let seconds = target.timeout().as_secs();
            return Err(Failure::TimedOut(format!(
                "it is stopping, and was not done within {seconds} s (--timeout)"
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(Output::Nothing)
}

fn is_held(lock: &Path) -> Result<bool, Failure> {
    let failed = |error: std::io::Error| Failure::Unavailable(format!("{}: {error}", lock.display()));
    match File::open(lock).map_err(failed)?.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Waits until the gateway serves clients.
pub(super) async fn await_startup(layers: &Layers, target: &Target) -> Result<Output, Failure> {
    let began = Instant::now();
    loop {
        let failure = match is_in_service(layers, target).await {
            Ok(None) => return Ok(Output::Nothing),
            Ok(Some(reason)) => reason,
            // Waiting does not help then.
            Err(failure @ (Failure::Usage(_) | Failure::Configuration(_))) => return Err(failure),
            Err(failure) => failure.to_string(),
        };
        if began.elapsed() > target.timeout() {
            let seconds = target.timeout().as_secs();
            return Err(Failure::TimedOut(format!("after {seconds} s (--timeout): {failure}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn is_in_service(layers: &Layers, target: &Target) -> Result<Option<String>, Failure> {
    let mut client = Client::reach(layers, target, true).await?;
    client.check(&["health", "checks", "is-in-service"]).await
}

/// The configuration in effect.
pub(super) async fn environment(changed: bool, client: &mut Client) -> Result<Output, Failure> {
    let mut keys = client.get(&["gatepost", "configuration"]).await?;
    if let (Some(keys), true) = (keys.as_array_mut(), changed) {
        keys.retain(|key| key["changed"] == Value::Bool(true));
    }
    Ok(rows(&["key", "value", "default"], keys))
}

/// Maximum lines of the log in a report.
const REPORT_LINES: &str = "100";

/// Prints a report for diagnosis: no messages, no passwords; names of clients only in the lines of the log.
pub(super) async fn report(format: Format, client: &mut Client) -> Result<Output, Failure> {
    let status = asking::status(client).await?;
    let environment = environment(true, client).await?;
    let overview = client.get(&["overview"]).await?;
    let mut log = client
        .get_with(&["gatepost", "log"], &[("limit", REPORT_LINES)])
        .await?;
    let lines = log["lines"].take();
    let totals = |key: &str| {
        let members = overview[key].as_object().into_iter().flatten();
        let counts = members.filter(|(_, value)| value.is_u64());
        let row = |(name, value): (&String, &Value)| json!({ "name": name, "value": value });
        rows(&["name", "value"], counts.map(row).collect())
    };
    let parts = [
        ("status", status),
        ("configuration", environment),
        ("objects", totals("object_totals")),
        ("messages", totals("queue_totals")),
        ("rates", totals("message_stats")),
        ("bans", rows(&["kind", "value", "origin"], client.get(&["bans"]).await?)),
        ("log", rows(&["timestamp", "level", "text"], lines)),
    ];
    if format == Format::Json {
        let members = parts.into_iter().map(|(name, part)| {
            let value = match part {
                Output::List { rows, .. } => rows,
                Output::Facts(facts) => {
                    let members = facts.into_iter().map(|(name, value)| (name.to_owned(), value));
                    Value::Object(members.collect())
                }
                _ => Value::Null,
            };
            (name.to_owned(), value)
        });
        let whole = Value::Object(members.collect::<Map<_, _>>());
        return Ok(Output::Text(format!("{whole:#}\n")));
    }
    let mut text = String::new();
    for (name, part) in parts {
        let _ = writeln!(text, "== {}\n{}", cell(Some(&json!(name))), part.text(format, true));
    }
    Ok(Output::Text(text))
}

fn rows(columns: &[&str], rows: Value) -> Output {
    Output::List {
        columns: columns.iter().map(|name| (*name).to_owned()).collect(),
        rows,
        is_chosen: false,
    }
}
