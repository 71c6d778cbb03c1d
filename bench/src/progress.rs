//! The progress line on standard error: rewritten in place on a terminal, a line from time to time in a log.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Progress {
    live: bool,
    /// Prefix of each line of [`Progress::say`].
    subject: String,
    shown: Option<Instant>,
    /// Messages and time at the last line, for the rate since then.
    before: (u64, Instant),
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            live: std::io::stderr().is_terminal(),
            subject: String::new(),
            shown: None,
            before: (0, Instant::now()),
        }
    }

    /// Shows `messages` of `total` (if known), at a readable interval.
    pub(crate) fn show(&mut self, messages: u64, total: Option<u64>, rest: &str) {
        let now = Instant::now();
        if !self.is_due(now) {
            return;
        }
        let rate = messages.saturating_sub(self.before.0) as f64 / now.duration_since(self.before.1).as_secs_f64();
        self.before = (messages, now);
        let share = total
            .filter(|total| *total > 0)
            .map(|total| format!(" ({} %)", messages * 100 / total));
        let ahead = total.and_then(|total| time_ahead(total.saturating_sub(messages), rate));
        self.say(&format!(
            "{messages} messages{}, {rate:.0}/s{}{rest}",
            share.unwrap_or_default(),
            ahead.unwrap_or_default()
        ));
    }

    /// Shows what the run waits for, at a readable interval.
    pub(crate) fn wait(&mut self, line: impl FnOnce() -> String) {
        if self.is_due(Instant::now()) {
            self.say(&line());
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let every = if self.live {
            Duration::from_millis(200)
        } else {
            Duration::from_secs(5)
        };
        let is_due = now.duration_since(self.shown.unwrap_or(self.before.1)) >= every;
        if is_due {
            self.shown = Some(now);
        }
        is_due
    }

    /// Sets the prefix of further lines.
    pub(crate) fn about(&mut self, subject: String) {
        self.subject = subject;
    }

    /// Shows a line of text.
    pub(crate) fn say(&self, line: &str) {
        let mut stderr = std::io::stderr().lock();
        let subject = &self.subject;
        // A closed standard error is no reason to stop measuring.
        let _ = if self.live {
            write!(stderr, "\r{subject}{line}\x1b[K")
        } else {
            writeln!(stderr, "{subject}{line}")
        };
    }

    /// Ends the line, so that the next output begins on an empty one.
    pub(crate) fn done(&self) {
        if self.live && self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// The remaining time at this rate, if it is worth showing.
fn time_ahead(messages: u64, rate: f64) -> Option<String> {
    let seconds = messages as f64 / rate;
    match seconds {
        seconds if !seconds.is_finite() || seconds < 5.0 => None,
        seconds if seconds < 120.0 => Some(format!(", {seconds:.0} s to go")),
        seconds => Some(format!(", {:.0} min to go", seconds / 60.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_ahead_is_told_where_it_is_worth_it() {
        assert_eq!(time_ahead(100, 100.0), None);
        assert_eq!(time_ahead(100, 0.0), None);
        assert_eq!(time_ahead(10_000, 100.0).as_deref(), Some(", 100 s to go"));
        assert_eq!(time_ahead(10_000_000, 25_000.0).as_deref(), Some(", 7 min to go"));
    }
}
