//! The node's keys: name, type, default, allowed values, when a change applies, and meaning.
//!
//! One line defines a key and a field; parsing, `--print-config`, the sample file and the reference are derived from it. A
//! key that only one protocol reads is defined in that protocol's crate instead (`Description::keys`).
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

/// Declares a section: a struct with a field for each key, and its rows, whose names do not contain the section's.
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

            /// Reads the section from `values`.
            ///
            /// # Panics
            /// A row's kind does not fit its field. `Config::default()` would panic too, and a test calls that.
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

/// Placeholder for a default that contains the host's name; see [`super::schema`].
const HOST: &str = "";
/// More I/O threads than this are probably a typing mistake.
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
        /// Connections that the kernel queues until the gateway accepts them.
        backlog: u32 = "128", Kind::Count { min: 1, max: 65_535 }, Restart;
        /// Maximum connections of this listener; 0: only `limits.max_connections` applies.
        max_connections: u64 = "0", Kind::COUNT, Now;
        /// The vhost of clients that name none, or the default one; empty: the protocol's own rule.
        vhost: String = "\"\"", Kind::Text, Restart;
        /// Who may log in without credentials here; `default`: as `mqtt.anonymous` says.
        anonymous: AnonymousHere = "\"default\"", AnonymousHere::WORDS, Restart;
        /// Whether each connection must begin with a PROXY header (version 1 or 2), in which a proxy names its client.
        /// A connection without one is closed. Clients behind a proxy never count as local.
        proxy_protocol: bool = "false", Kind::Flag, Restart;
        /// Networks of the proxies, such as `10.0.0.0/8`. Connections from elsewhere are closed. Not needed for a Unix socket.
        proxy_from: Vec<String> = "[]", Kind::Texts, Restart;
        /// Whether the protocol is spoken over WebSocket here instead of directly on the socket.
        websocket: bool = "false", Kind::Flag, Restart;
        /// Origins of the web pages that may connect by WebSocket, such as `https://panel.example`; `null` is a page from
        /// a file. Empty: any page may, but only pages from this machine (`http://localhost:8000`) count as local.
        origins: Vec<String> = "[]", Kind::Texts, Restart;
    }
}

