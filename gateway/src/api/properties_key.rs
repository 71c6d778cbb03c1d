//! The properties key: identifies a binding among those between the same two ends, in paths and lists.

use gatepost_core::properties::{Table, Value};
use std::fmt::Write as _;

/// The form-encoded routing key, and a hash of the arguments if there are any. `~` means that there is neither.
pub(crate) fn properties_key(key: &str, arguments: &Table) -> String {
    if arguments.is_empty() {
        return if key.is_empty() { "~".to_owned() } else { quoted(key) };
    }
    format!("{}~{}", quoted(key), hash(arguments))
}

/// Form-encodes a text, with `~` escaped too, because it marks the hash.
fn quoted(key: &str) -> String {
    let mut quoted = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' => quoted.push(char::from(byte)),
            b' ' => quoted.push('+'),
            byte => _ = write!(quoted, "%{byte:02X}"),
        }
    }
    quoted
}

/// The same hash for the same arguments, in any order and with any integer width. It differs from RabbitMQ's, which is
/// computed from Erlang terms; clients treat the whole key as opaque.
fn hash(arguments: &Table) -> String {
    let mut texts: Vec<String> = arguments
        .0
        .iter()
        .map(|(name, value)| format!("{name}={}", text(value)))
        .collect();
    texts.sort();
    format!("{:08x}", crc32c::crc32c(texts.join("\0").as_bytes()))
}

fn text(value: &Value) -> String {
    match value.as_int() {
        Some(n) => n.to_string(),
        None => format!("{value:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As in RabbitMQ 3.10.8, except for the hash.
    #[test]
    fn a_key_is_escaped_as_in_forms_and_told_from_one_with_arguments() {
        let none = Table::default();
        assert_eq!(properties_key("", &none), "~");
        assert_eq!(properties_key("a b.#", &none), "a+b.%23");
        assert_eq!(properties_key("a~é/x", &none), "a%7E%C3%A9%2Fx");
        let mut one = Table::default();
        one.push("h", Value::Int(1, 64));
        one.push("g", Value::text("x"));
        let mut other = Table::default();
        other.push("g", Value::text("x"));
        other.push("h", Value::Int(1, 8));
        let key = properties_key("", &one);
        assert!(key.starts_with('~') && key.len() == 9, "{key}");
        assert_eq!(key, properties_key("", &other));
        other.push("i", Value::Void);
        assert_ne!(key, properties_key("", &other));
    }
}
