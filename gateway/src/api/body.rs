//! JSON of requests. As lenient as RabbitMQ, whose tools send numbers and lists as texts.

use super::Refusal;
use axum::body::Bytes;
use gatepost_core::properties::Name;
use serde_json::{Map, Value};

/// A request's body: an object. An empty body and `null` are objects without members.
pub(super) struct Body(Map<String, Value>);

impl Body {
    pub(super) fn parse(bytes: &Bytes) -> Result<Body, Refusal> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Body(Map::new()));
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(members)) => Ok(Body(members)),
            Ok(Value::Null) => Ok(Body(Map::new())),
            Ok(_) => Err(Refusal::bad_request("expected a JSON object")),
            Err(error) => Err(Refusal::bad_request(format!("not_json: {error}"))),
        }
    }

    /// A body from an object that is parsed already.
    pub(super) fn of(members: Map<String, Value>) -> Body {
        Body(members)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    /// The member, of any type, if it is present.
    pub(super) fn member(&self, key: &str) -> Option<&Value> {
        self.get(key)
    }

    /// A boolean, also as a text.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(Value::String(text)) if matches!(text.as_str(), "true" | "false") => Ok(Some(text == "true")),
            Some(other) => Err(Refusal::bad_request(format!("not_boolean: {key}: {other}"))),
        }
    }

    /// An object. An empty list is taken for an empty object, since RabbitMQ writes it so.
    pub(super) fn members(&self, key: &str) -> Result<Option<Map<String, Value>>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(members)) => Ok(Some(members.clone())),
            Some(Value::Array(items)) if items.is_empty() => Ok(Some(Map::new())),
            Some(_) => Err(Refusal::bad_request(format!("{key}: expected an object"))),
        }
    }

    /// A text, if it is present.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, Refusal> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refusal::bad_request(format!("{key}: expected a string"))),
        }
    }

    /// # Errors
    /// Some of these members are missing. The text names them all, so that a script is mended once.
    pub(super) fn needs(&self, keys: &[&str]) -> Result<(), Refusal> {
        let missing: Vec<&str> = keys.iter().copied().filter(|key| self.get(key).is_none()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(Refusal::bad_request(format!("key_missing: {}", missing.join(", "))))
    }

    /// A text that must be present.
    pub(super) fn required(&self, key: &str) -> Result<&str, Refusal> {
        self.needs(&[key])?;
        Ok(self.text(key)?.unwrap_or_default())
    }

    /// A list of texts, or one text with commas in it.
    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<String>>, Refusal> {
        let wrong = || Refusal::bad_request(format!("{key}: expected a list of strings, or a string with commas"));
        let all = match self.get(key) {
            None => return Ok(None),
            Some(Value::String(text)) => text.split(',').map(|part| part.trim().to_owned()).collect(),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect::<Result<Vec<_>, _>>()?,
            Some(_) => return Err(wrong()),
        };
        Ok(Some(all.into_iter().filter(|text| !text.is_empty()).collect()))
    }

    /// All members, which must be numbers.
    pub(super) fn numbers(&self) -> Result<Vec<(Name, i64)>, Refusal> {
        let mut numbers = Vec::new();
        for name in self.0.keys() {
            numbers.extend(self.number(name)?.map(|n| (Name::from(name.as_str()), n)));
        }
        Ok(numbers)
    }

    /// A number, also as a text.
    pub(super) fn number(&self, key: &str) -> Result<Option<i64>, Refusal> {
        let number = match self.get(key) {
            None => return Ok(None),
            Some(Value::Number(number)) => number.as_i64(),
            Some(Value::String(text)) => text.trim().parse().ok(),
            Some(_) => None,
        };
        let wrong = || Refusal::bad_request(format!("{key}: expected a whole number"));
        number.map(Some).ok_or_else(wrong)
    }
}