section! {
    /// TLS. `[tls]` is for all listeners; `listeners.NAME.tls` has the same keys, and values set there take precedence.
    /// Files are read again on SIGHUP; open connections are not affected.
    Tls {
        /// PEM file with the server's certificate and its chain up to the CA. A listener with its own certificate also
        /// takes `key`, `sni_certs` and `sni_keys` from its own section.
        cert: String = "\"\"", Kind::File, NewConnections;
        /// PEM file with its private key.
        key: String = "\"\"", Kind::File, NewConnections;
        /// Further certificates: each is shown to clients that ask for one of its DNS names (SNI).
        sni_certs: Vec<String> = "[]", Kind::Texts, NewConnections;
        /// Their private keys, in the same order.
        sni_keys: Vec<String> = "[]", Kind::Texts, NewConnections;
        /// Whether clients are asked for a certificate, and must have one. In a listener's section `""`: as in `[tls]`.
        client_auth: ClientAuth = "\"none\"", ClientAuth::WORDS, NewConnections;
        /// PEM file with the CAs that clients' certificates are checked against. A listener with its own file also takes
        /// `client_crl` from its own section.
        client_ca: String = "\"\"", Kind::File, NewConnections;
        /// PEM file with the CAs' lists of revoked certificates; empty: revocation is not checked. A certificate of a CA
        /// without a list in the file is refused. Lists stay valid after the date of their next update.
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
        /// Clients are not asked for a certificate.
        None = "none",
        /// Clients are asked; without a certificate they log in as usual.
        Optional = "optional",
        /// Clients without a certificate are refused.
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
        /// Maximum connections over all protocols; 0: what the limit on file descriptors allows.
        max_connections: u64 = "0", Kind::COUNT, Now;
        /// Maximum connections of each user that has no limit of its own; 0: no limit.
        max_connections_per_user: u64 = "0", Kind::COUNT, Now;
        /// Maximum size of a message's body, in every protocol. A quarter of `memory.budget` is the most, or 1 MiB if that is more.
        max_message_size: Size = "\"16MiB\"", Kind::Size { min: 1, max: 1 << 30 }, NewConnections;
        /// Maximum levels of an MQTT topic or filter. More are refused.
        topic_levels_max: usize = "200", Kind::Count { min: 1, max: 200 }, NewConnections;
        /// Maximum queues per vhost. One message may go to all of them, and meanwhile no other client is served: 1 to 2 ms with
        /// 10,000 queues, up to 20 ms with 100,000.
        max_queues: usize = "10000", Kind::Count { min: 1, max: 10_000_000 }, Now;
        /// Maximum headers of a message at a headers exchange, and of a binding to one. More are refused.
        message_headers_max: usize = "1000", Kind::Count { min: 1, max: 1_000_000 }, Now;
        /// Maximum routing keys of a message in CC and BCC. More are refused.
        message_keys_max: usize = "1024", Kind::Count { min: 1, max: 1_000_000 }, Now;
        /// Maximum wildcards of a topic filter or a binding key.
        filter_wildcards_max: usize = "32", Kind::Count { min: 1, max: 200 }, Now;
        /// Maximum subscriptions of an MQTT session.
        session_filters_max: usize = "10000", Kind::Count { min: 1, max: 1_000_000 }, Now;
        /// Maximum size of a transaction: its messages times their queues, plus the deliveries it settles. A commit is applied at
        /// once, and meanwhile no other client is served.
        transaction_deliveries_max: usize = "32768", Kind::Count { min: 1, max: 10_000_000 }, Now;
        /// Time from accepting a connection to its finished login.
        handshake_timeout: Period = "\"10s\"", Kind::secs(1, 86_400), NewConnections;
        /// Heartbeat that is offered to AMQP and STOMP clients; 0: none.
        heartbeat: Period = "\"60s\"", Kind::secs(0, 65_535), NewConnections;
        /// Maximum payload of a WebSocket message. A message may contain several packets, and a packet may span several messages.
        websocket_message_max: Size = "\"32MiB\"", Kind::Size { min: 1 << 10, max: 1 << 31 }, NewConnections;
        /// A WebSocket client that was silent for this long is sent a ping, and closed if it is silent for as long again;
        /// 0: no pings.
        websocket_ping: Period = "\"30s\"", Kind::secs(0, 86_400), NewConnections;
        /// A QUIC client that was silent for this long is sent a ping, which also keeps a NAT mapping alive; 0: no pings.
        quic_ping: Period = "\"15s\"", Kind::secs(0, 86_400), NewConnections;
        /// A QUIC connection is lost after this much silence; 0: never. It must be longer than `quic_ping`, or, if
        /// that is 0, longer than the keep-alive of every client.
        quic_idle_timeout: Period = "\"60s\"", Kind::secs(0, 86_400), NewConnections;
        /// While more than this many QUIC handshakes are in progress at a listener, further clients must first prove their address.
        quic_retry_over: usize = "32", Kind::Count { min: 0, max: 1_000_000 }, Now;
        /// Streams beside the one of its session that a QUIC client is refused before its connection is closed.
        quic_further_streams: usize = "100", Kind::Count { min: 0, max: 1_000_000 }, NewConnections;
    }
}

