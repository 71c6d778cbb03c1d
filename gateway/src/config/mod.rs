//! The configuration: what can be set, its defaults, and how a layer of settings is read into it.
//!
//! Layers, each over the one before: the built-in defaults, the file, `conf.d/*.toml` beside it in order of name, the
//! environment (`GATEPOST__LIMITS__MAX_CONNECTIONS=500`), the command line. Everything wrong in any of them is
//! reported at once, with its place; nothing unknown is passed over, and nothing known is read and then ignored.

mod load;
mod section;
mod source;
mod units;

pub use load::load;
pub use source::{Problem, Problems};
pub use units::{Budget, Period, Size};

use section::{Reader, Section};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use toml::de::DeTable;

/// All settings of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Config {
    /// The node itself.
    pub node: Node,
    /// Its log of events for people (not the message log).
    pub log: Log,
    /// Where it listens.
    pub listeners: Listeners,
    /// What one client, or all of them, may use.
    pub limits: Limits,
    /// Memory.
    pub memory: Memory,
    /// Free disk.
    pub disk: Disk,
    /// The message log.
    pub store: Store,
    /// MQTT.
    pub mqtt: Mqtt,
    /// STOMP.
    pub stomp: Stomp,
    /// Who may log in.
    pub auth: Auth,
}

/// See [`Config::node`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Node {
    /// The node's name, as operators see it.
    pub name: String,
    /// The name shown as the cluster's.
    pub cluster_name: String,
    /// Where messages and definitions are kept.
    pub data_dir: PathBuf,
    /// Threads that serve sockets; 0: one per core.
    pub io_threads: usize,
}

/// See [`Config::log`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,gatepost_mqtt=debug`.
    pub level: String,
    /// How a line is written.
    pub format: LogFormat,
    /// `stderr`, or a file to append to.
    pub target: String,
}

/// See [`Log::format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "named as in the configuration")]
pub enum LogFormat {
    Text,
    Json,
}

/// See [`Config::listeners`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "named as in the configuration")]
pub struct Listeners {
    pub amqp: Listener,
    pub mqtt: Listener,
    pub stomp: Listener,
    pub metrics: Listener,
}

/// One protocol's listener.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Listener {
    /// Addresses to listen on; empty: off. `[::]` takes IPv4 too.
    pub bind: Vec<SocketAddr>,
    /// Connections the kernel keeps waiting for us.
    pub backlog: u32,
}

/// See [`Config::limits`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// Connections at once, over all protocols; 0: what the file descriptor limit allows.
    pub max_connections: u64,
    /// AMQP channels per connection.
    pub channel_max: u16,
    /// AMQP frame size offered.
    pub frame_max: Size,
    /// Body of one message, in every protocol.
    pub max_message_size: Size,
    /// Queues per vhost.
    pub max_queues: usize,
    /// From accept to a finished login.
    pub handshake_timeout: Period,
    /// AMQP and STOMP heartbeat offered.
    pub heartbeat: Period,
}

/// See [`Config::memory`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Memory {
    /// What all that clients make may fill: a share of the machine, or bytes. The parts below are of it.
    pub budget: Budget,
    /// What deliveries that consumers do not settle may fill: 32 bytes each, and their bodies until they are in the log. A share is of the budget.
    /// Over it, who holds much of it is offered no more until it settles.
    pub unsettled: Budget,
    /// What clients make and what cannot leave memory: retained messages, subscriptions, bindings, queues, sessions,
    /// connections. A share is of the budget. More is refused.
    pub objects: Budget,
    /// Packets that have not arrived completely. A share is of the budget. Over it, connections that have sent a part of a large
    /// one are not read, but for one at a time.
    pub input: Budget,
    /// Publishes kept per connection while publishers have to wait; then its socket is no longer read.
    pub per_connection_buffer: Size,
}

/// See [`Config::disk`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Disk {
    /// Free space under which publishers wait. Of this, 5 % and four segments the largest holds.
    pub free_limit: Size,
    /// Room that is kept for what consumers settle: publishes that need it are refused. Of this and two segments the
    /// larger holds.
    pub reserve: Size,
}

