//! Patterns of topics in which placeholders stand for the connection.

use crate::message::Dialect;
use crate::topic::{InvalidFilter, Level, Levels, Pattern};

/// The topics that a permission covers: a pattern of levels in which `{username}`, `{client_id}` and `{vhost}` stand for
/// those of the connection. Their values are never read as wildcards or separators. If a connection
/// has no client id, a pattern with `{client_id}` matches nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPattern {
    pub(super) pattern: Pattern,
    /// Whether it has a placeholder.
    template: bool,
}

impl TopicPattern {
    /// Parses a pattern. In the slash dialect, a leading wildcard does not match topics that start with `$`, as in a
    /// subscription; in the dot dialect it does.
    ///
    /// # Errors
    /// [`InvalidFilter`], in the slash dialect only.
    pub fn parse(text: &str, dialect: Dialect) -> Result<TopicPattern, InvalidFilter> {
        let pattern = Pattern::parse(text, dialect)?;
        let has_placeholder =
            |level: &Level| matches!(level, Level::Literal(text) if PLACEHOLDERS.iter().any(|p| text.contains(p)));
        Ok(TopicPattern {
            template: pattern.levels().iter().any(has_placeholder),
            pattern,
        })
    }

    /// Whether the pattern differs between client ids.
    pub(super) fn depends_on_client(&self) -> bool {
        let has_client = |level: &Level| matches!(level, Level::Literal(text) if text.contains(CLIENT_ID));
        self.template && self.pattern.levels().iter().any(has_client)
    }

    /// Evaluates `ask` on the pattern for one connection. `false` if the pattern does not apply to the connection.
    pub(super) fn is_such(&self, who: Who<'_>, ask: impl FnOnce(&Pattern) -> bool) -> bool {
        if self.template {
            self.resolved(who).is_some_and(|pattern| ask(&pattern))
        } else {
            ask(&self.pattern)
        }
    }

    /// Whether it matches a topic, for one connection. Called for messages, so it builds no text.
    pub(super) fn matches(&self, topic: &Levels<'_>, who: Who<'_>) -> bool {
        if self.template {
            self.pattern
                .matches_by(topic, |level, found| is_filled_in(level, found, who))
        } else {
            self.pattern.matches(topic)
        }
    }

    /// The pattern for one connection; `None`: it does not apply to it.
    fn resolved(&self, who: Who<'_>) -> Option<Pattern> {
        self.pattern.replaced(|level| {
            if level.contains(CLIENT_ID) && who.client_id.is_none() {
                return None;
            }
            Some(filled_in(level, who))
        })
    }
}

pub(super) const USERNAME: &str = "{username}";
pub(super) const CLIENT_ID: &str = "{client_id}";
pub(super) const VHOST: &str = "{vhost}";
pub(super) const PLACEHOLDERS: [&str; 3] = [USERNAME, CLIENT_ID, VHOST];

/// Fills in the placeholders of `level` in one pass, so that a user named `{client_id}` is not replaced again.
pub(super) fn filled_in(level: &str, who: Who<'_>) -> Box<str> {
    let mut text = String::with_capacity(level.len());
    let mut rest = level;
    while let Some(at) = rest.find('{') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let values = [who.user, who.client_id.unwrap_or_default(), who.vhost];
        let found = PLACEHOLDERS
            .iter()
            .zip(values)
            .find(|(name, _)| rest.starts_with(**name));
        let (read, value) = found.map_or(("{", "{"), |(name, value)| (*name, value));
        text.push_str(value);
        rest = &rest[read.len()..];
    }
    text.push_str(rest);
    text.into()
}

/// Whether `found` equals [`filled_in`] of `level`, without building the text.
pub(super) fn is_filled_in(level: &str, found: &str, who: Who<'_>) -> bool {
    let (mut level, mut found) = (level, found);
    loop {
        let literal = level.find('{').unwrap_or(level.len());
        let Some(rest) = found.strip_prefix(&level[..literal]) else {
            return false;
        };
        (level, found) = (&level[literal..], rest);
        if level.is_empty() {
            return found.is_empty();
        }
        let values = [Some(who.user), who.client_id, Some(who.vhost)];
        let placeholder = PLACEHOLDERS
            .iter()
            .zip(values)
            .find(|(name, _)| level.starts_with(**name));
        let (read, value) = placeholder.map_or(("{", Some("{")), |(name, value)| (*name, value));
        let Some(rest) = value.and_then(|value| found.strip_prefix(value)) else {
            return false;
        };
        (level, found) = (&level[read.len()..], rest);
    }
}

/// The connection that a decision is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who<'a> {
    pub(crate) user: &'a str,
    pub(crate) client_id: Option<&'a str>,
    pub(crate) vhost: &'a str,
}