section! {
    /// Limits that keep a few clients, or attackers, from blocking all others. Rates count connections and failed logins, never
    /// successful logins, because many devices may be behind one address.
    Protection {
        /// Networks that are exempt from the rules about addresses. Add proxies that send no PROXY header, because all their
        /// clients seem to have one address.
        exempt: Vec<String> = "[\"127.0.0.0/8\", \"::1\"]", Kind::Texts, Now;
        /// Connections that one address (in IPv6: one /64 network) may open per second; 0: no limit. More are closed.
        address_connections_per_second: u64 = "500", Kind::COUNT, Now;
        /// How many connections it may open at once after a pause.
        address_connections_burst: u64 = "5000", Kind::COUNT, Now;
        /// Connections that a listener accepts per second; 0: no limit. More wait in the kernel's queue.
        listener_connections_per_second: u64 = "0", Kind::COUNT, Now;
        /// Maximum connections that have not logged in yet; 0: half of all connections allowed, or what `memory.input` has room
        /// for at 12 KiB each. Above it, each new connection closes the oldest one that makes no progress.
        half_open_max: usize = "0", Kind::Count { min: 0, max: 10_000_000 }, Now;
        /// Failed logins of one address within `login_failures_window` that are answered without delay.
        login_failures_free: u64 = "10", Kind::COUNT, Now;
        /// Delay of the answers to further failed logins.
        login_failure_delay: Period = "\"1s\"", Kind::secs(0, 5), Now;
        /// Failed logins within the window after which the address is banned; 0: never. Set it far above the number of failures
        /// that devices with an old password cause behind a shared address.
        login_failures_max: u64 = "300", Kind::COUNT, Now;
        /// The time window of `login_failures_free` and `login_failures_max`.
        login_failures_window: Period = "\"1m\"", Kind::secs(1, 86_400), Now;
        /// Duration of the ban. Open connections stay.
        login_ban: Period = "\"1m\"", Kind::secs(0, 86_400), Now;
        /// Addresses and networks that may not connect.
        banned_addresses: Vec<String> = "[]", Kind::Texts, Now;
        /// Users that may not log in.
        banned_users: Vec<String> = "[]", Kind::Texts, Now;
        /// MQTT client ids, and connection names of other protocols, that may not connect.
        banned_clients: Vec<String> = "[]", Kind::Texts, Now;
        /// Messages that one connection may publish per second; 0: no limit. A publisher above it is not read for a while;
        /// nothing is refused or lost.
        client_publishes_per_second: u64 = "0", Kind::COUNT, Now;
        /// The same in bytes of bodies.
        client_publish_bytes_per_second: Size = "0", Kind::SIZE, Now;
        /// Messages that all connections of one user together may publish per second; 0: no limit.
        user_publishes_per_second: u64 = "0", Kind::COUNT, Now;
        /// The same in bytes of bodies.
        user_publish_bytes_per_second: Size = "0", Kind::SIZE, Now;
        /// A client that has output waiting and reads less than 1 KiB of it in this time is closed.
        slow_reader_timeout: Period = "\"30s\"", Kind::secs(1, 86_400), NewConnections;
        /// Connections over a limit that are accepted only to be refused in their protocol's words. More are just closed.
        refusals_max: usize = "32", Kind::Count { min: 0, max: 10_000 }, Now;
    }
}

section! {
    /// Memory.
    Memory {
        /// Memory for everything that clients create: a share of the machine's memory, or bytes. The keys below are parts of it.
        /// A program of 32 bits takes at most 2 GiB, and a share of at most 2 GiB.
        budget: Budget = "0.4", Kind::Share, Now;
        /// Memory for unsettled deliveries: 32 bytes each, and their bodies until they are in the log. A share is of the
        /// budget. Above it, consumers that use much of it get no more deliveries until they settle some.
        unsettled: Budget = "0.2", Kind::Share, Now;
        /// Memory for objects that cannot leave memory: topics of retained messages, subscriptions, bindings, queues,
        /// sessions, connections. A share is of the budget. More are refused.
        objects: Budget = "0.25", Kind::Share, Now;
        /// Memory for incomplete packets, open transactions, output that is not read, and HTTP answers. A share is of the budget.
        /// Above it, only one of the connections with a large incomplete packet is read at a time, and one sends a large message.
        input: Budget = "0.1", Kind::Share, Now;
        /// Bytes of publishes kept per connection while publishers must wait; above it the socket is not read.
        per_connection_buffer: Size = "\"64KiB\"", Kind::Size { min: 4 << 10, max: 16 << 20 }, NewConnections;
    }
}

section! {
    /// Free disk.
    Disk {
        /// Publishers wait while less disk space than this is free. The largest of this, 5 % of the disk and four segments
        /// applies.
        free_limit: Size = "\"256MiB\"", Kind::SIZE, Now;
        /// Disk space reserved for settlements; publishes that would need it are refused. The larger of this and two segments
        /// applies.
        reserve: Size = "0", Kind::SIZE, Now;
    }
}

