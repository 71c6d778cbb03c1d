//! Topic permissions as text: the topics of an exchange that a user may write to or read from.
//!
//! A permission is a list of patterns, one a line. A topic is permitted if a pattern matches it; a filter is permitted
//! if a pattern covers everything that the filter matches. A pattern is written as an MQTT filter, in which
//! `{username}`, `{client_id}` and `{vhost}` are replaced by those of the connection:
//!
//! ```text
//!   plant/{client_id}/#
//!   plant/+/temperature
//! ```
//!
//! A line that begins with `!` denies topics: `!plant/+/secret`. A filter that a denied pattern covers is refused. A
//! wider filter that is granted includes the denied topics, as in EMQX: a client that may subscribe to `#` receives
//! those topics too. So it is better to grant few topics than to deny some.
//!
//! RabbitMQ has regular expressions over routing keys instead. Those that are equivalent to a pattern are accepted: `.*`, and
//! `^` with whole levels (`^plant\.{username}\..*`, `^plant\.1$`). Others are refused, because there is no way to check a filter
//! against a regular expression.

use gatepost_core::access::TopicPattern;
use gatepost_core::message::Dialect;

/// A parsed list of patterns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Grants {
    pub granted: Vec<TopicPattern>,
    pub denied: Vec<TopicPattern>,
}

/// Reads one list.
///
/// # Errors
/// A line is not a pattern; the text says which.
pub(crate) fn parse(text: &str) -> Result<Grants, String> {
    let mut grants = Grants::default();
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix('!') {
            Some(denied) => grants.denied.push(pattern(denied)?),
            None => grants.granted.push(pattern(line)?),
        }
    }
    Ok(grants)
}

fn pattern(line: &str) -> Result<TopicPattern, String> {
    let refused = || format!("'{line}' is neither a topic filter nor a regular expression that says the same as one");
    // Everything, including topics that begin with `$`.
    if matches!(line, ".*" | "^.*" | "^.*$" | ".*$") {
        return TopicPattern::parse("#", Dialect::Dot).map_err(|_| refused());
    }
    if let Some(regex) = line.strip_prefix('^') {
        let key = levels(regex).ok_or_else(refused)?;
        return TopicPattern::parse(&key, Dialect::Dot).map_err(|_| refused());
    }
    if line.contains(".*") || line.contains("\\") {
        return Err(refused());
    }
    TopicPattern::parse(line, Dialect::Slash).map_err(|_| refused())
}

/// Translates the regular expression after `^` to a binding key, if one is equivalent.
fn levels(regex: &str) -> Option<String> {
    let (body, prefix) = match regex.strip_suffix('$') {
        Some(body) => match body.strip_suffix("\\..*") {
            Some(body) => (body, true),
            None => (body, false),
        },
        // Without `$` it matches any continuation, so it must end at the end of a level.
        None => (regex.strip_suffix(".*").unwrap_or(regex).strip_suffix("\\.")?, true),
    };
    let mut key = String::new();
    for (n, level) in body.split("\\.").enumerate() {
        let special = |c: char| "\\.*+?()[]|^$#".contains(c);
        if level.contains(special) || !braces_are_placeholders(level) {
            return None;
        }
        if n > 0 {
            key.push('.');
        }
        key.push_str(level);
    }
    if prefix {
        // At least one further level, which may be empty.
        key.push_str(".*.#");
    }
    Some(key)
}

fn braces_are_placeholders(level: &str) -> bool {
    let rest = ["{username}", "{client_id}", "{vhost}"]
        .iter()
        .fold(level.to_owned(), |rest, name| rest.replace(name, ""));
    !rest.contains(['{', '}'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dot(key: &str) -> TopicPattern {
        TopicPattern::parse(key, Dialect::Dot).expect("a key")
    }

    fn slash(filter: &str) -> TopicPattern {
        TopicPattern::parse(filter, Dialect::Slash).expect("a filter")
    }

    #[test]
    fn filters_are_taken_as_they_are() {
        assert_eq!(parse(""), Ok(Grants::default()));
        let grants = Grants {
            granted: vec![slash("plant/{client_id}/#"), slash("v1.5/+")],
            denied: vec![slash("plant/+/secret")],
        };
        assert_eq!(parse("plant/{client_id}/#\n!plant/+/secret\nv1.5/+\n"), Ok(grants));
        assert!(parse("a/#/b").is_err());
    }

    #[test]
    fn regular_expressions_are_taken_where_a_pattern_says_the_same() {
        for (regex, key) in [
            (".*", "#"),
            ("^.*$", "#"),
            ("^plant\\.", "plant.*.#"),
            ("^plant\\..*", "plant.*.#"),
            ("^plant\\..*$", "plant.*.#"),
            ("^plant\\.{username}\\..*", "plant.{username}.*.#"),
            ("^plant\\.1$", "plant.1"),
        ] {
            assert_eq!(parse(regex).map(|grants| grants.granted), Ok(vec![dot(key)]), "{regex}");
        }
        for regex in [
            "^plant",
            "^pl.nt\\.",
            "plant.*",
            "^(a|b)\\.",
            "^a\\.[0-9]+$",
            "^a{2}\\.",
            "a\\.b",
        ] {
            assert!(parse(regex).is_err(), "{regex}");
        }
    }
}
