//! The log for people: structured lines, and a lid on what a crowd of peers can make it say.

use crate::config::{Log, LogFormat};
use parking_lot::Mutex;
use std::fs::OpenOptions;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, fmt};

/// Sends log lines where the configuration says.
///
/// # Errors
/// The file cannot be opened; the text names it.
pub(crate) fn start(log: &Log) -> Result<(), String> {
    let filter: Targets = log.level.parse().map_err(|error| format!("log.level: {error}"))?;
    let layer = match log.target.as_str() {
        "stderr" => match log.format {
            LogFormat::Text => fmt::layer()
                .with_ansi(std::io::stderr().is_terminal())
                .with_writer(std::io::stderr)
                .boxed(),
            LogFormat::Json => fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(std::io::stderr)
                .boxed(),
        },
        path => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let file = file.map_err(|error| format!("log.target: {path}: {error}"))?;
            let layer = fmt::layer().with_ansi(false).with_writer(std::sync::Mutex::new(file));
            match log.format {
                LogFormat::Text => layer.boxed(),
                LogFormat::Json => layer.json().flatten_event(true).boxed(),
            }
        }
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
    Ok(())
}

/// Lets a number of lines a second through and counts the rest.
#[derive(Debug)]
pub(crate) struct Throttle {
    state: Mutex<(Instant, u32, u64)>,
    per_second: u32,
}

impl Throttle {
    /// Lets `per_second` lines through.
    pub(crate) fn new(per_second: u32) -> Throttle {
        Throttle {
            state: Mutex::new((Instant::now(), 0, 0)),
            per_second,
        }
    }

    /// Whether to write a line now; if so, how many were left out since the last.
    pub(crate) fn admit(&self) -> Option<u64> {
        let (since, lines, left_out) = &mut *self.state.lock();
        if since.elapsed() >= Duration::from_secs(1) {
            *since = Instant::now();
            *lines = 0;
        }
        if *lines >= self.per_second {
            *left_out += 1;
            return None;
        }
        *lines += 1;
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crowd_gets_its_share_of_lines_and_no_more() {
        let throttle = Throttle::new(3);
        let admitted = (0..100).filter(|_| throttle.admit().is_some()).count();
        assert_eq!(admitted, 3);
    }
}
