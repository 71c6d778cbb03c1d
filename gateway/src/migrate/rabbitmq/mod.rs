//! Translates a `rabbitmq.conf`: a dotted key, `=` and a value on each line.
//!
//! A line is translated, or demands what the gateway does anyway, or a comment names it with the reason why it has no
//! counterpart. Values of keys that are left out are not repeated, because some of them are passwords.

mod conf;
mod listeners;
mod why;

use super::draft::{Draft, quoted};
use conf::Setting;
use std::collections::BTreeMap;

/// Prefixes of keys in `rabbitmq.conf` that no top-level key of ours has.
const PREFIXES: &[&str] = &[
    "auth_backends.",
    "auth_cache.",
    "auth_http.",
    "auth_ldap.",
    "auth_mechanisms.",
    "auth_oauth2.",
    "background_gc",
    "channel_max",
    "cluster_formation.",
    "cluster_name",
    "cluster_partition_handling",
    "collect_statistics",
    "consumer_timeout",
    "default_pass",
    "default_permissions.",
    "default_user",
    "default_vhost",
    "definitions.",
    "deprecated_features.",
    "disk_free_limit.",
    "frame_max",
    "handshake_timeout",
    "heartbeat",
    "initial_frame_max",
    "listeners.ssl",
    "listeners.tcp",
    "load_definitions",
    "log.",
    "loopback_users",
    "management.",
    "management_agent.",
    "max_message_size",
    "mqtt.",
    "num_acceptors.",
    "prometheus.",
    "proxy_protocol",
    "queue_leader_locator",
    "queue_master_locator",
    "quorum_queue.",
    "raft.",
    "ssl_options.",
    "stomp.",
    "stream.",
    "tcp_listen_options.",
    "total_memory_available_override_value",
    "vm_memory_",
    "web_mqtt.",
    "web_stomp.",
];

/// Whether a line is one of `rabbitmq.conf`.
pub(super) fn is_line(line: &str) -> bool {
    let is_key = |key: &str| PREFIXES.iter().any(|prefix| key.starts_with(prefix));
    line.split_once('=').is_some_and(|(key, _)| is_key(key.trim()))
}

/// Translates the text of `file`.
pub(super) fn translate(file: &str, text: &str) -> Draft {
    let mut translation = Translation::default();
    let (settings, strange) = conf::read(text);
    for line in strange {
        translation
            .draft
            .leave(line, format!("{file}:{line}: this is no setting"));
    }
    for setting in &settings {
        if let Err(reason) = translation.take(setting) {
            let Setting { line, key, .. } = setting;
            translation
                .draft
                .leave(*line, format!("{file}:{line}: {key}: {reason}"));
        }
    }
    translation.finish()
}

/// The translation so far.
#[derive(Default)]
struct Translation {
    draft: Draft,
    listeners: listeners::Listeners,
    /// Back ends and mechanisms by their number.
    backends: BTreeMap<u32, String>,
    mechanisms: BTreeMap<u32, String>,
    /// The versions of TLS, for all listeners.
    versions: Vec<String>,
    /// Whether `auth_http` uses POST, as the gateway does, and not GET.
    posts: bool,
    asks: bool,
    default_user: Option<String>,
    default_pass: Option<String>,
}

/// Why a line has no counterpart.
type Reason = String;

impl Translation {
    fn take(&mut self, setting: &Setting) -> Result<(), Reason> {
        let (key, value) = (setting.key.as_str(), setting.value.as_str());
        if self.listeners.take(key, value, &mut self.draft)? {
            return Ok(());
        }
        match key.split_once('.') {
            Some(("auth_backends", number)) => self.backend(number, value),
            Some(("auth_mechanisms", number)) => self.mechanism(number, value),
            Some(("auth_http", about)) => self.http(about, value),
            Some(("ssl_options", about)) => self.tls(about, value),
            Some(("log", about)) => self.log(about, value),
            Some(("mqtt", about)) => self.mqtt(about, value),
            _ => self.node(key, value),
        }
    }

