//! The log for people: structured lines, their target, and (in [`lines`]) a limit on the lines per second that peers
//! can cause.

pub(crate) mod lines;
pub(crate) mod tail;

use crate::config::{Log, LogFormat};
use gatepost_core::event::LoginFailure;
use std::borrow::Cow;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _};
use std::sync::Mutex;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt, reload};

/// Values of `log.level`, for error messages.
pub(crate) const LEVELS: &str =
    "error, warn (or warning), info, debug or trace, or a list such as \"info,gatepost_mqtt=debug\"";

/// Whether `text` is a value of `log.level`.
pub(crate) fn is_level(text: &str) -> bool {
    filter(text).is_some()
}

/// Parses a list of levels, each for all modules or, after `module=`, for one. The library's parser is not used: it
/// takes an unknown word for a module's name and then logs nothing else.
fn filter(text: &str) -> Option<Targets> {
    // If the list names modules only, other modules keep the default level.
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

/// The running log. A reload changes its level, format and file.
pub(crate) struct Output {
    filter: reload::Handle<Targets, Registry>,
    lines: reload::Handle<Lines, Registry>,
}

/// The layer that writes lines.
type Lines = Box<dyn Layer<Registry> + Send + Sync>;

/// The new target of a changed log. It is opened early, so that a reload that fails later changes nothing.
pub(crate) struct Next(Lines);

impl Output {
    /// Sets the level. An invalid value changes nothing.
    pub(crate) fn set_level(&self, level: &str) {
        if let Some(filter) = filter(level) {
            // Fails only if the subscriber was dropped; it lives as long as the process.
            let _ = self.filter.reload(filter);
        }
    }

    /// Switches to the target that [`open`] returned.
    pub(crate) fn replace(&self, Next(lines): Next) {
        let _ = self.lines.reload(lines);
    }

    /// Opens the log's path again, after logrotate has moved the old file away.
    ///
    /// # Errors
    /// The file cannot be opened; the text names it, and lines still go to the old one.
    pub(crate) fn reopen(&self, log: &Log) -> Result<(), String> {
        if log.target != STDERR {
            self.replace(open(log)?);
        }
        Ok(())
    }
}

const STDERR: &str = "stderr";

/// Opens the target that `log` names.
///
/// # Errors
/// The file cannot be opened; the text names it.
pub(crate) fn open(log: &Log) -> Result<Next, String> {
    if log.target == STDERR {
        let layer = fmt::layer().with_writer(io::stderr);
        return Ok(Next(match log.format {
            LogFormat::Text => layer.with_ansi(io::stderr().is_terminal()).boxed(),
            LogFormat::Json => layer.json().flatten_event(true).boxed(),
        }));
    }
    let path = &log.target;
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = file.map_err(|error| format!("log.target: {path}: {error}"))?;
    let layer = fmt::layer().with_ansi(false).with_writer(Mutex::new(file));
    Ok(Next(match log.format {
        LogFormat::Text => layer.boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    }))
}

/// Starts the log as configured.
///
/// # Errors
/// The file cannot be opened; the text names it.
pub(crate) fn start(log: &Log) -> Result<Output, String> {
    let filter = filter(&log.level).ok_or_else(|| format!("log.level: expected {LEVELS}"))?;
    let (filter, level) = reload::Layer::new(filter);
    let (layer, lines) = reload::Layer::new(open(log)?.0);
    let layer = layer.and_then(tail::Tail).with_filter(filter);
    tracing_subscriber::registry().with(layer).init();
    Ok(Output { filter: level, lines })
}

/// A client's text for a log line, cut if it is long. (Control characters are escaped when the line is written.)
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => Cow::Owned(format!("{}...", text.get(..end).unwrap_or_default())),
        None => Cow::Borrowed(text),
    }
}

/// Maximum characters of a client's text in a log line.
const SHOWN_MAX: usize = 300;

/// Why a login was refused, for the log. Clients are told less.
pub(crate) fn why_refused(why: LoginFailure) -> &'static str {
    match why {
        LoginFailure::BadCredentials => "the user is unknown, or the password is wrong",
        LoginFailure::LoopbackOnly => "the user may only log in from this machine",
        LoginFailure::AnonymousRefused => "anonymous logins are off, or only permitted from this machine",
        LoginFailure::Full => "the limit on connections is reached",
        LoginFailure::Banned => "the user is banned",
        LoginFailure::Busy => "too many logins wait to be checked",
        LoginFailure::UnknownMechanism => "the mechanism is not supported",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bug: `warning` and misspelled levels were taken for a module's name, and nothing was logged any more.
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
    fn long_texts_of_clients_are_cut_between_characters() {
        assert_eq!(shown("short"), "short");
        let long = "\u{e4}".repeat(SHOWN_MAX + 1);
        assert_eq!(shown(&long), format!("{}...", "\u{e4}".repeat(SHOWN_MAX)));
    }
}
