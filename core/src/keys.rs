//! Configuration keys of protocols and the node: one row per key, and the values read for them.
//!
//! Nothing here reads a file. The gateway collects the rows of the node and of all protocols in one table; parsing,
//! printing, the sample file and the reference all come from that table. A protocol then reads its values by name.

use crate::properties::Name;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// One key of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its dotted name, such as `limits.channel_max`. A key that several protocols read belongs to the node.
    pub name: &'static str,
    /// What values it takes.
    pub kind: Kind,
    /// Its default, as it would stand in the file: `"128KiB"` with the quotes.
    pub default: &'static str,
    /// When a change takes effect.
    pub applies: Applies,
    /// What it sets, for people.
    pub text: &'static str,
}

/// What values a key takes. Bounds are inclusive.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "the fields are bounds, named as such")]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Count { min: u64, max: u64 },
    /// A number of bytes, such as `"16MiB"`.
    Size { min: u64, max: u64 },
    /// The same, or `"auto"`.
    SizeOrAuto,
    /// A duration, such as `"30s"`.
    Period { min: Duration, max: Duration },
    /// A share of the memory such as `0.4`, or a number of bytes.
    Share,
    /// Any string.
    Text,
    /// A string that `check` accepts; `expected` describes these for error messages.
    Checked {
        expected: &'static str,
        check: fn(&str) -> bool,
    },
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of strings.
    Texts,
    /// A list of these words.
    Words(&'static [&'static str]),
    /// A path, not empty.
    Path,
    /// A file that must be there and readable; empty: none.
    File,
    /// A list of [`Address`]es.
    Addresses,
}

impl Kind {
    /// Any whole number.
    pub const COUNT: Kind = Kind::Count { min: 0, max: u64::MAX };
    /// Any number of bytes.
    pub const SIZE: Kind = Kind::Size { min: 0, max: u64::MAX };

    /// A duration of so many seconds.
    pub const fn secs(min: u64, max: u64) -> Kind {
        Kind::Period {
            min: Duration::from_secs(min),
            max: Duration::from_secs(max),
        }
    }
}

/// When a changed key takes effect after a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applies {
    /// At once.
    Now,
    /// For connections that are opened after it.
    NewConnections,
    /// At the next start. A reload keeps the old value and says so.
    Restart,
}

/// A value that was read for a key.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "named as the kinds")]
pub enum Value {
    Flag(bool),
    Count(u64),
    Size(u64),
    /// `"auto"`.
    Auto,
    Period(Duration),
    /// A share of the memory.
    Share(f64),
    Text(String),
    Texts(Vec<String>),
    Addresses(Vec<Address>),
}

/// Where a listener listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// An IP address and a port; port 0: the system chooses one.
    Ip(SocketAddr),
    /// A Unix socket: the path of its file, written `unix:/run/gatepost/mqtt.sock`.
    Unix(PathBuf),
}

impl std::str::FromStr for Address {
    type Err = ();

    fn from_str(text: &str) -> Result<Address, ()> {
        match text.strip_prefix("unix:") {
            // Absolute paths only, because operators do not think of the service's working directory.
            Some(path) if path.starts_with('/') && !path.ends_with('/') => Ok(Address::Unix(path.into())),
            Some(_) => Err(()),
            None => text.parse().map(Address::Ip).map_err(|_| ()),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Ip(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Whether only one listener can use the address.
    pub fn is_exclusive(&self) -> bool {
        match self {
            Address::Ip(address) => address.port() != 0,
            Address::Unix(_) => true,
        }
    }
}

/// The values of all keys, by their dotted names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values(BTreeMap<String, Value>);

impl Values {
    /// The value of a key.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// Gives a key a value.
    pub fn insert(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    /// Adds values that are not set from `defaults`.
    pub fn complete(&mut self, defaults: &Values) {
        for (name, value) in &defaults.0 {
            if !self.0.contains_key(name) {
                self.0.insert(name.clone(), value.clone());
            }
        }
    }

    /// All names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// The value of a key, converted to the setting's type; `None` if there is no such key, or it is of another kind.
    pub fn read<T: FromValue>(&self, name: &str) -> Option<T> {
        T::from_value(self.0.get(name)?)
    }

    /// Stores the value of a key in `setting`. Without the key (as in most tests) the setting stays as it is.
    pub fn set<T: FromValue>(&self, name: &str, setting: &mut T) {
        let value = self.read(name);
        debug_assert!(value.is_some() || self.0.is_empty(), "no key {name} of that kind");
        if let Some(value) = value {
            *setting = value;
        }
    }
}

/// A type of setting that a [`Value`] can be read as.
pub trait FromValue: Sized {
    /// The setting; `None` if the value is of another kind. Numbers are clamped to the type.
    fn from_value(value: &Value) -> Option<Self>;
}

impl FromValue for bool {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Flag(flag) => Some(*flag),
            _ => None,
        }
    }
}

impl FromValue for u64 {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Count(number) | Value::Size(number) => Some(*number),
            _ => None,
        }
    }
}

impl FromValue for u32 {
    fn from_value(value: &Value) -> Option<Self> {
        Some(u32::try_from(u64::from_value(value)?).unwrap_or(u32::MAX))
    }
}

impl FromValue for u16 {
    fn from_value(value: &Value) -> Option<Self> {
        Some(u16::try_from(u64::from_value(value)?).unwrap_or(u16::MAX))
    }
}

impl FromValue for u8 {
    fn from_value(value: &Value) -> Option<Self> {
        Some(u8::try_from(u64::from_value(value)?).unwrap_or(u8::MAX))
    }
}

impl FromValue for usize {
    fn from_value(value: &Value) -> Option<Self> {
        Some(usize::try_from(u64::from_value(value)?).unwrap_or(usize::MAX))
    }
}

impl FromValue for Duration {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Period(period) => Some(*period),
            _ => None,
        }
    }
}

impl FromValue for String {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        }
    }
}

impl FromValue for Name {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) => Some(text.as_str().into()),
            _ => None,
        }
    }
}

impl FromValue for PathBuf {
    fn from_value(value: &Value) -> Option<Self> {
        String::from_value(value).map(PathBuf::from)
    }
}

/// `None` is `"auto"`.
impl<T: FromValue> FromValue for Option<T> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Auto => Some(None),
            _ => T::from_value(value).map(Some),
        }
    }
}

impl FromValue for Vec<String> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Texts(texts) => Some(texts.clone()),
            _ => None,
        }
    }
}

impl FromValue for Vec<Address> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Addresses(addresses) => Some(addresses.clone()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_clamped_to_the_setting_s_type() {
        let mut values = Values::default();
        values.insert("limits.channel_max", Value::Count(70_000));
        let mut channel_max = 1_u16;
        values.set("limits.channel_max", &mut channel_max);
        assert_eq!(channel_max, u16::MAX);
    }

    #[test]
    fn settings_keep_their_defaults_without_a_table() {
        let mut timeout = Duration::from_secs(7);
        Values::default().set("limits.handshake_timeout", &mut timeout);
        assert_eq!(timeout, Duration::from_secs(7));
    }
}