    fn node(&mut self, key: &str, value: &str) -> Result<(), Reason> {
        let draft = &mut self.draft;
        match key {
            "loopback_users" if value == "none" => draft.set("auth", "loopback_users", "[]"),
            "loopback_users.guest" if value == "false" => draft.set("auth", "loopback_users", "[]"),
            "loopback_users.guest" => {}
            "heartbeat" => draft.set("limits", "heartbeat", quoted(&format!("{}s", number(value, 65_535)?))),
            // 0 means that RabbitMQ sets no limit.
            "channel_max" | "frame_max" if value == "0" => {}
            "channel_max" => draft.set("limits", key, number(value, 65_535)?.to_string()),
            "frame_max" => draft.set("limits", key, number(value, 16 << 20)?.max(4 << 10).to_string()),
            "max_message_size" => draft.set("limits", key, number(value, 1 << 30)?.max(1).to_string()),
            "max_connections" | "connection_max" if value == "infinity" => {}
            "max_connections" | "connection_max" => {
                draft.set("limits", "max_connections", number(value, u64::MAX)?.to_string());
            }
            "vm_memory_high_watermark.relative" => match value.parse::<f64>() {
                Ok(share) if share > 0.0 && share <= 1.0 => draft.set("memory", "budget", format!("{share:?}")),
                _ => return Err("it is no share over 0 and up to 1".to_owned()),
            },
            "vm_memory_high_watermark.absolute" => draft.set("memory", "budget", quoted(&bytes(value)?)),
            "disk_free_limit.absolute" => draft.set("disk", "free_limit", quoted(&bytes(value)?)),
            "cluster_name" => draft.set("node", "cluster_name", quoted(value)),
            "load_definitions" | "management.load_definitions" | "definitions.local.path" => {
                draft.set("definitions", "file", quoted(value));
            }
            "definitions.import_backend" if value == "local_filesystem" => {}
            "definitions.skip_if_unchanged" => draft.set("definitions", "skip_if_unchanged", flag(value)?),
            "management.path_prefix" => draft.set("management", "path_prefix", quoted(value)),
            "default_vhost" | "stomp.default_vhost" if value == "/" => {}
            "default_vhost" => return Err("the default vhost is /; make others with definitions".to_owned()),
            "stomp.default_vhost" => {
                for listener in ["listeners.stomp", "listeners.web_stomp"] {
                    draft.set(listener, "vhost", quoted(value));
                }
            }
            "default_user" => self.default_user = Some(value.to_owned()),
            "default_pass" => self.default_pass = Some(value.to_owned()),
            "proxy_protocol" | "stomp.proxy_protocol" => not_asked(value, PROXY)?,
            key => return Err(why::why(key).to_owned()),
        }
        Ok(())
    }

    fn mqtt(&mut self, about: &str, value: &str) -> Result<(), Reason> {
        let draft = &mut self.draft;
        match about {
            "allow_anonymous" => {
                let who = if flag(value)? == "true" { "allow" } else { "deny" };
                draft.set("mqtt", "anonymous", quoted(who));
            }
            "exchange" => draft.set("mqtt", "exchange", quoted(value)),
            "prefetch" => draft.set("mqtt", "max_inflight", number(value, 65_535)?.max(1).to_string()),
            "vhost" if value == "/" => {}
            "vhost" => {
                for listener in ["listeners.mqtt", "listeners.web_mqtt"] {
                    draft.set(listener, "vhost", quoted(value));
                }
            }
            "subscription_ttl" | "max_session_expiry_interval_seconds" if value == "infinity" => {
                draft.set("mqtt", "session_expiry_max", quoted(super::NEVER));
            }
            "subscription_ttl" => {
                let period = quoted(&format!("{}ms", number(value, u64::MAX / 1000)?));
                draft.set("mqtt", "session_expiry_max", period);
            }
            "max_session_expiry_interval_seconds" => {
                let period = quoted(&format!("{}s", number(value, u64::MAX / 1000)?));
                draft.set("mqtt", "session_expiry_max", period);
            }
            "default_user" | "default_pass" => {
                return Err("anonymous clients become mqtt.anonymous_user".to_owned());
            }
            "proxy_protocol" => not_asked(value, PROXY)?,
            _ => return Err(why::why("mqtt.").to_owned()),
        }
        Ok(())
    }

    fn log(&mut self, about: &str, value: &str) -> Result<(), Reason> {
        match (about, value) {
            ("console" | "file", "true" | "false") => {}
            ("console.level" | "file.level" | "default.level", "debug" | "info" | "warning" | "error") => {
                self.draft.set("log", "level", quoted(value));
            }
            ("console.level" | "file.level" | "default.level", "notice") => self.draft.set("log", "level", "\"info\""),
            ("console.level" | "file.level" | "default.level", "critical") => {
                self.draft.set("log", "level", "\"error\"");
            }
            ("console.formatter" | "file.formatter", "json") => self.draft.set("log", "format", "\"json\""),
            ("console.formatter" | "file.formatter", "plaintext") => {}
            _ => return Err(why::why("log.").to_owned()),
        }
        Ok(())
    }

    /// Settings for all listeners with TLS. `versions` is evaluated at the end.
    fn tls(&mut self, about: &str, value: &str) -> Result<(), Reason> {
        if about.starts_with("versions.") {
            self.versions.push(value.to_owned());
            return Ok(());
        }
        self.listeners.certificate("tls", about, value, &mut self.draft)
    }

