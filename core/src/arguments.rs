//! Arguments of declares and binds: equality, and error texts for differences.

use crate::fault::{Fault, FaultKind};
use crate::properties::{Table, Value};
use foldhash::fast::RandomState;
use std::hash::BuildHasher;

/// Whether two values mean the same: integers of any width compare by value.
pub(crate) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Table(a), Value::Table(b)) => same_table(a, b),
        // Compared as bits, so that NaN equals itself.
        (Value::Float(a), Value::Float(b)) => a.to_bits() == b.to_bits(),
        (Value::Double(a), Value::Double(b)) => a.to_bits() == b.to_bits(),
        _ => match (a.as_int(), b.as_int()) {
            (Some(a), Some(b)) => a == b,
            _ => a == b,
        },
    }
}

/// Whether two tables have the same pairs in any order (pairs of a repeated name in the same order).
pub(crate) fn same_table(a: &Table, b: &Table) -> bool {
    if a.0.len() != b.0.len() {
        return false;
    }
    if a.is_empty() {
        return true;
    }
    let sorted = |table: &'_ Table| {
        let mut order: Vec<usize> = (0..table.0.len()).collect();
        order.sort_by(|&x, &y| table.0[x].0.cmp(&table.0[y].0));
        order
    };
    sorted(a).into_iter().zip(sorted(b)).all(|(x, y)| {
        let ((name_a, value_a), (name_b, value_b)) = (&a.0[x], &b.0[y]);
        name_a == name_b && equal(value_a, value_b)
    })
}

/// A hash under which tables that are [`same_table`] are equal.
pub(crate) fn hash_table(table: &Table, state: &RandomState) -> u64 {
    // A sum does not depend on the order.
    let pairs = table
        .0
        .iter()
        .map(|(name, value)| state.hash_one((&**name, hash_value(value, state))));
    pairs.fold(table.0.len() as u64, u64::wrapping_add)
}

/// A hash under which values that are [`equal`] are equal.
pub(crate) fn hash_value(value: &Value, state: &RandomState) -> u64 {
    match value {
        Value::Void => 0,
        Value::Bool(b) => state.hash_one(b),
        Value::Int(i, _) => state.hash_one(i),
        Value::Uint(u, _) => state.hash_one(i64::from(*u)),
        Value::Float(f) => state.hash_one(f.to_bits()),
        Value::Double(d) => state.hash_one(d.to_bits()),
        Value::Decimal(scale, unscaled) => state.hash_one((scale, unscaled)),
        Value::Text(bytes) | Value::Binary(bytes) => state.hash_one(bytes),
        Value::Timestamp(seconds) => state.hash_one(seconds),
        Value::Array(values) => values
            .iter()
            .fold(1, |hash, value| state.hash_one((hash, hash_value(value, state)))),
        Value::Table(table) => hash_table(table, state),
    }
}

/// Checks that a repeated declare of `object` (such as `queue 'q' in vhost '/'`) has the same value for the argument `key`.
pub(crate) fn require_same(
    object: &str,
    key: &str,
    received: Option<&Value>,
    current: Option<&Value>,
) -> Result<(), Fault> {
    let (received, current) = match (received, current) {
        (None, None) => return Ok(()),
        (Some(a), Some(b)) if equal(a, b) => return Ok(()),
        (Some(a), Some(b)) => (format!("'{}'", text_of(a)), format!("'{}'", text_of(b))),
        (a, b) => (described(a), described(b)),
    };
    Err(inequivalent(object, key, &received, &current))
}

/// Checks that a repeated declare of `object` has the same flag `key`.
pub(crate) fn require_flag(object: &str, key: &str, received: bool, current: bool) -> Result<(), Fault> {
    if received == current {
        return Ok(());
    }
    Err(inequivalent(
        object,
        key,
        &format!("'{received}'"),
        &format!("'{current}'"),
    ))
}

/// The error for a repeated declare that differs.
pub(crate) fn inequivalent(object: &str, key: &str, received: &str, current: &str) -> Fault {
    let text = format!("inequivalent arg '{key}' for {object}: received {received} but current is {current}");
    Fault::new(FaultKind::PreconditionFailed, text)
}

fn described(value: Option<&Value>) -> String {
    match value {
        None => "none".to_owned(),
        Some(value) => format!("the value '{}' of type '{}'", text_of(value), type_name(value)),
    }
}

/// The value in an error text.
pub(crate) fn text_of(value: &Value) -> String {
    match value {
        Value::Void => "undefined".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(i, _) => i.to_string(),
        Value::Uint(u, _) => u.to_string(),
        Value::Float(f) => f.to_string(),
        Value::Double(d) => d.to_string(),
        Value::Decimal(scale, unscaled) => format!("{unscaled}e-{scale}"),
        Value::Text(bytes) | Value::Binary(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Timestamp(seconds) => seconds.to_string(),
        Value::Array(values) => format!("[{}]", values.iter().map(text_of).collect::<Vec<_>>().join(",")),
        Value::Table(table) => {
            let pairs: Vec<String> = table
                .0
                .iter()
                .map(|(name, value)| format!("{name}={}", text_of(value)))
                .collect();
            format!("{{{}}}", pairs.join(","))
        }
    }
}

/// The AMQP name of the value's type.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Void => "void",
        Value::Bool(_) => "bool",
        Value::Int(_, 8) => "byte",
        Value::Int(_, 16) => "short",
        Value::Int(_, 32) => "signedint",
        Value::Int(..) => "long",
        Value::Uint(_, 8) => "unsignedbyte",
        Value::Uint(_, 16) => "unsignedshort",
        Value::Uint(..) => "unsignedint",
        Value::Float(_) => "float",
        Value::Double(_) => "double",
        Value::Decimal(..) => "decimal",
        Value::Text(_) => "longstr",
        Value::Binary(_) => "binary",
        Value::Timestamp(_) => "timestamp",
        Value::Array(_) => "array",
        Value::Table(_) => "table",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_the_same_in_any_order_and_integer_width() {
        let mut a = Table::default();
        a.push("x", Value::Int(10, 32));
        a.push("y", Value::Float(f32::NAN));
        let mut b = Table::default();
        b.push("y", Value::Float(f32::NAN));
        b.push("x", Value::Int(10, 64));
        assert!(same_table(&a, &b));
        let state = RandomState::default();
        assert_eq!(hash_table(&a, &state), hash_table(&b, &state));
        b.push("z", Value::Void);
        assert!(!same_table(&a, &b));
        assert!(!equal(&Value::text("1"), &Value::Int(1, 32)));
        assert!(equal(&Value::Uint(7, 8), &Value::Int(7, 64)));
    }

    #[test]
    fn differences_are_worded_as_clients_expect() {
        let ten = Value::Int(10, 32);
        let text = |received, current| match require_same("queue 'q' in vhost '/'", "x-max-length", received, current) {
            Err(fault) => fault.text.into_string(),
            Ok(()) => String::new(),
        };
        assert_eq!(text(Some(&ten), Some(&Value::Int(10, 64))), "");
        assert_eq!(
            text(Some(&ten), Some(&Value::Int(11, 64))),
            "inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received '10' but current is '11'"
        );
        assert_eq!(
            text(None, Some(&ten)),
            "inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received none but current is the value '10' of \
             type 'signedint'"
        );
    }
}
