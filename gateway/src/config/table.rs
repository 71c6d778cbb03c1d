//! The node's keys: name, type, default, what values are allowed, when a change applies, and what it means.
//!
//! One line here is a key and a field: parsing, `--print-config`, the sample file and the reference follow from it. A
//! key that one protocol alone reads stands in that protocol's crate instead (`Description::keys`).
//!
//! ```text
//!     /// What the key means.
//!     name: Type = "default as in a file", Kind, When;
//! ```

use super::units::{Budget, Period, Size};
use crate::directory::{mechanisms, outside, scram};
use crate::logging;
use gatepost_core::keys::Address;
use gatepost_core::keys::{Applies, FromValue, Key, Kind, Value, Values};
use std::path::PathBuf;
use std::time::Duration;

/// Declares a section: a struct with a field for each key, and its rows, whose names are without the section's.
macro_rules! section {
    ($(#[$meta:meta])* $name:ident {
        $($(#[doc = $text:literal])+ $field:ident: $type:ty = $default:expr, $kind:expr, $applies:ident;)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $name {
            $($(#[doc = $text])+ pub $field: $type,)*
        }

        impl $name {
            /// The rows.
            pub(super) const KEYS: &'static [Key] = &[
                $(Key {
                    name: stringify!($field),
                    kind: $kind,
                    default: $default,
                    applies: Applies::$applies,
                    text: concat!($($text, "\n"),+),
                },)*
            ];

            /// The section as `values` has it.
            ///
            /// # Panics
            /// A row's kind does not fit its field: `Config::default()` would panic too, and a test calls that.
            pub(super) fn read(values: &Values, section: &str) -> Self {
                $name {
                    $($field: values
                        .read(&format!("{section}.{}", stringify!($field)))
                        .expect("the row's kind fits the field's type"),)*
                }
            }
        }
    };
}

/// Declares an enum whose variants are words of the configuration.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $text:literal])+ $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[doc = $text])+ $variant,)*
        }

        impl $name {
            const WORDS: Kind = Kind::Choice(&[$($word),*]);
        }

        impl FromValue for $name {
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    $(Value::Text(word) if word == $word => Some($name::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

section! {
    /// The node itself.
    Node {
        /// The node's name, as operators see it.
        name: String = HOST, Kind::Text, Restart;
        /// The name shown as the cluster's.
        cluster_name: String = HOST, Kind::Text, Now;
        /// Where messages and definitions are kept.
        data_dir: PathBuf = "\"./gatepost-data\"", Kind::Path, Restart;
        /// Threads that may serve connections; 0: one per core. The first works alone while it can; the others help when
        /// connections have to wait for it.
        io_threads: usize = "0", Kind::Count { min: 0, max: IO_THREADS_MAX }, Restart;
    }
}

/// Stands for a default that is made of the host's name; see [`super::schema`].
const HOST: &str = "";
/// More I/O threads than this are taken for a typing mistake.
const IO_THREADS_MAX: u64 = 256;

section! {
    /// The node's log of events for people (not the message log).
    Log {
        /// `error`, `warn` (or `warning`), `info`, `debug`, `trace`, or directives such as `info,gatepost_mqtt=debug`.
        level: String = "\"info\"", Kind::Checked { expected: logging::LEVELS, check: logging::is_level }, Now;
        /// How a line is written.
        format: LogFormat = "\"text\"", LogFormat::WORDS, Now;
        /// `stderr`, or a file to append to. A reload opens the file anew, so that logrotate may move it away before.
        target: String = "\"stderr\"", Kind::Checked { expected: LOG_TARGETS, check: is_log_target }, Now;
    }
}

const LOG_TARGETS: &str = "\"stderr\" or a file (journald is not supported yet; it collects stderr)";

fn is_log_target(target: &str) -> bool {
    !matches!(target, "" | "journald")
}

words! {
    /// See [`Log::format`].
    LogFormat {
        /// Lines for people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

section! {
    /// One listener: its keys stand under `listeners.NAME`.
    Listener {
        /// What is spoken there: the name of a protocol, or `metrics`.
        protocol: String = "\"\"", Kind::Text, Restart;
        /// Addresses to listen on; empty: off. `[::]` takes IPv4 too. `unix:/run/gatepost/mqtt.sock` is a Unix socket:
        /// its file has mode 0660, and clients that come through it count as local.
        bind: Vec<Address> = "[]", Kind::Addresses, Restart;
        /// Addresses to listen on with TLS; empty: off. Without a certificate nothing listens there.
        tls_bind: Vec<Address> = "[]", Kind::Addresses, Restart;
        /// UDP addresses to listen on with QUIC, such as `[::]:14567`; empty: off. Needs a certificate. MQTT only.
        quic_bind: Vec<Address> = "[]", Kind::Addresses, Restart;
        /// Whether QUIC clients that resume a session may send their first packets with the handshake (0-RTT). They are
        /// not looked at before the handshake is done. Sessions are then not resumed after a restart.
        quic_early_data: bool = "false", Kind::Flag, NewConnections;
        /// Connections the kernel keeps waiting for us.
        backlog: u32 = "128", Kind::Count { min: 1, max: 65_535 }, Restart;
        /// Connections at once through this listener; 0: `limits.max_connections` alone counts.
        max_connections: u64 = "0", Kind::COUNT, Now;
        /// The vhost of clients that name none, or the default one; empty: the protocol's own rule.
        vhost: String = "\"\"", Kind::Text, Restart;
        /// Who may log in without credentials here; `default`: as `mqtt.anonymous` says.
        anonymous: AnonymousHere = "\"default\"", AnonymousHere::WORDS, Restart;
        /// Whether each connection begins with a PROXY header (version 1 or 2), in which a proxy says whom it passes on.
        /// A connection without one is closed. Clients that come through a proxy never count as local.
        proxy_protocol: bool = "false", Kind::Flag, Restart;
        /// Networks of the proxies, such as `10.0.0.0/8`. Others that connect are closed. A Unix socket needs none.
        proxy_from: Vec<String> = "[]", Kind::Texts, Restart;
        /// Whether the protocol is spoken over WebSocket here, and not on the bare socket.
        websocket: bool = "false", Kind::Flag, Restart;
        /// Origins of the web pages that may connect by WebSocket, such as `https://panel.example`; `null` is a page from
        /// a file. Empty: any page may, but only pages from this machine (`http://localhost:8000`) count as local.
        origins: Vec<String> = "[]", Kind::Texts, Restart;
    }
}

section! {
    /// TLS. `[tls]` is for all listeners; `listeners.NAME.tls` has the same keys, and what is set there goes before.
    /// Files are read again on SIGHUP, and connections that are open stay as they are.
    Tls {
        /// PEM file with the certificate that clients see, and those between it and its CA. A listener that has its own
        /// takes `key`, `sni_certs` and `sni_keys` from its own section, too.
        cert: String = "\"\"", Kind::File, NewConnections;
        /// PEM file with its private key.
        key: String = "\"\"", Kind::File, NewConnections;
        /// Further certificates: each is shown to clients that ask for one of its DNS names (SNI).
        sni_certs: Vec<String> = "[]", Kind::Texts, NewConnections;
        /// Their private keys, in the same order.
        sni_keys: Vec<String> = "[]", Kind::Texts, NewConnections;
        /// Whether clients are asked for a certificate, and must have one. In a listener's section `""`: as in `[tls]`.
        client_auth: ClientAuth = "\"none\"", ClientAuth::WORDS, NewConnections;
        /// PEM file with the CAs that clients' certificates are held against. A listener that has its own takes
        /// `client_crl` from its own section, too.
        client_ca: String = "\"\"", Kind::File, NewConnections;
        /// PEM file with the CAs' lists of revoked certificates; empty: none is looked at. A certificate of a CA
        /// without a list in the file is refused. Lists count beyond the date of their next update, too.
        client_crl: String = "\"\"", Kind::File, NewConnections;
        /// The oldest version of TLS. In a listener's section `""`: as in `[tls]`.
        min_version: TlsVersion = "\"1.2\"", TlsVersion::WORDS, NewConnections;
    }
}

words! {
    /// See [`Tls::client_auth`].
    ClientAuth {
        /// As `[tls]` says.
        Inherited = "",
        /// They are not asked.
        None = "none",
        /// They are asked; without a certificate they log in like anybody else.
        Optional = "optional",
        /// Without one there is no connection.
        Required = "require",
    }
}

words! {
    /// See [`Tls::min_version`].
    TlsVersion {
        /// As `[tls]` says.
        Inherited = "",
        /// TLS 1.2 and 1.3.
        Tls12 = "1.2",
        /// TLS 1.3.
        Tls13 = "1.3",
    }
}

section! {
    /// What one client, or all of them, may use.
    Limits {
        /// Connections at once, over all protocols; 0: what the file descriptor limit allows.
        max_connections: u64 = "0", Kind::COUNT, Now;
        /// Connections at once of each user that has no limit of its own; 0: no limit.
        max_connections_per_user: u64 = "0", Kind::COUNT, Now;
        /// Body of one message, in every protocol.
        max_message_size: Size = "\"16MiB\"", Kind::Size { min: 1, max: 1 << 30 }, NewConnections;
        /// Levels of an MQTT topic or filter. More is refused.
        topic_levels_max: usize = "200", Kind::Count { min: 1, max: 200 }, NewConnections;
        /// Queues per vhost. One message may go to all of them: with 10,000 that takes 1 to 2 ms, with 100,000 up to 20,
        /// in which no other client is served.
        max_queues: usize = "10000", Kind::Count { min: 1, max: 10_000_000 }, Now;
        /// Headers of a message that a headers exchange takes, and headers that a binding to one asks for. More are refused.
        message_headers_max: usize = "1000", Kind::Count { min: 1, max: 1_000_000 }, Now;
        /// Routing keys that a message has in CC and BCC, beside its own. More are refused.
        message_keys_max: usize = "1024", Kind::Count { min: 1, max: 1_000_000 }, Now;
        /// Wildcards of a topic filter or a binding key.
        filter_wildcards_max: usize = "32", Kind::Count { min: 1, max: 200 }, Now;
        /// Subscriptions of an MQTT session.
        session_filters_max: usize = "10000", Kind::Count { min: 1, max: 1_000_000 }, Now;
        /// Messages times queues of a transaction, and deliveries that it settles: it counts in one go.
        transaction_deliveries_max: usize = "32768", Kind::Count { min: 1, max: 10_000_000 }, Now;
        /// From accept to a finished login.
        handshake_timeout: Period = "\"10s\"", Kind::secs(1, 86_400), NewConnections;
        /// AMQP and STOMP heartbeat offered; 0: none.
        heartbeat: Period = "\"60s\"", Kind::secs(0, 65_535), NewConnections;
        /// Payload of one WebSocket message. A client may send several packets in one, or one packet in several.
        websocket_message_max: Size = "\"32MiB\"", Kind::Size { min: 1 << 10, max: 1 << 31 }, NewConnections;
        /// A WebSocket that was silent for so long is asked with a ping whether it is there, and closed if it is silent
        /// for as long again; 0: it is not asked.
        websocket_ping: Period = "\"30s\"", Kind::secs(0, 86_400), NewConnections;
        /// A QUIC connection that was silent for so long is asked whether its peer is there. This also keeps its way
        /// through NAT open. 0: it is not asked.
        quic_ping: Period = "\"15s\"", Kind::secs(0, 86_400), NewConnections;
        /// A QUIC connection that was silent for so long is lost; 0: never. Has to be longer than `quic_ping`, or, where
        /// that is 0, than the keep-alive of any client.
        quic_idle_timeout: Period = "\"60s\"", Kind::secs(0, 86_400), NewConnections;
        /// While so many QUIC handshakes are under way at a listener, further clients have to prove their address first.
        quic_retry_over: usize = "32", Kind::Count { min: 0, max: 1_000_000 }, Now;
    }
}

section! {
    /// What keeps a few clients, or strangers, from taking the gateway from all. Rates count connections and failed logins, never
    /// logins that are good: many devices may be behind one address.
    Protection {
        /// Networks to which no rule about addresses applies. A proxy that sends no PROXY header belongs here: all its
        /// clients have one address.
        exempt: Vec<String> = "[\"127.0.0.0/8\", \"::1\"]", Kind::Texts, Now;
        /// Connections that one address (in IPv6: one network of 64 bits) may open in a second; 0: any number. More are closed.
        address_connections_per_second: u64 = "500", Kind::COUNT, Now;
        /// How many it may open at once, when it has opened none for a while.
        address_connections_burst: u64 = "5000", Kind::COUNT, Now;
        /// Connections that a listener accepts in a second; 0: any number. More wait in the kernel's queue.
        listener_connections_per_second: u64 = "0", Kind::COUNT, Now;
        /// Connections that have not logged in yet; 0: half of those there may be. Over it, the oldest that does not go on is
        /// closed for each new one.
        half_open_max: usize = "0", Kind::Count { min: 0, max: 10_000_000 }, Now;
        /// Failed logins of one address within `login_failures_window` whose answers are not held back.
        login_failures_free: u64 = "10", Kind::COUNT, Now;
        /// For how long the answers to further ones are.
        login_failure_delay: Period = "\"1s\"", Kind::secs(0, 5), Now;
        /// Failed logins within the window after which the address is banned; 0: it never is. Far above what devices with an
        /// old password do that are behind one address with others.
        login_failures_max: u64 = "300", Kind::COUNT, Now;
        /// The window.
        login_failures_window: Period = "\"1m\"", Kind::secs(1, 86_400), Now;
        /// How long the ban is. Connections that are open stay.
        login_ban: Period = "\"1m\"", Kind::secs(0, 86_400), Now;
        /// Addresses and networks that are kept out.
        banned_addresses: Vec<String> = "[]", Kind::Texts, Now;
        /// Users that are kept out.
        banned_users: Vec<String> = "[]", Kind::Texts, Now;
        /// MQTT client ids that are kept out, and names of other protocols' connections.
        banned_clients: Vec<String> = "[]", Kind::Texts, Now;
        /// Messages that one connection may publish in a second; 0: any number. A publisher over it is not read until it may go on;
        /// nothing is refused or lost.
        client_publishes_per_second: u64 = "0", Kind::COUNT, Now;
        /// The same in bytes of bodies.
        client_publish_bytes_per_second: Size = "0", Kind::SIZE, Now;
        /// Messages that all connections of one user may publish in a second; 0: any number.
        user_publishes_per_second: u64 = "0", Kind::COUNT, Now;
        /// The same in bytes of bodies.
        user_publish_bytes_per_second: Size = "0", Kind::SIZE, Now;
        /// A client that takes less than 1 KiB of what waits for it in so long is closed.
        slow_reader_timeout: Period = "\"30s\"", Kind::secs(1, 86_400), NewConnections;
        /// Connections over a limit that are let in to be told so in their protocol's words. More are just closed.
        refusals_max: usize = "32", Kind::Count { min: 0, max: 10_000 }, Now;
    }
}

section! {
    /// Memory.
    Memory {
        /// What all that clients make may fill: a share of the machine, or bytes. The parts below are of it.
        budget: Budget = "0.4", Kind::Share, Now;
        /// What deliveries that consumers do not settle may fill: 32 bytes each, and their bodies until they are in the
        /// log. A share is of the budget. Over it, who holds much of it is offered no more until it settles.
        unsettled: Budget = "0.2", Kind::Share, Now;
        /// What clients make and what cannot leave memory: topics of retained messages, subscriptions, bindings, queues,
        /// sessions, connections. A share is of the budget. More is refused.
        objects: Budget = "0.25", Kind::Share, Now;
        /// Packets that have not arrived completely. A share is of the budget. Over it, connections that have sent a
        /// part of a large one are not read, but for one at a time.
        input: Budget = "0.1", Kind::Share, Now;
        /// Publishes kept per connection while publishers have to wait; then its socket is no longer read.
        per_connection_buffer: Size = "\"64KiB\"", Kind::Size { min: 4 << 10, max: 16 << 20 }, NewConnections;
    }
}

section! {
    /// Free disk.
    Disk {
        /// Free space under which publishers wait. Of this, 5 % and four segments the largest holds.
        free_limit: Size = "\"256MiB\"", Kind::SIZE, Now;
        /// Room that is kept for what consumers settle: publishes that need it are refused. Of this and two segments the
        /// larger holds.
        reserve: Size = "0", Kind::SIZE, Now;
    }
}

section! {
    /// The message log.
    Store {
        /// What a confirm stands for.
        durability: Durability = "\"always\"", Durability::WORDS, Now;
        /// Least time from one sync to the next.
        min_sync_gap: Period = "\"0s\"", Kind::secs(0, 10), Now;
        /// Time between syncs with `interval`.
        interval: Period = "\"1s\"", MS_TO_HOUR, Now;
        /// Whether a confirm waits for the sync with `interval`.
        confirm: Confirm = "\"synced\"", Confirm::WORDS, Now;
        /// Size of a log segment; `auto`: by medium.
        segment_size: Option<Size> = "\"auto\"", Kind::SizeOrAuto, Restart;
        /// Message bodies kept in memory.
        cache: Size = "\"16MiB\"", Kind::SIZE, Now;
        /// What may wait to be written; over it publishers wait. One message always may.
        backlog: Size = "\"4MiB\"", Kind::Size { min: 1, max: 1 << 30 }, Now;
        /// How long it may wait; over it publishers wait, too.
        backlog_time: Period = "\"2s\"", MS_TO_HOUR, Now;
        /// For how long a read that fails is tried again before the process ends.
        read_timeout: Period = "\"30s\"", Kind::secs(0, 3_600), Restart;
        /// Files of the log kept open for reading; 0: by the limit on open files.
        open_files: u64 = "0", Kind::Count { min: 0, max: 65_536 }, Restart;
    }
}

const MS_TO_HOUR: Kind = Kind::Period {
    min: Duration::from_millis(1),
    max: Duration::from_secs(3_600),
};

words! {
    /// See [`Store::durability`].
    Durability {
        /// A sync covered it.
        Always = "always",
        /// A sync covers it within the interval.
        Interval = "interval",
        /// The kernel has it.
        Os = "os",
    }
}

words! {
    /// See [`Store::confirm`].
    Confirm {
        /// A confirm waits for the sync.
        Synced = "synced",
        /// It does not.
        Written = "written",
    }
}

section! {
    /// What the node and other protocols share with MQTT.
    Mqtt {
        /// Exchange that topics are published to and filters bind to.
        exchange: String = "\"amq.topic\"", Kind::Text, Restart;
        /// Who may log in without credentials; STOMP clients too.
        anonymous: Anonymous = "\"loopback\"", Anonymous::WORDS, Now;
        /// Who they are then.
        anonymous_user: String = "\"anonymous\"", Kind::Text, Now;
        /// Authentication methods of MQTT 5 that are spoken. `SCRAM-SHA-256`: passwords that are set from then on, or used in
        /// another login, are kept in a second form, which is easier to attack for whoever steals the data directory.
        /// `OAUTH2-JWT`: the data is a token of the back end `jwt`.
        auth_methods: Vec<String> = "[\"OAUTH2-JWT\"]", Kind::Words(mechanisms::METHODS), Now;
        /// How often `$SYS` tells MQTT clients that subscribe to it what has changed; 0: never.
        sys_interval: Period = "\"10s\"", Kind::secs(0, 86_400), Now;
        /// How long a session may outlive its connection.
        session_expiry_max: Period = "\"1d\"", Kind::secs(0, u64::MAX / 1000), NewConnections;
    }
}

words! {
    /// See [`Mqtt::anonymous`].
    Anonymous {
        /// Nobody.
        Deny = "deny",
        /// Clients on this machine.
        Loopback = "loopback",
        /// Everybody.
        Allow = "allow",
    }
}

words! {
    /// See [`Listener::anonymous`].
    AnonymousHere {
        /// As `mqtt.anonymous` says.
        Default = "default",
        /// Nobody.
        Deny = "deny",
        /// Clients on this machine.
        Loopback = "loopback",
        /// Everybody.
        Allow = "allow",
    }
}

section! {
    /// Who may log in.
    Auth {
        /// Who is asked about a name: `internal` (the users that the gateway keeps), `file` (Mosquitto's files). It belongs to
        /// the first that knows it. With `jwt` a password may be a token, which brings a user of its own. `http` is a server that
        /// is asked about all other names.
        backends: Vec<String> = "[\"internal\"]", Kind::Texts, Now;
        /// Users that may log in from this machine only.
        loopback_users: Vec<String> = "[\"guest\"]", Kind::Texts, Now;
        /// The user that is made at the first start on an empty data directory; empty: none.
        default_user: String = "\"guest\"", Kind::Text, Restart;
        /// File with that user's password; empty: `guest`, for the user `guest` only.
        default_password_file: String = "\"\"", Kind::File, Restart;
        /// How long a password that was right is remembered, so that the next login with it costs no hash; 0: not at all.
        cache_ttl: Period = "\"15s\"", Kind::secs(0, 3_600), Now;
        /// Threads that check passwords. They run only while there are logins, and give way to everything else.
        hashing_threads: usize = "2", Kind::Count { min: 1, max: 16 }, Restart;
        /// Memory that checking passwords may take, all threads together; it is a part of `memory.budget`. A hash that
        /// needs more than one thread's part cannot be imported.
        hashing_memory: Size = "\"8MiB\"", Kind::Size { min: 1 << 20, max: 1 << 30 }, Restart;
        /// Memory for users that the gateway does not keep itself: those that tokens bring and that a
        /// server knows, and its answers. It is a part of `memory.budget`. When
        /// it is used up, further ones are refused as "busy".
        outside_memory: Size = "\"8MiB\"", Kind::Size { min: 64 << 10, max: 1 << 40 }, Now;
        /// Logins that may wait to be checked. More are refused as "busy".
        logins_waiting_max: usize = "10000", Kind::Count { min: 1, max: 1_000_000 }, Now;
        /// Memory of one new password hash (argon2id). Existing hashes keep theirs.
        argon2_memory: Size = "\"4MiB\"", Kind::Size { min: 64 << 10, max: 1 << 30 }, Now;
        /// Passes over it. An attacker with a stolen hash needs as long for each guess as a login takes.
        argon2_passes: u64 = "3", Kind::Count { min: 1, max: 64 }, Now;
        /// Iterations of a password that is kept for SCRAM. The client computes them at each login.
        scram_iterations: u64 = "4096", SCRAM_ITERATIONS, Now;
    }
}

const SCRAM_ITERATIONS: Kind = Kind::Count {
    min: scram::ITERATIONS_MIN as u64,
    max: scram::ITERATIONS_MAX as u64,
};

section! {
    /// The back end `file`: Mosquitto's files. They are read again on SIGHUP.
    AuthFile {
        /// Password file, as `mosquitto_passwd` writes it.
        passwords: String = "\"\"", Kind::File, Now;
        /// ACL file; empty: its users may use every topic. It also says what clients without a name may do.
        acl: String = "\"\"", Kind::File, Now;
    }
}

section! {
    /// The back end `http`: a server says who may log in and what each user may do, as RabbitMQ's rabbitmq_auth_backend_http asks
    /// one. Answers count for `auth.cache_ttl`, and a second at least.
    AuthHttp {
        /// How it is asked: `rabbitmq` posts forms and is answered `allow` or `deny`; `emqx` posts JSON and is answered
        /// `{"result": "allow"}`.
        style: HttpStyle = "\"rabbitmq\"", HttpStyle::WORDS, Now;
        /// Where it is asked about a name and its password. `https://` or `http://`.
        user_url: String = "\"\"", Kind::Text, Now;
        /// Where it is asked whether a user may use a vhost. Empty, with `emqx`: it may.
        vhost_url: String = "\"\"", Kind::Text, Now;
        /// Where it is asked about queues and exchanges. Empty, with `emqx`: every user may use all.
        resource_url: String = "\"\"", Kind::Text, Now;
        /// Where it is asked about topics. Empty: whoever may use a topic exchange may use all its topics.
        topic_url: String = "\"\"", Kind::Text, Now;
        /// How long it has for an answer. Without one, the answer is no.
        timeout: Period = "\"2s\"", Kind::secs(1, 60), Now;
        /// PEM file with the authorities that its server must have its certificate from; empty: the system's.
        ca: String = "\"\"", Kind::File, Now;
        /// Requests at once. Others wait for their turn.
        requests_max: usize = "16", Kind::Count { min: 1, max: REQUESTS_MAX }, Now;
    }
}

/// As many requests as there are turns for.
const REQUESTS_MAX: u64 = outside::REQUESTS_MAX as u64;

words! {
    /// See [`AuthHttp::style`].
    HttpStyle {
        /// Forms, and words.
        RabbitMq = "rabbitmq",
        /// JSON.
        Emqx = "emqx",
    }
}

section! {
    /// The back end `jwt`: the password is a token. Its keys are read again on SIGHUP.
    AuthJwt {
        /// The issuer's public keys (JWKS): a file, or an `https://` or `http://` URL.
        jwks: String = "\"\"", Kind::File, Now;
        /// How often the keys of a URL are fetched. They are also fetched when a token names a key that is not among them, at
        /// most every five seconds. While the server does not answer, the keys that are known count for a day more.
        jwks_ttl: Period = "\"1h\"", Kind::secs(1, 604_800), Now;
        /// PEM file with the authorities that the URL's server must have its certificate from; empty: the system's.
        ca: String = "\"\"", Kind::File, Now;
        /// What a token's `aud` must name, and what its scopes begin with.
        resource_server_id: String = "\"gatepost\"", Kind::Text, Now;
        /// Whether `aud` is looked at.
        verify_aud: bool = "true", Kind::Flag, Now;
        /// Signatures that count: `RS256`, `ES256`.
        algorithms: Vec<String> = "[\"RS256\", \"ES256\"]", Kind::Texts, Now;
        /// Claims that name the user; the first that is there counts.
        username_claims: Vec<String> = "[\"sub\", \"client_id\"]", Kind::Texts, Now;
        /// Claims that hold scopes.
        scope_claims: Vec<String> = "[\"scope\"]", Kind::Texts, Now;
    }
}

section! {
    /// Clients that log in with what their certificate says: with the mechanism EXTERNAL in AMQP, and without a password in
    /// MQTT and STOMP.
    AuthCertificate {
        /// What names the user: the subject's common name, or the first alternative name of a kind. `none`: certificates
        /// open a port, and nobody logs in with one.
        identity: Identity = "\"cn\"", Identity::WORDS, Now;
    }
}

words! {
    /// See [`AuthCertificate::identity`].
    Identity {
        /// Nothing does.
        None = "none",
        /// The common name.
        CommonName = "cn",
        /// The first DNS name.
        Dns = "dns",
        /// The first URI.
        Uri = "uri",
        /// The first e-mail address.
        Email = "email",
    }
}

section! {
    /// What Prometheus may ask.
    Metrics {
        /// Whether `/metrics` is only answered on addresses of this machine (127.0.0.1, ::1). Health is answered on all.
        loopback_only: bool = "true", Kind::Flag, Now;
        /// Whether `/metrics` is only answered to users with the tag `monitoring` or `administrator`, who log in by HTTP Basic
        /// or a bearer token. Health is answered to everybody.
        auth: bool = "false", Kind::Flag, Now;
        /// Queues, channels and connections, each, that `/metrics/per-object` and `/metrics/detailed` show. How many more
        /// there are is in `gatepost_metrics_objects_truncated`.
        per_object_limit: usize = "2000", Kind::Count { min: 0, max: 1_000_000 }, Now;
    }
}

section! {
    /// The management API.
    Management {
        /// What stands before `/api` in its paths, such as `/gatepost` behind a proxy.
        path_prefix: String = "\"\"", Kind::Checked { expected: PATH_PREFIX, check: is_path_prefix }, Now;
        /// Origins of web pages of other servers that may use the API, such as `https://panel.example`; `*`: all. A browser
        /// lets others neither read nor change anything.
        cors_origins: Vec<String> = "[]", Kind::Texts, Now;
        /// Body of one request.
        max_body: Size = "\"1MiB\"", Kind::Size { min: 1 << 10, max: 1 << 30 }, Now;
        /// Whether the console, a web page, is served beside the API.
        ui: bool = "true", Kind::Flag, Now;
    }
}

section! {
    /// Definitions that are imported at each start.
    Definitions {
        /// A JSON document in RabbitMQ's form, such as `gatepost definitions export` writes. It adds and changes, and deletes nothing. If
        /// something in it is wrong, the gateway does not start. Where it has users, `auth.default_user` is not made.
        file: String = "\"\"", Kind::File, Restart;
    }
}

const PATH_PREFIX: &str = "\"\", or a path such as \"/gatepost\" that does not end with /";

fn is_path_prefix(path: &str) -> bool {
    path.is_empty() || path.starts_with('/') && !path.ends_with('/') && !path.contains(['%', '?', '#', ' '])
}

/// Keys of the documented configuration whose features are not built, with the only values they take. A setting that
/// is read and then ignored is worse than one that is refused.
pub(super) const LATER: &[(&str, &[&str])] = &[
    ("limits.consumer_timeout", &["\"30m\""]),
    ("limits.default_prefetch", &["0"]),
    ("mqtt.vhost_by_port", &["{}"]),
    ("mqtt.vhost_by_cert", &["{}"]),
    ("mqtt.retained_max", &["0"]),
    ("definitions.skip_if_unchanged", &["true"]),
    ("management.stats_interval", &["\"5s\""]),
];