    fn backend(&mut self, number: &str, value: &str) -> Result<(), Reason> {
        let name = match value {
            "internal" | "rabbit_auth_backend_internal" => "internal",
            "http" | "rabbit_auth_backend_http" => "http",
            "oauth2" | "oauth" | "rabbit_auth_backend_oauth2" => {
                return Err("tokens are the back end `jwt`: see [auth.jwt]".to_owned());
            }
            other => return Err(format!("there is no back end {other}")),
        };
        let number = number
            .parse()
            .map_err(|_| "one back end is asked about all of a user; name it in auth.backends".to_owned())?;
        self.backends.insert(number, name.to_owned());
        Ok(())
    }

    fn mechanism(&mut self, number: &str, value: &str) -> Result<(), Reason> {
        if !matches!(value, "PLAIN" | "AMQPLAIN" | "EXTERNAL" | "ANONYMOUS") {
            return Err(format!("there is no mechanism {value}"));
        }
        let number = number.parse().unwrap_or(u32::MAX);
        self.mechanisms.insert(number, value.to_owned());
        Ok(())
    }

    fn http(&mut self, about: &str, value: &str) -> Result<(), Reason> {
        let key = match about {
            "user_path" => "user_url",
            "vhost_path" => "vhost_url",
            "resource_path" => "resource_url",
            "topic_path" => "topic_url",
            "http_method" => {
                self.posts = value == "post";
                return Ok(());
            }
            _ => return Err(why::why("auth_http.").to_owned()),
        };
        self.asks = true;
        self.draft.set("auth.http", key, quoted(value));
        Ok(())
    }

    /// Decides settings that depend on several lines.
    fn finish(mut self) -> Draft {
        self.listeners.finish(&mut self.draft);
        if !self.versions.is_empty() {
            let oldest = if self.versions.iter().all(|v| v == "tlsv1.3") {
                "1.3"
            } else {
                "1.2"
            };
            self.draft.set("tls", "min_version", quoted(oldest));
        }
        if !self.backends.is_empty() {
            let names: Vec<String> = self.backends.values().map(|name| quoted(name)).collect();
            self.draft.set("auth", "backends", format!("[{}]", names.join(", ")));
        }
        if !self.mechanisms.is_empty() {
            let names: Vec<String> = self.mechanisms.values().map(|name| quoted(name)).collect();
            self.draft.set("auth", "mechanisms", format!("[{}]", names.join(", ")));
        }
        if self.asks && !self.posts {
            let text = "auth_http.http_method: the server is asked by POST here, and by GET there";
            self.draft.leave(usize::MAX, text.to_owned());
        }
        // RabbitMQ creates this user instead of `guest`. A password is not written into a configuration.
        let is_other = |value: &Option<String>| value.as_deref().is_some_and(|value| value != "guest");
        if is_other(&self.default_user) || is_other(&self.default_pass) {
            self.draft.set("auth", "default_user", "\"\"");
            let user = self.default_user.as_deref().unwrap_or("guest");
            let text = format!(
                "default_user, default_pass: make the user with `gatepost user add {user} --tag administrator` and \
                 `gatepost permission set {user} '.*' '.*' '.*'`"
            );
            self.draft.leave(usize::MAX, text);
        }
        self.draft
    }
}

const PROXY: &str = "set proxy_protocol of the listener, and in proxy_from the networks of the proxies";

/// `false` needs no translation; any other value has no counterpart for this reason.
fn not_asked(value: &str, reason: &str) -> Result<(), Reason> {
    if value == "false" {
        Ok(())
    } else {
        Err(reason.to_owned())
    }
}

fn flag(value: &str) -> Result<&str, Reason> {
    match value {
        "true" | "on" => Ok("true"),
        "false" | "off" => Ok("false"),
        _ => Err(format!("{value} is neither true nor false")),
    }
}

/// A number, at most the largest that the gateway accepts.
fn number(value: &str, max: u64) -> Result<u64, Reason> {
    let number: u64 = value.parse().map_err(|_| format!("{value} is not a whole number"))?;
    Ok(number.min(max))
}

/// A size such as `2GB` in bytes. In `rabbitmq.conf`, `GiB` and `G` are powers of two.
fn bytes(value: &str) -> Result<String, Reason> {
    let strange = || format!("{value} is not a size");
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let (number, unit) = value.split_at(digits);
    let number: u64 = number.parse().map_err(|_| strange())?;
    let factor = match unit.trim() {
        "" | "B" => 1,
        "k" | "K" | "Ki" | "kiB" | "KiB" => 1 << 10,
        "M" | "Mi" | "MiB" => 1 << 20,
        "G" | "Gi" | "GiB" => 1 << 30,
        "T" | "Ti" | "TiB" => 1 << 40,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return Err(strange()),
    };
    number
        .checked_mul(factor)
        .map(|bytes| format!("{bytes}B"))
        .ok_or_else(strange)
}

#[cfg(test)]
mod tests;
