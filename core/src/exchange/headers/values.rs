//! Which values are alike.

use crate::properties::Value;

/// Whether a header's value is what a binding asks for, as RabbitMQ 3.10 compares them: without a look at the type. So numbers
/// compare by value, whatever their width, floats and timestamps too, and octets by themselves. Decimals are no numbers there,
/// nor are booleans; and within lists and tables the types count.
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

/// An empty list and an empty table are the same.
pub(super) fn is_empty_list(value: &Value) -> bool {
    match value {
        Value::Array(values) => values.is_empty(),
        Value::Table(table) => table.is_empty(),
        _ => false,
    }
}

/// A number in one form: equal numbers have the same.
#[derive(PartialEq, Eq, Hash)]
pub(super) enum Number {
    Whole(i128),
    /// The bits of a number that is not whole, or very large.
    Other(u64),
}

impl Number {
    pub(super) fn of(value: &Value) -> Option<Number> {
        /// 2^100: far more than any integer has.
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