section! {
    /// The message log.
    Store {
        /// What a confirm guarantees.
        durability: Durability = "\"always\"", Durability::WORDS, Now;
        /// Minimum time from one sync to the next.
        min_sync_gap: Period = "\"0s\"", Kind::secs(0, 10), Now;
        /// Time between syncs with `interval`.
        interval: Period = "\"1s\"", MS_TO_HOUR, Now;
        /// Whether a confirm waits for the sync with `interval`.
        confirm: Confirm = "\"synced\"", Confirm::WORDS, Now;
        /// Size of a log segment; `auto`: by medium.
        segment_size: Option<Size> = "\"auto\"", Kind::SizeOrAuto, Restart;
        /// Memory for message bodies that are also in the log.
        cache: Size = "\"16MiB\"", Kind::SIZE, Now;
        /// Bytes that may wait to be written; above it publishers wait. One message is always allowed.
        backlog: Size = "\"4MiB\"", Kind::Size { min: 1, max: 1 << 30 }, Now;
        /// How long data may wait to be written; after that publishers wait, too.
        backlog_time: Period = "\"2s\"", MS_TO_HOUR, Now;
        /// How long a failing read is retried before the process ends.
        read_timeout: Period = "\"30s\"", Kind::secs(0, 3_600), Restart;
        /// Files of the log kept open for reading; 0: derived from the limit on open files.
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
        /// The data is synced.
        Always = "always",
        /// The data is synced within the interval.
        Interval = "interval",
        /// The kernel has the data.
        Os = "os",
    }
}

words! {
    /// See [`Store::confirm`].
    Confirm {
        /// A confirm waits for the sync.
        Synced = "synced",
        /// A confirm does not wait for the sync.
        Written = "written",
    }
}

section! {
    /// MQTT settings that the node and other protocols use, too.
    Mqtt {
        /// Exchange that topics are published to and filters bind to.
        exchange: String = "\"amq.topic\"", Kind::Text, Restart;
        /// Which MQTT and STOMP clients may log in without credentials.
        anonymous: Anonymous = "\"loopback\"", Anonymous::WORDS, Now;
        /// The user that they become.
        anonymous_user: String = "\"anonymous\"", Kind::Text, Now;
        /// Enabled authentication methods of MQTT 5. `SCRAM-SHA-256`: passwords that are set or used from then on are also kept in
        /// a second form, which is easier to attack if the data directory is stolen. `OAUTH2-JWT`: a token for the back end `jwt`.
        auth_methods: Vec<String> = "[\"OAUTH2-JWT\"]", Kind::Words(mechanisms::METHODS), Now;
        /// How often changed values are published in `$SYS`; 0: never.
        sys_interval: Period = "\"10s\"", Kind::secs(0, 86_400), Now;
        /// How long a session may outlive its connection, at most.
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
        /// Where users come from, in order: `internal` (the gateway's own users), `file` (Mosquitto's files). A name belongs to
        /// the first one that knows it. With `jwt` a password may be a token, which names its user. `http` is a server that
        /// is asked about all other names.
        backends: Vec<String> = "[\"internal\"]", Kind::Texts, Now;
        /// Users that may log in from this machine only.
        loopback_users: Vec<String> = "[\"guest\"]", Kind::Texts, Now;
        /// The user that is created at the first start on an empty data directory; empty: none.
        default_user: String = "\"guest\"", Kind::Text, Restart;
        /// File with that user's password; empty: `guest`, for the user `guest` only.
        default_password_file: String = "\"\"", Kind::File, Restart;
        /// How long a verified password is cached, so that the next login needs no hash; 0: not at all.
        cache_ttl: Period = "\"15s\"", Kind::secs(0, 3_600), Now;
        /// Threads that check passwords. They run only while there are logins, at low priority.
        hashing_threads: usize = "2", Kind::Count { min: 1, max: 16 }, Restart;
        /// Memory for checking passwords, for all threads together; a part of `memory.budget`. A hash that needs more than
        /// one thread's share cannot be imported.
        hashing_memory: Size = "\"8MiB\"", Kind::Size { min: 1 << 20, max: 1 << 30 }, Restart;
        /// Memory for users of tokens and of the back end `http`, and for that server's answers; a part of `memory.budget`. When
        /// it is used up, further users are refused as "busy".
        outside_memory: Size = "\"8MiB\"", Kind::Size { min: 64 << 10, max: 1 << 40 }, Now;
        /// Maximum logins that wait to be checked. More are refused as "busy".
        logins_waiting_max: usize = "10000", Kind::Count { min: 1, max: 1_000_000 }, Now;
        /// Memory that a new password hash (argon2id) uses. Existing hashes keep their parameters.
        argon2_memory: Size = "\"4MiB\"", Kind::Size { min: 64 << 10, max: 1 << 30 }, Now;
        /// Passes over this memory. Each guess of an attacker with a stolen hash takes as long as a login.
        argon2_passes: u64 = "3", Kind::Count { min: 1, max: 64 }, Now;
        /// Iterations for SCRAM. The client computes them at each login.
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
        /// Password file, as `mosquitto_passwd` writes it; empty: the file adds no users.
        passwords: String = "\"\"", Kind::File, Now;
        /// ACL file; empty: the users may use every topic. It also has the rights of clients without a name.
        acl: String = "\"\"", Kind::File, Now;
    }
}