/// See [`Config::store`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Store {
    /// What a confirm stands for.
    pub durability: Durability,
    /// Least time from one sync to the next.
    pub min_sync_gap: Period,
    /// Time between syncs with `interval`.
    pub interval: Period,
    /// Whether a confirm waits for the sync with `interval`.
    pub confirm: Confirm,
    /// Size of a log segment; `None`: by medium.
    #[serde(serialize_with = "auto")]
    pub segment_size: Option<Size>,
    /// Message bodies kept in memory.
    pub cache: Size,
    /// What may wait to be written; over it publishers wait. One message always may.
    pub backlog: Size,
    /// How long it may wait; over it publishers wait, too.
    pub backlog_time: Period,
    /// For how long a read that fails is tried again before the process ends.
    pub read_timeout: Period,
    /// Files of the log kept open for reading; 0: by the limit on open files.
    pub open_files: u64,
}

fn auto<S: serde::Serializer>(size: &Option<Size>, serializer: S) -> Result<S::Ok, S::Error> {
    match size {
        Some(size) => size.serialize(serializer),
        None => serializer.serialize_str("auto"),
    }
}

/// See [`Store::durability`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A sync covered it.
    Always,
    /// A sync covers it within the interval.
    Interval,
    /// The kernel has it.
    Os,
}

/// See [`Store::confirm`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "named as in the configuration")]
pub enum Confirm {
    Synced,
    Written,
}

/// See [`Config::mqtt`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Mqtt {
    /// Vhost of clients that name none.
    pub default_vhost: String,
    /// Exchange that topics are published to and filters bind to.
    pub exchange: String,
    /// Who may log in without credentials; STOMP clients too.
    pub anonymous: Anonymous,
    /// Who they are then.
    pub anonymous_user: String,
    /// Unsettled deliveries to a client that does not say its own limit.
    pub max_inflight: u16,
    /// Unconfirmed publishes of one client.
    pub receive_maximum: u16,
    /// A CONNECT packet as a whole, which comes from somebody unknown.
    pub connect_size_max: Size,
    /// How long a session may outlive its connection.
    pub session_expiry_max: Period,
}

/// See [`Mqtt::anonymous`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Anonymous {
    /// Nobody.
    Deny,
    /// Clients on this machine.
    Loopback,
    /// Everybody.
    Allow,
}

/// See [`Config::stomp`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stomp {
    /// Vhost of clients that name none.
    pub default_vhost: String,
}

/// See [`Config::auth`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Auth {
    /// Users that may log in from this machine only.
    pub loopback_users: Vec<String>,
    /// The user there is from the start; empty: none.
    pub default_user: String,
    /// File with that user's password; empty: `guest`, for the user `guest` only.
    pub default_password_file: String,
}

impl Default for Node {
    fn default() -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let host = if host.is_empty() { "localhost".to_owned() } else { host };
        Node {
            name: format!("gatepost@{host}"),
            cluster_name: host,
            data_dir: PathBuf::from("./gatepost-data"),
            io_threads: 0,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log {
            level: "info".to_owned(),
            format: LogFormat::Text,
            target: "stderr".to_owned(),
        }
    }
}

impl Default for Listeners {
    fn default() -> Self {
        Listeners {
            amqp: Listener::on(5672),
            mqtt: Listener::on(1883),
            stomp: Listener::on(61613),
            metrics: Listener::on(15692),
        }
    }
}

impl Listener {
    fn on(port: u16) -> Listener {
        Listener {
            bind: vec![SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, port))],
            backlog: 128,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_connections: 0,
            channel_max: 2047,
            frame_max: Size(128 << 10),
            max_message_size: Size(16 << 20),
            max_queues: 10_000,
            handshake_timeout: Period::secs(10),
            heartbeat: Period::secs(60),
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            budget: Budget::Share(0.4),
            unsettled: Budget::Share(0.2),
            objects: Budget::Share(0.25),
            input: Budget::Share(0.1),
            per_connection_buffer: Size(64 << 10),
        }
    }
}

