//! The configuration: a table of keys, the values read for them, and the node's settings made from these values.
//!
//! ```text
//!   table.rs (the node's keys) ┐
//!   Description::keys          ├─► schema ─► reader ◄─ files, environment, command line
//!   listeners, by name         ┘                 └─► Values ─► Config, and each protocol's settings
//! ```
//!
//! Layers, each overriding the one before: the defaults, the file, `conf.d/*.toml` beside it in order of name, the
//! environment (`GATEPOST__LIMITS__MAX_CONNECTIONS=500`), the command line. All problems in all layers are
//! reported at once, with their places. Unknown keys are errors, and no key is read and then ignored.

mod check;
mod credentials;
mod load;
mod print;
mod reader;
mod schema;
mod source;
mod syntax;
mod table;
mod units;
mod value;
mod variables;

pub use load::Layers;
pub use source::{Problem, Problems};
pub use table::{
    Anonymous, AnonymousHere, Auth, AuthCertificate, AuthFile, AuthHttp, AuthJwt, ClientAuth, Confirm, Definitions,
    Disk, Durability, HttpStyle, Identity, Limits, Listener, Log, LogFormat, Management, Memory, Metrics, Mqtt, Node,
    Protection, Store, Tls, TlsVersion,
};
pub use units::{Budget, Period, Size};

pub(crate) use print::roff;
pub(crate) use schema::{MANAGEMENT, METRICS};

use crate::protocols;
use gatepost_core::keys::{Applies, Values};
use schema::{Schema, Takes};

/// All settings of a node.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each section says what it is about")]
pub struct Config {
    pub node: Node,
    pub log: Log,
    /// TLS, for listeners without settings of their own.
    pub tls: Tls,
    /// The listeners by name; those of protocols first.
    pub listeners: Vec<(String, Listener)>,
    /// The TLS keys of each listener, in the same order.
    pub listeners_tls: Vec<(String, Tls)>,
    pub limits: Limits,
    pub protection: Protection,
    pub memory: Memory,
    pub disk: Disk,
    pub store: Store,
    pub mqtt: Mqtt,
    pub auth: Auth,
    pub auth_file: AuthFile,
    pub auth_http: AuthHttp,
    pub auth_jwt: AuthJwt,
    pub certificate: AuthCertificate,
    pub metrics: Metrics,
    pub management: Management,
    pub definitions: Definitions,
    /// The values of all keys, from which protocols read theirs.
    pub values: Values,
    schema: Schema,
}

impl Config {
    fn new(schema: Schema, values: Values) -> Config {
        let listener = |name: &String| (name.clone(), Listener::read(&values, &format!("listeners.{name}")));
        let listener_tls = |name: &String| (name.clone(), Tls::read(&values, &format!("listeners.{name}.tls")));
        Config {
            node: Node::read(&values, "node"),
            log: Log::read(&values, "log"),
            listeners: schema.listeners().iter().map(listener).collect(),
            listeners_tls: schema.listeners().iter().map(listener_tls).collect(),
            limits: Limits::read(&values, "limits"),
            protection: Protection::read(&values, "protection"),
            memory: Memory::read(&values, "memory"),
            disk: Disk::read(&values, "disk"),
            store: Store::read(&values, "store"),
            mqtt: Mqtt::read(&values, "mqtt"),
            tls: Tls::read(&values, "tls"),
            auth: Auth::read(&values, "auth"),
            auth_http: AuthHttp::read(&values, "auth.http"),
            auth_jwt: AuthJwt::read(&values, "auth.jwt"),
            auth_file: AuthFile::read(&values, "auth.file"),
            certificate: AuthCertificate::read(&values, "auth.certificate"),
            metrics: Metrics::read(&values, "metrics"),
            management: Management::read(&values, "management"),
            definitions: Definitions::read(&values, "definitions"),
            values,
            schema,
        }
    }

    /// The values in effect, as a configuration file.
    pub fn print(&self) -> String {
        print::values(&self.schema, &self.values)
    }

