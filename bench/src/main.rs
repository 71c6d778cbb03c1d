//! `gatepost-bench`: loads any broker that speaks AMQP 0-9-1, MQTT, STOMP or NATS, checks that every message comes once, in order and
//! whole, and tells messages per second, latencies and what the broker spent; `compare` does so for several brokers side by
//! side, `backlog` for deep queues, `hostile` beside clients that misbehave.
//!
//! ```text
//! options -> plan -> run: connect (blocking) -> worker threads (epoll) -> watch -> report
//!                          wire/{amqp,mqtt,...}     body, verify, latency   meter
//! ```
//!
//! It shares no code with the gateway: a mistake in a codec must not hide in both ends of the measurement. Linux only, since
//! what a broker costs is read from `/proc`.

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
    /// Load one broker that runs already
    Run(Box<options::RunOptions>),
    /// Load one broker that runs already at rising rates, and draw what comes of it
    Sweep(Box<sweep::SweepOptions>),
    /// Start Gatepost and its peers one after the other, load each, and print them side by side
    Compare(Box<compare::CompareOptions>),
    /// Start Gatepost and its peers one after the other, leave a deep queue in each, and tell what it costs
    Backlog(Box<backlog::BacklogOptions>),
    /// Open and close connections to one broker that runs already, and tell what one costs it
    Handshakes(handshakes::HandshakesOptions),
    /// Start Gatepost and tell what a well-behaved pair notices of clients that misbehave
    Hostile(Box<hostile::HostileOptions>),
}

/// Exits with 0 when every message came once, in order and whole, with 1 when not, and with 2 when nothing could be measured.
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