section! {
    /// The back end `http`: a server decides who may log in and what each user may do, with the requests of RabbitMQ's
    /// rabbitmq_auth_backend_http. Answers are valid for `auth.cache_ttl`, but at least for a second.
    AuthHttp {
        /// The form of requests and answers: `rabbitmq` posts forms and expects `allow` or `deny`; `emqx` posts JSON and expects
        /// `{"result": "allow"}`.
        style: HttpStyle = "\"rabbitmq\"", HttpStyle::WORDS, Now;
        /// URL (`https://` or `http://`) for questions about a name and its password.
        user_url: String = "\"\"", Kind::Text, Now;
        /// URL for questions whether a user may use a vhost. Empty, with `emqx`: every user may.
        vhost_url: String = "\"\"", Kind::Text, Now;
        /// URL for questions about queues and exchanges. Empty, with `emqx`: every user may use all.
        resource_url: String = "\"\"", Kind::Text, Now;
        /// URL for questions about topics. Empty: a user that may use a topic exchange may use all its topics.
        topic_url: String = "\"\"", Kind::Text, Now;
        /// Time for an answer. Without an answer in time, the request is refused.
        timeout: Period = "\"2s\"", Kind::secs(1, 60), Now;
        /// PEM file with the CAs that the server's certificate is checked against; empty: the system's.
        ca: String = "\"\"", Kind::File, Now;
        /// Maximum concurrent requests. Others wait.
        requests_max: usize = "16", Kind::Count { min: 1, max: REQUESTS_MAX }, Now;
    }
}

/// As many as the back end can ask at a time.
const REQUESTS_MAX: u64 = outside::REQUESTS_MAX as u64;

words! {
    /// See [`AuthHttp::style`].
    HttpStyle {
        /// Forms, answered with a word.
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
        /// How often the keys are fetched from a URL. They are also fetched when a token names an unknown key, at most every five
        /// seconds. While the server does not answer, the known keys stay valid for a day more.
        jwks_ttl: Period = "\"1h\"", Kind::secs(1, 604_800), Now;
        /// PEM file with the CAs that the certificate of the URL's server is checked against; empty: the system's.
        ca: String = "\"\"", Kind::File, Now;
        /// The name that a token's `aud` must contain and its scopes must begin with.
        resource_server_id: String = "\"gatepost\"", Kind::Text, Now;
        /// Whether `aud` is checked.
        verify_aud: bool = "true", Kind::Flag, Now;
        /// Accepted signatures: `RS256`, `ES256`.
        algorithms: Vec<String> = "[\"RS256\", \"ES256\"]", Kind::Texts, Now;
        /// Claims that name the user; the first one that the token has is used.
        username_claims: Vec<String> = "[\"sub\", \"client_id\"]", Kind::Texts, Now;
        /// Claims that contain scopes.
        scope_claims: Vec<String> = "[\"scope\"]", Kind::Texts, Now;
    }
}