    /// Each key with its value, in the order of the sections.
    pub(crate) fn in_effect(&self) -> Vec<KeyInEffect> {
        let rows = self.schema.rows().filter_map(|row| {
            let (Takes::A(kind, applies), Some(value)) = (&row.takes, self.values.value(&row.name)) else {
                return None;
            };
            Some(KeyInEffect {
                name: row.name.clone(),
                value: value::show(value),
                default: row.default.clone(),
                is_changed: *value != value::default(kind, &row.default),
                applies: *applies,
            })
        });
        rows.collect()
    }

    /// Maximum connections of the listener of that name; 0: no limit.
    pub(crate) fn listener_max_connections(&self, name: &str) -> u64 {
        let listener = self.listeners.iter().find(|(known, _)| known == name);
        listener.map_or(0, |(_, listener)| listener.max_connections)
    }

    /// The differences between this configuration and `next`, by name.
    pub(crate) fn changes(&self, next: &Config) -> Vec<Change> {
        let show = |values: &Values, name: &str| values.value(name).map(value::show);
        let mut names: Vec<&str> = self
            .values
            .iter()
            .chain(next.values.iter())
            .map(|(name, _)| name)
            .collect();
        names.sort_unstable();
        names.dedup();
        let changed = names
            .into_iter()
            .filter(|name| self.values.value(name) != next.values.value(name));
        changed
            .map(|name| Change {
                name: name.to_owned(),
                from: show(&self.values, name).unwrap_or_default(),
                to: show(&next.values, name).unwrap_or_default(),
                // A new or removed listener is bound or closed at the next start.
                applies: match (self.schema.row(name), next.schema.row(name)) {
                    (Some(row), Some(_)) => match row.takes {
                        Takes::A(_, applies) => applies,
                        Takes::Only(_) => Applies::Restart,
                    },
                    _ => Applies::Restart,
                },
            })
            .collect()
    }

    /// This configuration with those values of `next` that can change while the node runs.
    pub(crate) fn with_what_applies(&self, next: &Config) -> Config {
        let mut values = self.values.clone();
        for change in self
            .changes(next)
            .iter()
            .filter(|change| change.applies != Applies::Restart)
        {
            if let Some(value) = next.values.value(&change.name) {
                values.insert(&change.name, value.clone());
            }
        }
        Config::new(self.schema.clone(), values)
    }

    /// Checks the settings together, and the files that they name.
    pub(crate) fn check(&self) -> Vec<Problem> {
        let mut problems = check::together(self);
        problems.extend(self.check_files());
        problems
    }

    /// Checks the files that the settings name.
    fn check_files(&self) -> Vec<Problem> {
        check::files(self)
    }
}

impl Default for Config {
    fn default() -> Self {
        let schema = Schema::new(protocols::ALL);
        let values = schema.defaults();
        Config::new(schema, values)
    }
}

/// One key as it is now.
#[derive(Clone, Debug)]
pub(crate) struct KeyInEffect {
    /// Its name.
    pub name: String,
    /// Its value, as in a file.
    pub value: String,
    /// Its default, as in a file.
    pub default: String,
    /// Whether they differ.
    pub is_changed: bool,
    /// When a change of it applies.
    pub applies: Applies,
}

/// One key that a reload changes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// The key's name.
    pub name: String,
    /// Its old value, in TOML.
    pub from: String,
    /// Its new value, in TOML.
    pub to: String,
    /// When the new value takes effect.
    pub applies: Applies,
}

/// A sample file: all keys with their meaning and default, commented out.
pub fn sample() -> String {
    print::sample(&Schema::new(protocols::ALL))
}

/// All keys as a page of Markdown.
pub fn reference() -> String {
    print::reference(&Schema::for_pages(protocols::ALL))
}

/// Help for a terminal: all keys, or the section or key of that name. Empty if there is none of that name.
pub fn help(wanted: Option<&str>) -> String {
    print::help(&Schema::for_pages(protocols::ALL), wanted)
}

/// The manual page of the configuration file, in roff.
pub fn manual() -> String {
    print::manual(&Schema::for_pages(protocols::ALL))
}
