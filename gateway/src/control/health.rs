//! `gatepost health`: checks for monitoring, with the output of monitoring plugins.

use super::client::Client;
use super::table::Output;
use crate::exit::Failure;
use clap::Args;
use serde_json::json;

/// Checks besides alarms and the service itself.
#[derive(Args, Debug)]
pub struct Checks {
    /// This port must listen; may be given several times
    #[arg(long, value_name = "PORT")]
    port: Vec<u16>,
    /// This protocol must be served, such as mqtt or amqp/ssl; may be given several times
    #[arg(long, value_name = "NAME")]
    protocol: Vec<String>,
    /// Warn about certificates that expire within this many days
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    certificate_days: u32,
}

const WARNING: u8 = 1;
const CRITICAL: u8 = 2;
const UNKNOWN: u8 = 3;

/// The path of each check, and the exit code if it fails.
fn checks(asked: &Checks) -> Vec<(u8, Vec<String>)> {
    let path = |parts: &[&str]| parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>();
    let mut checks = vec![
        (CRITICAL, path(&["is-in-service"])),
        (CRITICAL, path(&["alarms"])),
        (WARNING, path(&["below-node-connection-limit"])),
        (
            WARNING,
            path(&["certificate-expiration", &asked.certificate_days.to_string(), "days"]),
        ),
    ];
    let ports = asked
        .port
        .iter()
        .map(|port| path(&["port-listener", &port.to_string()]));
    checks.extend(ports.map(|path| (CRITICAL, path)));
    let protocols = asked.protocol.iter().map(|name| path(&["protocol-listener", name]));
    checks.extend(protocols.map(|path| (CRITICAL, path)));
    checks
}

pub(super) async fn health(asked: &Checks, client: &mut Client) -> Result<Output, Failure> {
    let checks = checks(asked);
    let (mut worst, mut found) = (0, Vec::new());
    for (code, path) in &checks {
        let mut whole = vec!["health", "checks"];
        whole.extend(path.iter().map(String::as_str));
        if let Some(reason) = client.check(&whole).await? {
            worst = worst.max(*code);
            found.push(format!("{}: {reason}", path.join(" ")));
        }
    }
    let all_well = vec![format!("{} checks passed", checks.len())];
    Ok(verdict(worst, if found.is_empty() { &all_well } else { &found }))
}

/// One check by its path, as `rabbitmq-diagnostics` does it.
pub(super) async fn one(
    check: &[String],
    (within, unit): (Option<u64>, &str),
    client: &mut Client,
) -> Result<Output, Failure> {
    let within = within.unwrap_or(4).to_string();
    let mut path = vec!["health", "checks"];
    path.extend(check.iter().map(String::as_str));
    if check.first().is_some_and(|name| name == "certificate-expiration") {
        if check.len() == 1 {
            path.push(&within);
        }
        path.push(unit);
    }
    match client.check(&path).await? {
        Some(reason) => Err(Failure::Unavailable(format!("{}: {reason}", check.join(" ")))),
        None => Ok(Output::Nothing),
    }
}

/// The output if the gateway does not answer.
pub(super) fn unknown(failure: &Failure) -> Output {
    verdict(UNKNOWN, &[failure.to_string()])
}

fn verdict(code: u8, found: &[String]) -> Output {
    let word = match code {
        0 => "OK",
        WARNING => "WARNING",
        CRITICAL => "CRITICAL",
        _ => "UNKNOWN",
    };
    Output::Verdict {
        code,
        line: format!("{word} - {}", found.join("; ")),
        json: json!({ "status": word, "code": code, "found": found }),
    }
}