section! {
    /// Logins by certificate: with the mechanism EXTERNAL in AMQP, and without a password in MQTT and STOMP.
    AuthCertificate {
        /// The part of the certificate that names the user: the subject's common name, or the first alternative name of a kind.
        /// `none`: a certificate may be required to connect, but does not log in a user.
        identity: Identity = "\"cn\"", Identity::WORDS, Now;
    }
}

words! {
    /// See [`AuthCertificate::identity`].
    Identity {
        /// None: certificates do not log in users.
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
    /// Metrics for Prometheus.
    Metrics {
        /// Whether `/metrics` is served on loopback addresses (127.0.0.1, ::1) only. Health is served on all addresses.
        loopback_only: bool = "true", Kind::Flag, Now;
        /// Whether `/metrics` is only answered to users with the tag `monitoring` or `administrator`, who log in by HTTP Basic
        /// or a bearer token. Health is answered to everybody.
        auth: bool = "false", Kind::Flag, Now;
        /// Maximum numbers of queues, of channels and of connections that `/metrics/per-object` and `/metrics/detailed` show.
        /// `gatepost_metrics_objects_truncated` counts the rest.
        per_object_limit: usize = "2000", Kind::Count { min: 0, max: 1_000_000 }, Now;
        /// Edges of the flow map that `/metrics` shows, the fastest first; 0: none. They name clients, topics and queues.
        flow_edges: usize = "50", Kind::Count { min: 0, max: 10_000 }, Now;
    }
}

section! {
    /// The management API.
    Management {
        /// Prefix of the paths before `/api`, such as `/gatepost` behind a proxy.
        path_prefix: String = "\"\"", Kind::Checked { expected: PATH_PREFIX, check: is_path_prefix }, Now;
        /// Origins of other servers' web pages that may use the API, such as `https://panel.example`; `*`: all. Pages of other
        /// origins can neither read nor change anything.
        cors_origins: Vec<String> = "[]", Kind::Texts, Now;
        /// Maximum size of a request's body, except that of definitions.
        max_body: Size = "\"1MiB\"", Kind::Size { min: 1 << 10, max: 1 << 30 }, Now;
        /// Maximum size of the definitions that an administrator imports in one request. While they are imported, they count in
        /// `memory.input` with six times their size.
        definitions_max: Size = "\"16MiB\"", Kind::Size { min: 1 << 10, max: 1 << 30 }, Now;
        /// Whether the console, a web page, is served beside the API.
        ui: bool = "true", Kind::Flag, Now;
        /// Whether messages are counted for the flow map (`/api/gatepost/flow`): who talks to whom.
        flow: bool = "true", Kind::Flag, Now;
        /// How often the flow map is brought up to date. An edge without a message leaves after three times that.
        flow_interval: Period = "\"5s\"", Kind::secs(1, 60), Now;
    }
}

section! {
    /// Definitions that are imported at the start.
    Definitions {
        /// A JSON document in RabbitMQ's format, such as `gatepost definitions export` writes. It adds and changes things, and
        /// deletes nothing. If it is not valid, the gateway does not start. If it has users, `auth.default_user` is not created.
        file: String = "\"\"", Kind::File, Restart;
        /// Whether a start skips the file if it has not changed since its last import. Then what was changed or deleted since
        /// stays as it is.
        skip_if_unchanged: bool = "true", Kind::Flag, Restart;
    }
}

const PATH_PREFIX: &str = "\"\", or a path such as \"/gatepost\" that does not end with /";

fn is_path_prefix(path: &str) -> bool {
    path.is_empty() || path.starts_with('/') && !path.ends_with('/') && !path.contains(['%', '?', '#', ' '])
}

/// Keys whose features are not implemented, with the only values they accept. A setting that
/// is read and then ignored is worse than one that is refused.
pub(super) const LATER: &[(&str, &[&str])] = &[
    ("limits.consumer_timeout", &["\"30m\""]),
    ("limits.default_prefetch", &["0"]),
    ("mqtt.vhost_by_port", &["{}"]),
    ("mqtt.vhost_by_cert", &["{}"]),
    ("mqtt.retained_max", &["0"]),
    ("management.stats_interval", &["\"5s\""]),
];
