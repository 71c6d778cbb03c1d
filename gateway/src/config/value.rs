//! Reads a value from a file according to the key's kind, and writes it.

use super::units::{Budget, Period, Size};
use gatepost_core::keys::{Address, FromValue, Kind, Value};
use std::time::Duration;
use toml::de::DeValue;

/// Reads a value of `kind`.
///
/// # Errors
/// It is not of that kind. The text says what was expected, and fits after "expected".
pub(super) fn parse(kind: &Kind, value: &DeValue<'_>) -> Result<Value, String> {
    read(kind, value).ok_or_else(|| expected(kind))
}

fn read(kind: &Kind, value: &DeValue<'_>) -> Option<Value> {
    let text = value.as_str();
    Some(match kind {
        Kind::Flag => Value::Flag(value.as_bool()?),
        Kind::Count { min, max } => Value::Count(number(value).filter(|n| (*min..=*max).contains(n))?),
        Kind::Size { min, max } => Value::Size(size(value).filter(|n| (*min..=*max).contains(n))?),
        Kind::SizeOrAuto if text == Some("auto") => Value::Auto,
        Kind::SizeOrAuto => Value::Size(size(value)?),
        Kind::Period { min, max } => Value::Period(period(value).filter(|p| (*min..=*max).contains(p))?),
        Kind::Share => share(value)?,
        Kind::Text | Kind::File => Value::Text(text?.to_owned()),
        Kind::Path => Value::Text(text.filter(|path| !path.is_empty())?.to_owned()),
        Kind::Checked { check, .. } => Value::Text(text.filter(|text| check(text))?.to_owned()),
        Kind::Choice(words) => Value::Text(text.filter(|text| words.contains(text))?.to_owned()),
        Kind::Texts => Value::Texts(list(value, |text| Some(text.to_owned()))?),
        Kind::Words(words) => Value::Texts(list(value, |text| words.contains(&text).then(|| text.to_owned()))?),
        Kind::Addresses => Value::Addresses(list(value, |text| text.parse::<Address>().ok())?),
    })
}

fn number(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

fn size(value: &DeValue<'_>) -> Option<u64> {
    match value.as_str() {
        Some(text) => Size::parse(text).map(|size| size.0),
        None => number(value),
    }
}

fn period(value: &DeValue<'_>) -> Option<Duration> {
    match value.as_str() {
        Some(text) => Period::parse(text).map(|period| period.0),
        None => number(value)
            .filter(|secs| *secs < u64::MAX / 1000)
            .map(Duration::from_secs),
    }
}

fn share(value: &DeValue<'_>) -> Option<Value> {
    let share = value.as_float().and_then(|f| f.as_str().parse::<f64>().ok());
    match share.or_else(|| (number(value) == Some(1)).then_some(1.0)) {
        Some(share) => (share > 0.0 && share <= 1.0).then_some(Value::Share(share)),
        None => size(value).filter(|size| *size > 0).map(Value::Size),
    }
}

/// A list; one text is a list of one, as most people begin.
fn list<T>(value: &DeValue<'_>, one: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    if let Some(text) = value.as_str() {
        return Some(vec![one(text)?]);
    }
    value
        .as_array()?
        .iter()
        .map(|value| one(value.get_ref().as_str()?))
        .collect()
}

/// Describes the values of a key of `kind`, for error messages.
pub(super) fn expected(kind: &Kind) -> String {
    match kind {
        Kind::Flag => "true or false".to_owned(),
        Kind::Count { min, max } => format!("a whole number{}", bounds(*min, *max, u64::MAX, &u64::to_string)),
        Kind::Size { min, max } => {
            let bounds = bounds(*min, *max, u64::MAX, &|size| Size(*size).to_string());
            format!("a size such as \"16MiB\" or a number of bytes{bounds}")
        }
        Kind::SizeOrAuto => "\"auto\" or a size such as \"32MiB\"".to_owned(),
        Kind::Period { min, max } => {
            let longest = Duration::from_secs(u64::MAX / 1000);
            let bounds = bounds(*min, *max, longest, &|period| Period(*period).to_string());
            format!("a duration such as \"30s\", \"5m\" or \"24h\", or a number of seconds{bounds}")
        }
        Kind::Share => "a share of the memory over 0 and up to 1, such as 0.4, or a size such as \"256MiB\"".to_owned(),
        Kind::Text => "a string".to_owned(),
        Kind::Checked { expected, .. } => (*expected).to_owned(),
        Kind::Choice(words) => {
            let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
            format!("one of {}", words.join(", "))
        }
        Kind::Texts => "a list of strings".to_owned(),
        Kind::Words(words) => {
            let words: Vec<_> = words.iter().map(|word| format!("\"{word}\"")).collect();
            format!("a list of {}", words.join(", "))
        }
        Kind::Path => "a path".to_owned(),
        Kind::File => "the path of a file, or \"\"".to_owned(),
        Kind::Addresses => {
            "a list of IP addresses with ports such as [\"[::]:5672\"], which is every address, or [\"127.0.0.1:5672\"]"
                .to_owned()
        }
    }
}

fn bounds<T: PartialEq + Default>(min: T, max: T, none: T, show: &dyn Fn(&T) -> String) -> String {
    match (min == T::default(), max == none) {
        (true, true) => String::new(),
        (false, true) => format!(" from {}", show(&min)),
        (true, false) => format!(" up to {}", show(&max)),
        (false, false) => format!(" from {} to {}", show(&min), show(&max)),
    }
}

/// Parses the default of a row, which is written in TOML.
///
/// # Panics
/// It is not of the row's kind. That is a bug, which every start and a test would find.
pub(super) fn default(kind: &Kind, text: &str) -> Value {
    let value = DeValue::parse(text).expect("the row's default is TOML");
    parse(kind, value.get_ref()).expect("the row's default is of its kind")
}

/// A value in TOML.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Flag(flag) => flag.to_string(),
        Value::Count(number) => number.to_string(),
        Value::Size(size) => quoted(&Size(*size).to_string()),
        Value::Auto => quoted("auto"),
        Value::Period(period) => quoted(&Period(*period).to_string()),
        // With a decimal point. Without one it would be read as a number of bytes.
        Value::Share(share) => format!("{share:?}"),
        Value::Text(text) => quoted(text),
        Value::Texts(texts) => list_of(texts.iter().map(|text| quoted(text))),
        Value::Addresses(addresses) => list_of(addresses.iter().map(|address| quoted(&address.to_string()))),
    }
}

/// A string as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list_of(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(", "))
}

impl FromValue for Period {
    fn from_value(value: &Value) -> Option<Self> {
        Duration::from_value(value).map(Period)
    }
}

impl FromValue for Size {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Size(size) => Some(Size(*size)),
            _ => None,
        }
    }
}

impl FromValue for Budget {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Share(share) => Some(Budget::Share(*share)),
            _ => Size::from_value(value).map(Budget::Fixed),
        }
    }
}
