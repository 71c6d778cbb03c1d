//! The log for people: structured lines, and a limit on how many lines a second peers can cause.

use crate::config::{Log, LogFormat};
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt, reload};

/// Values of `log.level`, for people.
pub(crate) const LEVELS: &str =
    "error, warn (or warning), info, debug or trace, or a list such as \"info,gatepost_mqtt=debug\"";

/// Whether `text` is a value of `log.level`.
pub(crate) fn is_level(text: &str) -> bool {
    filter(text).is_some()
}

/// A list of levels, each for all modules or, after `module=`, for one. Parsed here because the library's own parser
/// takes a word that it does not know for a module's name, and then writes nothing else.
fn filter(text: &str) -> Option<Targets> {
    // A list that names modules only leaves the others as they are by default.
    let mut filter = Targets::new().with_default(LevelFilter::INFO);
    for part in text.split(',') {
        filter = match part.trim().split_once('=') {
            Some((module, word)) if is_module(module) => filter.with_target(module, level(word)?),
            Some(_) => return None,
            None => filter.with_default(level(part.trim())?),
        };
    }
    Some(filter)
}

fn level(word: &str) -> Option<LevelFilter> {
    Some(match word.to_ascii_lowercase().as_str() {
        "error" => LevelFilter::ERROR,
        "warn" | "warning" => LevelFilter::WARN,
        "info" => LevelFilter::INFO,
        "debug" => LevelFilter::DEBUG,
        "trace" => LevelFilter::TRACE,
        _ => return None,
    })
}

fn is_module(name: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    name.split("::").all(is_part)
}

/// Changes the level and the file of a log that is running.
pub(crate) struct Level {
    filter: reload::Handle<Targets, Registry>,
    /// Where the log is written, if that is a file, and its path.
    file: Option<(Sink, String)>,
}

/// A file that may be replaced while lines are written.
#[derive(Clone)]
struct Sink(Arc<Mutex<File>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().write_all(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().flush()
    }
}

impl Level {
    /// Writes lines of this level from here on. A value that is none changes nothing.
    pub(crate) fn set(&self, level: &str) {
        if let Some(filter) = filter(level) {
            // Fails only if the log is gone, which lives as long as the process.
            let _ = self.filter.reload(filter);
        }
    }

    /// Goes on in a file of the same path: logrotate has moved the old one away.
    ///
    /// # Errors
    /// It cannot be opened; the text names it, and the log goes on where it was.
    pub(crate) fn reopen(&self) -> Result<(), String> {
        if let Some((sink, path)) = &self.file {
            *sink.0.lock() = open(path)?;
        }
        Ok(())
    }
}

fn open(path: &str) -> Result<File, String> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.map_err(|error| format!("log.target: {path}: {error}"))
}

/// Sends log lines where the configuration says.
///
/// # Errors
/// The file cannot be opened; the text names it.
pub(crate) fn start(log: &Log) -> Result<Level, String> {
    let filter = filter(&log.level).ok_or_else(|| format!("log.level: expected {LEVELS}"))?;
    let (filter, level) = reload::Layer::new(filter);
    let mut file = None;
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
            let sink = Sink(Arc::new(Mutex::new(open(path)?)));
            file = Some((sink.clone(), path.to_owned()));
            let layer = fmt::layer().with_ansi(false).with_writer(move || sink.clone());
            match log.format {
                LogFormat::Text => layer.boxed(),
                LogFormat::Json => layer.json().flatten_event(true).boxed(),
            }
        }
    };
    tracing_subscriber::registry().with(layer.with_filter(filter)).init();
    Ok(Level { filter: level, file })
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

    /// `warning` and misspelled levels used to be taken for a module's name, and nothing was written any more.
    #[test]
    fn a_word_that_is_no_level_is_refused_and_none_silences_the_log() {
        for word in [
            "",
            "off",
            "none",
            "loud",
            "info,",
            "warn,loud",
            "gatepost=loud",
            "=info",
            "a b=info",
        ] {
            assert!(!is_level(word), "{word}");
        }
        for (text, info) in [
            ("warning", false),
            ("WARN", false),
            ("info", true),
            ("gatepost_mqtt=error", true),
        ] {
            let filter = filter(text).unwrap_or_else(|| panic!("{text} is a level"));
            assert!(filter.would_enable("gatepost", &tracing::Level::ERROR), "{text}");
            assert_eq!(filter.would_enable("gatepost", &tracing::Level::INFO), info, "{text}");
        }
        let filter = filter("warning,gatepost_mqtt=debug").expect("levels");
        assert!(filter.would_enable("gatepost_mqtt::session", &tracing::Level::DEBUG));
    }

    #[test]
    fn a_crowd_gets_its_share_of_lines_and_no_more() {
        let throttle = Throttle::new(3);
        let admitted = (0..100).filter(|_| throttle.admit().is_some()).count();
        assert_eq!(admitted, 3);
    }
}
