//! The table of all keys: the node's sections, the protocols' rows, and the rows of each listener.

use super::table::{
    Auth, AuthCertificate, AuthFile, AuthHttp, AuthJwt, Definitions, Disk, LATER, Limits, Listener, Log, Management,
    Memory, Metrics, Mqtt, Node, Protection, Store, Tls,
};
use super::value;
use gatepost_core::keys::{Applies, Key, Kind, Values};
use gatepost_core::session::Description;
use std::collections::BTreeMap;

/// All keys. Listeners that a file declares are added while it is read.
#[derive(Clone, Debug)]
pub(super) struct Schema {
    /// The sections in the order they are printed in.
    rows: Vec<Row>,
    /// Indices of the rows by name.
    places: BTreeMap<String, usize>,
    /// Names of all listeners, in order.
    listeners: Vec<String>,
}

/// One key.
#[derive(Clone, Debug)]
pub(super) struct Row {
    /// Its full name.
    pub name: String,
    /// What it takes.
    pub takes: Takes,
    /// Its default, in TOML.
    pub default: String,
    /// Its meaning, for people.
    pub text: &'static str,
}

/// The values that a key accepts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Takes {
    /// A value of a kind.
    A(Kind, Applies),
    /// Only these values, because the feature is not implemented.
    Only(&'static [&'static str]),
}

/// The pseudo-protocol of the listener for metrics and health.
pub(crate) const METRICS: &str = "metrics";
const METRICS_PORT: u16 = 15692;
/// The pseudo-protocol of the listener for the management API. By default it is bound to loopback addresses only.
pub(crate) const MANAGEMENT: &str = "management";
const MANAGEMENT_BIND: &str = "[\"127.0.0.1:15672\"]";
const MANAGEMENT_TLS_BIND: &str = "[\"127.0.0.1:15671\"]";
const LISTENERS: &str = "listeners";

impl Schema {
    /// The table with the keys of these protocols.
    pub(super) fn new(protocols: &[&Description]) -> Schema {
        let mut schema = Schema {
            rows: Vec::new(),
            places: BTreeMap::new(),
            listeners: Vec::new(),
        };
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let host = if host.is_empty() { "localhost".to_owned() } else { host };
        schema.section("node", Node::KEYS);
        schema.set_default("node.name", &value::quoted(&format!("gatepost@{host}")));
        schema.set_default("node.cluster_name", &value::quoted(&host));
        schema.section("log", Log::KEYS);
        for protocol in protocols {
            schema.listener(protocol.name, protocol.port, protocol.tls_port);
            schema.set_default(
                &format!("listeners.{}.protocol", protocol.name),
                &value::quoted(protocol.name),
            );
        }
        for protocol in protocols {
            let Some(websocket) = protocol.websocket.filter(|websocket| websocket.port.is_some()) else {
                continue;
            };
            let name = format!("web_{}", protocol.name);
            schema.listener(&name, websocket.port, websocket.tls_port);
            schema.set_default(&format!("listeners.{name}.protocol"), &value::quoted(protocol.name));
            schema.set_default(&format!("listeners.{name}.websocket"), "true");
        }
        schema.listener(METRICS, Some(METRICS_PORT), None);
        schema.set_default("listeners.metrics.protocol", &value::quoted(METRICS));
        schema.listener(MANAGEMENT, None, None);
        schema.set_default("listeners.management.protocol", &value::quoted(MANAGEMENT));
        schema.set_default("listeners.management.bind", MANAGEMENT_BIND);
        schema.set_default("listeners.management.tls_bind", MANAGEMENT_TLS_BIND);
        schema.section("tls", Tls::KEYS);
        schema.section("limits", Limits::KEYS);
        schema.section("protection", Protection::KEYS);
        schema.section("memory", Memory::KEYS);
        schema.section("disk", Disk::KEYS);
        schema.section("store", Store::KEYS);
        schema.section("mqtt", Mqtt::KEYS);
        schema.section("auth", Auth::KEYS);
        schema.section("auth.file", AuthFile::KEYS);
        schema.section("auth.http", AuthHttp::KEYS);
        schema.section("auth.jwt", AuthJwt::KEYS);
        schema.section("auth.certificate", AuthCertificate::KEYS);
        schema.section("metrics", Metrics::KEYS);
        schema.section("management", Management::KEYS);
        schema.section("definitions", Definitions::KEYS);
        for key in protocols.iter().flat_map(|protocol| protocol.keys) {
            schema.key(key.name.to_owned(), key);
        }
        for (name, values) in LATER {
            schema.later((*name).to_owned(), values);
        }
        schema
    }

    /// Adds a listener that a file declares.
    pub(super) fn add_listener(&mut self, name: &str) {
        self.listener(name, None, None);
    }