impl Default for Disk {
    fn default() -> Self {
        Disk {
            free_limit: Size(256 << 20),
            reserve: Size(0),
        }
    }
}

impl Default for Store {
    fn default() -> Self {
        Store {
            durability: Durability::Always,
            min_sync_gap: Period::secs(0),
            interval: Period::secs(1),
            confirm: Confirm::Synced,
            segment_size: None,
            cache: Size(16 << 20),
            backlog: Size(4 << 20),
            backlog_time: Period::secs(2),
            read_timeout: Period::secs(30),
            open_files: 0,
        }
    }
}

impl Default for Mqtt {
    fn default() -> Self {
        Mqtt {
            default_vhost: "/".to_owned(),
            exchange: "amq.topic".to_owned(),
            anonymous: Anonymous::Loopback,
            anonymous_user: "anonymous".to_owned(),
            max_inflight: 64,
            receive_maximum: 1024,
            connect_size_max: Size(192 << 10),
            session_expiry_max: Period::secs(86_400),
        }
    }
}

impl Default for Stomp {
    fn default() -> Self {
        Stomp {
            default_vhost: "/".to_owned(),
        }
    }
}

impl Default for Auth {
    fn default() -> Self {
        Auth {
            loopback_users: vec!["guest".to_owned()],
            default_user: "guest".to_owned(),
            default_password_file: String::new(),
        }
    }
}

impl Config {
    /// Reads what `table` sets over what is there.
    fn read(&mut self, reader: &Reader<'_>, table: &DeTable<'_>) {
        let mut root = Section::root(reader, table);
        root.section("node", |s| self.node.read(s));
        root.section("log", |s| self.log.read(s));
        root.section("listeners", |s| self.listeners.read(s));
        root.section("limits", |s| self.limits.read(s));
        root.section("memory", |s| self.memory.read(s));
        root.section("disk", |s| {
            s.read("free_limit", &mut self.disk.free_limit);
            s.read("reserve", &mut self.disk.reserve);
        });
        root.section("store", |s| self.store.read(s));
        root.section("mqtt", |s| self.mqtt.read(s));
        root.section("stomp", |s| {
            s.read_with("default_vhost", &mut self.stomp.default_vhost, only_vhost)
        });
        root.section("auth", |s| self.auth.read(s));
        root.section("metrics", |s| {
            s.later("auth", &["false"]);
            s.later("per_object_limit", &["2000"]);
        });
        root.section("tls", tls_later);
        root.section("definitions", |s| {
            s.later("file", &["\"\""]);
            s.later("skip_if_unchanged", &["true"]);
        });
        root.section("management", |s| {
            s.later("path_prefix", &["\"\""]);
            s.later("cors_origins", &["[]"]);
            s.later("max_body", &["\"1MiB\""]);
            s.later("ui", &["true", "false"]);
            s.later("stats_interval", &["\"5s\""]);
        });
        root.refuse_unknown();
    }
}

impl Node {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        s.read("name", &mut self.name);
        s.read("cluster_name", &mut self.cluster_name);
        s.read("data_dir", &mut self.data_dir);
        s.within(
            "io_threads",
            &mut self.io_threads,
            0..=IO_THREADS_MAX,
            "from 0 (one per core) to 256",
        );
    }
}

/// More I/O threads than this are a slip of the hand.
const IO_THREADS_MAX: usize = 256;

impl Log {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        s.read_with("level", &mut self.level, |value| {
            let text = value
                .as_str()
                .filter(|t| t.parse::<tracing_subscriber::filter::Targets>().is_ok());
            text.map(str::to_owned)
                .ok_or_else(|| "error, warn, info, debug or trace".to_owned())
        });
        s.choice(
            "format",
            &mut self.format,
            &[("text", LogFormat::Text), ("json", LogFormat::Json)],
        );
        s.read_with("target", &mut self.target, |value| match value.as_str() {
            Some("journald") => {
                Err("\"stderr\" or a file (journald is not supported yet; it collects stderr)".to_owned())
            }
            Some(text) if !text.is_empty() => Ok(text.to_owned()),
            _ => Err("\"stderr\" or a file".to_owned()),
        });
    }
}

