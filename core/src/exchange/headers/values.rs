//! Compares values of headers.

use crate::properties::Value;

/// Whether a header's value matches a required value, compared as RabbitMQ 3.10 does: types do not count. So numbers
/// compare by value whatever their width, floats and timestamps included, and strings and byte arrays by their bytes.
/// Decimals and booleans do not compare as numbers. Within lists and tables, types count.
pub(super) fn alike(value: &Value, wanted: &Value) -> bool {
    match (Number::of(value), Number::of(wanted)) {
        (Some(value), Some(wanted)) => return value == wanted,
        (None, None) => {}
        _ => return false,
    }
    match (value, wanted) {
        (Value::Text(a) | Value::Binary(a), Value::Text(b) | Value::Binary(b)) => a == b,
        (a, b) => a == b || (is_empty_list(a) && is_empty_list(b)),
    }
}

/// Whether it is an empty list or an empty table, which are equal.
pub(super) fn is_empty_list(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.is_empty(),
        Value::Table(table) => table.is_empty(),
        _ => false,
    }
}

/// A number in a form in which equal numbers are equal values.
#[derive(PartialEq, Eq, Hash)]
pub(super) enum Number {
    Whole(i128),
    /// The bits of a float that has a fraction or is very large.
    Other(u64),
}

impl Number {
    pub(super) fn of(value: &Value) -> Option<Number> {
        /// 2^100, which is larger than any integer value.
        const END: f64 = 1_267_650_600_228_229_401_496_703_205_376.0;
        let float = match value {
            Value::Float(float) => f64::from(*float),
            Value::Double(double) => *double,
            Value::Timestamp(seconds) => return Some(Number::Whole(i128::from(*seconds))),
            other => return other.as_int().map(|int| Number::Whole(int.into())),
        };
        Some(if float.fract() == 0.0 && (-END..END).contains(&float) {
            Number::Whole(float as i128)
        } else {
            Number::Other(float.to_bits())
        })
    }
}
