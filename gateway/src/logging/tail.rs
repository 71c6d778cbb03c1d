//! The newest lines of the log, kept in memory for the console.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::time::SystemTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Maximum lines kept.
const LINES_MAX: usize = 500;
/// Maximum bytes of a line. Longer ones are cut.
const LINE_BYTES_MAX: usize = 600;

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub time: SystemTime,
    pub level: Level,
    pub text: String,
}

static NEWEST: Mutex<VecDeque<Line>> = Mutex::new(VecDeque::new());

/// The newest lines of at least this severity, newest first, at most `limit`.
pub(crate) fn newest(level: Level, limit: usize) -> Vec<Line> {
    let lines = NEWEST.lock();
    let wanted = lines.iter().rev().filter(|line| line.level <= level);
    wanted.take(limit).cloned().collect()
}

/// The layer that keeps lines.
pub(super) struct Tail;

impl<S: Subscriber> Layer<S> for Tail {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let line = Line {
            time: SystemTime::now(),
            level: *event.metadata().level(),
            text: text.0,
        };
        let mut lines = NEWEST.lock();
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(line);
    }
}

/// `message name=value …` without control characters, since a client may have chosen the values.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut part = String::new();
        let _ = if field.name() == "message" {
            write!(part, "{value:?}")
        } else {
            write!(part, " {}={value:?}", field.name())
        };
        let room = LINE_BYTES_MAX.saturating_sub(self.0.len());
        let cut = (0..=room.min(part.len())).rev().find(|end| part.is_char_boundary(*end));
        let part = part.get(..cut.unwrap_or(0)).unwrap_or_default();
        self.0
            .extend(part.chars().map(|c| if c.is_control() { ' ' } else { c }));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    #[test]
    fn the_newest_lines_are_kept_short_and_printable() {
        let log = tracing_subscriber::registry().with(Tail);
        tracing::subscriber::with_default(log, || {
            for n in 0..LINES_MAX {
                tracing::info!(n, "filler of the tail's test");
            }
            tracing::warn!(
                client = "a\nb",
                long = "x".repeat(10_000),
                "login refused by the tail's test"
            );
        });
        let warnings = newest(Level::WARN, 100);
        let line = warnings
            .iter()
            .find(|line| line.text.contains("by the tail's test"))
            .expect("kept");
        assert!(
            line.text
                .starts_with("login refused by the tail's test client=a b long=xxx"),
            "{}",
            line.text
        );
        assert_eq!(line.text.len(), LINE_BYTES_MAX);
        assert!(newest(Level::INFO, usize::MAX).len() <= LINES_MAX);
        assert!(warnings.iter().all(|line| line.level <= Level::WARN));
    }
}