impl Listeners {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        s.section("amqp", |s| self.amqp.read(s));
        s.section("mqtt", |s| {
            s.later("quic_bind", &["[]"]);
            self.mqtt.read(s);
        });
        s.section("stomp", |s| self.stomp.read(s));
        s.section("metrics", |s| self.metrics.read(s));
        for (name, default) in [
            ("web_mqtt", "[\"[::]:15675\"]"),
            ("web_stomp", "[\"[::]:15674\"]"),
            ("management", "[\"[::]:15672\"]"),
        ] {
            s.section(name, |s| {
                s.later("bind", &["[]", default]);
                listener_later(s);
                s.later("backlog", &["128"]);
            });
        }
    }
}

impl Listener {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        s.read_with("bind", &mut self.bind, |value| {
            let addresses = value
                .as_array()
                .and_then(|list| list.iter().map(|v| v.get_ref().as_str()?.parse().ok()).collect());
            addresses.ok_or_else(|| "a list of addresses such as [\"[::]:5672\"] or [\"127.0.0.1:5672\"]".to_owned())
        });
        s.within("backlog", &mut self.backlog, 1..=65_535, "from 1 to 65535");
        listener_later(s);
    }
}

fn listener_later(s: &mut Section<'_, '_>) {
    s.later("tls_bind", &["[]"]);
    s.later("proxy_protocol", &["false"]);
    s.later("unix", &["\"\""]);
    s.later("max_connections", &["0"]);
    s.section("tls", tls_later);
}

fn tls_later(s: &mut Section<'_, '_>) {
    s.later("cert", &["\"\""]);
    s.later("key", &["\"\""]);
    s.later("client_ca", &["\"\""]);
    s.later("client_auth", &["\"none\""]);
    s.later("min_version", &["\"1.2\""]);
}

impl Limits {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        s.read("max_connections", &mut self.max_connections);
        s.later("max_connections_per_user", &["0"]);
        s.within("channel_max", &mut self.channel_max, 1..=u16::MAX, "from 1 to 65535");
        // AMQP 0-9-1 4.2.3: every peer takes frames of 4096 octets.
        s.within(
            "frame_max",
            &mut self.frame_max,
            Size(4096)..=Size(16 << 20),
            "from 4KiB to 16MiB",
        );
        s.within(
            "max_message_size",
            &mut self.max_message_size,
            Size(1)..=Size(1 << 30),
            "up to 1GiB",
        );
        s.within("max_queues", &mut self.max_queues, 1..=10_000_000, "from 1 to 10000000");
        let day = Period::secs(86_400);
        s.within(
            "handshake_timeout",
            &mut self.handshake_timeout,
            Period::secs(1)..=day,
            "from 1s to 1d",
        );
        s.within(
            "heartbeat",
            &mut self.heartbeat,
            Period::secs(0)..=Period::secs(65_535),
            "up to 65535s; 0: none",
        );
        s.later("consumer_timeout", &["\"30m\""]);
        s.later("default_prefetch", &["0"]);
    }
}

impl Memory {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        s.read("budget", &mut self.budget);
        s.read("unsettled", &mut self.unsettled);
        s.read("objects", &mut self.objects);
        s.read("input", &mut self.input);
        let range = Size(4 << 10)..=Size(16 << 20);
        s.within(
            "per_connection_buffer",
            &mut self.per_connection_buffer,
            range,
            "from 4KiB to 16MiB",
        );
    }
}

