//! Translates arguments and headers between JSON and the engine's tables.

use gatepost_core::properties::{Table, Value};
use serde_json::{Map, Value as Json};

/// Maximum bytes of a name in a table, as in AMQP.
const NAME_MAX: usize = 255;

/// The members of an object as a table.
///
/// # Errors
/// A name is too long.
pub(crate) fn table(members: &Map<String, Json>) -> Result<Table, String> {
    let mut table = Table::default();
    for (name, json) in members {
        if name.len() > NAME_MAX {
            return Err(format!("a name in arguments and headers has {NAME_MAX} bytes at most"));
        }
        table.push(name.as_str(), value(json)?);
    }
    Ok(table)
}

/// One value. Whole numbers become 64 bits wide, as in RabbitMQ.
///
/// # Errors
/// As [`table`].
pub(crate) fn value(json: &Json) -> Result<Value, String> {
    Ok(match json {
        Json::Null => Value::Void,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(number) => match number.as_i64() {
            Some(n) => Value::Int(n, 64),
            None => Value::Double(number.as_f64().unwrap_or(f64::MAX)),
        },
        Json::String(text) => Value::text(text),
        Json::Array(items) => Value::Array(items.iter().map(value).collect::<Result<_, _>>()?),
        Json::Object(members) => Value::Table(table(members)?),
    })
}

/// A table as an object. Of a repeated name, the first value counts.
pub(crate) fn json(table: &Table) -> Json {
    let mut members = Map::new();
    for (name, value) in &table.0 {
        members.entry(name.to_string()).or_insert_with(|| json_of(value));
    }
    Json::Object(members)
}

/// One value. In octets that are not text, invalid parts are replaced.
pub(crate) fn json_of(value: &Value) -> Json {
    let number = |n: f64| serde_json::Number::from_f64(n).map_or(Json::Null, Json::Number);
    match value {
        Value::Void => Json::Null,
        Value::Bool(b) => (*b).into(),
        Value::Int(n, _) => (*n).into(),
        Value::Uint(n, _) => (*n).into(),
        Value::Float(n) => number(f64::from(*n)),
        Value::Double(n) => number(*n),
        Value::Decimal(scale, unscaled) => number(f64::from(*unscaled) / 10f64.powi(i32::from(*scale))),
        Value::Text(octets) | Value::Binary(octets) => String::from_utf8_lossy(octets).into(),
        Value::Timestamp(seconds) => (*seconds).into(),
        Value::Array(values) => values.iter().map(json_of).collect(),
        Value::Table(table) => json(table),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_json_can_say_comes_back_as_it_was() {
        let text = r#"{"a":1,"b":"x","c":true,"d":null,"e":[1,"y",{"f":-2.5}],"g":{}}"#;
        let parsed: Json = serde_json::from_str(text).expect("JSON");
        let members = parsed.as_object().expect("an object");
        let table = table(members).expect("short names");
        assert_eq!(json(&table), parsed);
        assert_eq!(table.lookup("a"), Some(&Value::Int(1, 64)));
    }

    #[test]
    fn numbers_that_json_has_not_are_null() {
        assert_eq!(json_of(&Value::Double(f64::NAN)), Json::Null);
        assert_eq!(json_of(&Value::Decimal(2, 150)), serde_json::json!(1.5));
    }
}