    /// Whether `name` is a section, or could be one of a new listener.
    pub(super) fn is_section(&self, name: &str) -> bool {
        let inside = format!("{name}.");
        let next = self.places.range(inside.clone()..).next();
        next.is_some_and(|(key, _)| key.starts_with(&inside))
    }

    /// Whether this section may contain new tables, which are listeners.
    pub(super) fn takes_new_sections(&self, section: &str) -> bool {
        section == LISTENERS
    }

    /// The key of that name.
    pub(super) fn row(&self, name: &str) -> Option<&Row> {
        self.rows.get(*self.places.get(name)?)
    }

    /// The kind of an implemented key.
    pub(super) fn kind(&self, name: &str) -> Option<Kind> {
        match self.row(name)?.takes {
            Takes::A(kind, _) => Some(kind),
            Takes::Only(_) => None,
        }
    }

    /// All implemented keys, by section.
    pub(super) fn sections(&self) -> Vec<(&str, Vec<&Row>)> {
        let mut sections: Vec<(&str, Vec<&Row>)> = Vec::new();
        for row in self.rows.iter().filter(|row| matches!(row.takes, Takes::A(..))) {
            let section = section_of(&row.name);
            match sections.iter_mut().find(|(name, _)| *name == section) {
                Some((_, rows)) => rows.push(row),
                None => sections.push((section, vec![row])),
            }
        }
        sections
    }

    /// All keys.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter()
    }

    /// The table for documentation: with a listener `NAME` in place of all listeners, and independent of the machine.
    pub(super) fn for_pages(protocols: &[&Description]) -> Schema {
        let mut schema = Schema::new(protocols);
        schema.set_default("node.name", "\"gatepost@<hostname>\"");
        schema.set_default("node.cluster_name", "\"<hostname>\"");
        schema.add_listener("NAME");
        schema
    }

    /// The names of the listeners, those of protocols first.
    pub(super) fn listeners(&self) -> &[String] {
        &self.listeners
    }

    /// The names that are valid in a section: implemented keys, and sections with such keys.
    pub(super) fn names_in(&self, section: &str) -> Vec<&str> {
        let built = self.places.iter().filter(|(_, place)| {
            let row = self.rows.get(**place);
            row.is_some_and(|row| matches!(row.takes, Takes::A(..)))
        });
        let mut names: Vec<&str> = built
            .filter_map(|(key, _)| match section {
                "" => Some(key.as_str()),
                _ => key.strip_prefix(section)?.strip_prefix('.'),
            })
            .filter_map(|rest| rest.split('.').next())
            .collect();
        names.dedup();
        names
    }

    /// The values of an empty configuration.
    pub(super) fn defaults(&self) -> Values {
        let mut values = Values::default();
        for row in &self.rows {
            if let Takes::A(kind, _) = row.takes {
                values.insert(&row.name, value::default(&kind, &row.default));
            }
        }
        values
    }

    fn section(&mut self, section: &str, keys: &'static [Key]) {
        for key in keys {
            self.key(format!("{section}.{}", key.name), key);
        }
    }

    fn listener(&mut self, name: &str, port: Option<u16>, tls_port: Option<u16>) {
        let section = format!("{LISTENERS}.{name}");
        self.section(&section, Listener::KEYS);
        if let Some(port) = port {
            self.set_default(&format!("{section}.bind"), &format!("[\"[::]:{port}\"]"));
        }
        if let Some(port) = tls_port {
            self.set_default(&format!("{section}.tls_bind"), &format!("[\"[::]:{port}\"]"));
        }
        self.section(&format!("{section}.tls"), Tls::KEYS);
        for key in ["client_auth", "min_version"] {
            self.set_default(&format!("{section}.tls.{key}"), "\"\"");
        }
        self.listeners.push(name.to_owned());
    }

    fn key(&mut self, name: String, key: &Key) {
        self.push(Row {
            name,
            takes: Takes::A(key.kind, key.applies),
            default: key.default.to_owned(),
            text: key.text,
        });
    }

    fn later(&mut self, name: String, values: &'static [&'static str]) {
        self.push(Row {
            name,
            takes: Takes::Only(values),
            default: values.first().copied().unwrap_or_default().to_owned(),
            text: "",
        });
    }

    /// Adds a row. Two rows of one name are a bug.
    fn push(&mut self, row: Row) {
        let before = self.places.insert(row.name.clone(), self.rows.len());
        debug_assert!(before.is_none(), "{} is there twice", row.name);
        self.rows.push(row);
    }

    fn set_default(&mut self, name: &str, default: &str) {
        if let Some(row) = self.places.get(name).and_then(|at| self.rows.get_mut(*at)) {
            row.default = default.to_owned();
        }
    }
}

/// The part of a name before its last dot.
pub(super) fn section_of(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(section, _)| section)
}