impl Store {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        let durability = [
            ("always", Durability::Always),
            ("interval", Durability::Interval),
            ("os", Durability::Os),
        ];
        s.choice("durability", &mut self.durability, &durability);
        s.within(
            "min_sync_gap",
            &mut self.min_sync_gap,
            Period::secs(0)..=Period::secs(10),
            "up to 10s",
        );
        s.within(
            "interval",
            &mut self.interval,
            Period::parse("1ms").unwrap_or(Period::secs(1))..=Period::secs(3600),
            "from 1ms to 1h",
        );
        s.choice(
            "confirm",
            &mut self.confirm,
            &[("synced", Confirm::Synced), ("written", Confirm::Written)],
        );
        s.read("segment_size", &mut self.segment_size);
        s.read("cache", &mut self.cache);
        s.within("backlog", &mut self.backlog, Size(1)..=Size(1 << 30), "up to 1GiB");
        s.within(
            "backlog_time",
            &mut self.backlog_time,
            Period::parse("1ms").unwrap_or(Period::secs(1))..=Period::secs(3600),
            "from 1ms to 1h",
        );
        s.within(
            "read_timeout",
            &mut self.read_timeout,
            Period::secs(0)..=Period::secs(3600),
            "up to 1h",
        );
        s.within("open_files", &mut self.open_files, 0..=65_536, "up to 65536");
    }
}

impl Mqtt {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        s.read_with("default_vhost", &mut self.default_vhost, only_vhost);
        s.read("exchange", &mut self.exchange);
        let anonymous = [
            ("deny", Anonymous::Deny),
            ("loopback", Anonymous::Loopback),
            ("allow", Anonymous::Allow),
        ];
        s.choice("anonymous", &mut self.anonymous, &anonymous);
        s.read("anonymous_user", &mut self.anonymous_user);
        s.later("vhost_by_port", &["{}"]);
        s.later("vhost_by_cert", &["{}"]);
        s.within("max_inflight", &mut self.max_inflight, 1..=u16::MAX, "from 1 to 65535");
        s.within(
            "receive_maximum",
            &mut self.receive_maximum,
            1..=u16::MAX,
            "from 1 to 65535",
        );
        s.within(
            "connect_size_max",
            &mut self.connect_size_max,
            Size(1 << 10)..=Size(16 << 20),
            "from 1KiB to 16MiB",
        );
        s.read("session_expiry_max", &mut self.session_expiry_max);
        s.later("retained_max", &["0"]);
    }
}

impl Auth {
    fn read(&mut self, s: &mut Section<'_, '_>) {
        s.later("backends", &["[\"internal\"]"]);
        // EXTERNAL needs a client certificate, and so is not offered yet either way.
        s.later(
            "mechanisms",
            &["[\"PLAIN\", \"AMQPLAIN\", \"EXTERNAL\"]", "[\"PLAIN\", \"AMQPLAIN\"]"],
        );
        s.read("loopback_users", &mut self.loopback_users);
        s.read("default_user", &mut self.default_user);
        s.read("default_password_file", &mut self.default_password_file);
        s.later("cache_ttl", &["\"15s\""]);
        s.section("certificate", |s| s.later("identity", &["\"cn\""]));
        s.section("http", |s| {
            s.later("style", &["\"rabbitmq\""]);
            for url in ["user_url", "vhost_url", "resource_url", "topic_url"] {
                s.later(url, &["\"\""]);
            }
            s.later("timeout", &["\"2s\""]);
            s.later("ca", &["\"\""]);
        });
        s.section("jwt", |s| {
            s.later("jwks", &["\"\""]);
            s.later("jwks_ttl", &["\"1h\""]);
            s.later("resource_server_id", &["\"gatepost\""]);
            s.later("verify_aud", &["true"]);
            s.later("algorithms", &["[\"RS256\", \"ES256\"]"]);
            s.later("username_claims", &["[\"sub\", \"client_id\"]"]);
            s.later("scope_claims", &["[\"scope\"]"]);
        });
        s.section("file", |s| {
            s.later("passwords", &["\"\""]);
            s.later("acl", &["\"\""]);
        });
    }
}

/// Until there are more, the only vhost is `/`.
fn only_vhost(value: &toml::de::DeValue<'_>) -> Result<String, String> {
    value
        .as_str()
        .filter(|v| *v == "/")
        .map(str::to_owned)
        .ok_or_else(|| "\"/\" (other vhosts are not supported yet)".to_owned())
}
