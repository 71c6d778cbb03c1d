//! `gatepost-bench` loads any broker that speaks AMQP 0-9-1, MQTT, STOMP or NATS, checks that every message arrives
//! once, in order and whole, and reports messages per second, latencies and the broker's resources. `compare` does this
//! for several brokers, `backlog` for deep queues, `hostile` beside clients that misbehave.
//!
//! ```text
//! options -> plan -> run: connect (blocking) -> worker threads (epoll) -> watch -> report
//!                          wire/{amqp,mqtt,...}     body, verify, latency   meter
//! ```
//!
//! It shares no code with the gateway: a mistake in a shared codec would hide in both ends of the measurement. Linux
//! only, since the broker's resources are read from `/proc`.

mod backlog;
mod body;
mod compare;
mod connect;
mod handshakes;
mod hostile;
mod idle;
mod latency;
mod meter;
mod options;
mod plan;
mod progress;
mod report;
mod run;
mod shared;
mod sweep;
mod transport;
mod verify;
mod wire;
mod worker;

use anyhow::Context;
use clap::Parser;
use std::process::ExitCode;

#[derive(Debug, Parser)]
#[command(version, about = "Loads AMQP, MQTT, STOMP and NATS brokers with verified messages")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Load one running broker
    Run(Box<options::RunOptions>),
    /// Load one running broker at rising rates, and draw the results
    Sweep(Box<sweep::SweepOptions>),
    /// Start Gatepost and other brokers one after the other, load each, and compare them
    Compare(Box<compare::CompareOptions>),
    /// Start Gatepost and other brokers one after the other, leave a deep queue in each, and report its cost
    Backlog(Box<backlog::BacklogOptions>),
    /// Open and close connections to one running broker, and report the cost of one
    Handshakes(handshakes::HandshakesOptions),
    /// Start Gatepost and report how clients that misbehave affect a well-behaved pair
    Hostile(Box<hostile::HostileOptions>),
}

/// Exits with 0 if every message came once, in order and whole, with 1 if not, and with 2 if nothing could be measured.
fn main() -> ExitCode {
    idle::raise_file_limit();
    let clean = match Cli::parse().command {
        Command::Run(options) => run_once(&options),
        Command::Sweep(options) => sweep::sweep(&options),
        Command::Compare(options) => compare::compare(&options),
        Command::Backlog(options) => backlog::backlog(&options),
        Command::Handshakes(options) => handshakes::handshakes(&options),
        Command::Hostile(options) => hostile::hostile(&options),
    };
    match clean {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("gatepost-bench: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run_once(options: &options::RunOptions) -> anyhow::Result<bool> {
    let plan = options.plan()?;
    plan.check()?;
    let idle = match options.connections() {
        0 => None,
        count => Some(idle::Idle::open(&plan.publish_to, count, plan.pid)?),
    };
    let mut report = run::run(&plan)?;
    if let (Some(idle), Some(cost)) = (&idle, &mut report.broker) {
        cost.rss_bytes_per_idle_connection = idle.rss_bytes_each;
    }
    println!("{report}");
    if let Some(path) = options.json() {
        let json = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(report.clean)
}
