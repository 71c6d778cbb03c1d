//! Translates a `mosquitto.conf` (Mosquitto 2; see its manual page, mosquitto.conf(5)).
//!
//! A line is translated, or describes what the gateway does anyway, or a comment names it with the reason why it has no
//! counterpart. Nothing is dropped silently: an operator must know what will be different.

use super::NEVER;
use super::listener::{Listener, quoted};
use super::source::Line;
use std::fmt::Write as _;

/// Options of a bridge (`connection`), besides `bridge_…`.
const BRIDGE: &[&str] = &[
    "address",
    "addresses",
    "topic",
    "remote_clientid",
    "remote_username",
    "remote_password",
    "local_clientid",
    "local_username",
    "local_password",
    "cleansession",
    "local_cleansession",
    "clientid",
    "username",
    "password",
    "keepalive_interval",
    "notifications",
    "notifications_local_only",
    "notification_topic",
    "restart_timeout",
    "round_robin",
    "start_type",
    "idle_timeout",
    "threshold",
    "try_private",
];

/// Options without a counterpart, because the gateway works that way anyway.
const NEEDLESS: &[&str] = &[
    "persistence",
    "persistence_file",
    "autosave_interval",
    "autosave_on_changes",
    "pid_file",
    "set_tcp_nodelay",
    "connection_messages",
    "log_timestamp",
    "log_timestamp_format",
    "allow_duplicate_messages",
    "retained_persistence",
    "packet_buffer_size",
    "retry_interval",
    "socket_domain",
    "websockets_headers_size",
    "websockets_log_level",
    "user",
];

/// The translation so far.
#[derive(Default)]
struct Draft {
    listeners: Vec<Listener>,
    /// The options before the first `listener`, which are those of Mosquitto's default listener.
    default: Listener,
    /// `section.key = value`, in the order of the lines.
    keys: Vec<(&'static str, &'static str, String)>,
    log_level: Option<&'static str>,
    per_listener: bool,
    notes: Vec<String>,
}

/// Translates the lines to TOML.
///
/// # Errors
///
/// A text for the operator: this is not a `mosquitto.conf`.
pub(super) fn translate(file: &str, lines: &[Line]) -> Result<String, String> {
    let mut draft = Draft::default();
    for line in lines {
        if let Err(reason) = draft.take(line) {
            draft.notes.push(format!("{}: {}: {reason}", line.place, line.option));
        }
    }
    if draft.notes.len() == lines.len() && !lines.is_empty() {
        return Err(format!(
            "{file}: this does not look like a mosquitto.conf: none of its lines is an option that is known"
        ));
    }
    Ok(draft.write(file))
}

impl Draft {
    /// Translates a line, or returns why it has no counterpart.
    fn take(&mut self, line: &Line) -> Result<(), String> {
        let value = line.value.as_str();
        match line.option.as_str() {
            "listener" => {
                let (port, address) = value.split_once(char::is_whitespace).unwrap_or((value, ""));
                // This is the only string that may be followed by a comment.
                let address = address.trim_start();
                let address = if address.starts_with('#') { "" } else { address };
                self.listeners.push(Listener::at(port, address));
            }
            "port" => line.word().clone_into(&mut self.default.port),
            "bind_address" => value.clone_into(&mut self.default.address),
            "per_listener_settings" => self.per_listener = line.flag()?,
            "allow_anonymous" => self.current().allow_anonymous = Some(line.flag()?),
            "password_file" if self.per_listener => self.current().passwords = Some(line.clone()),
            "acl_file" if self.per_listener => self.current().acl = Some(line.clone()),
            "allow_zero_length_clientid" if line.flag()? => {}
            option if NEEDLESS.contains(&option) => {}
            "connection" => {
                return Err("the gateway runs no bridges. Let the other broker bridge to the gateway".to_owned());
            }
            // These belong to a `connection`, which is reported already.
            option if BRIDGE.contains(&option) || option.starts_with("bridge_") => {}
            _ => {
                if !self.current().take(line)? {
                    return self.take_node_wide(line);
                }
            }
        }
        Ok(())
    }

    /// The listener that the options of this line belong to.
    fn current(&mut self) -> &mut Listener {
        self.listeners.last_mut().unwrap_or(&mut self.default)
    }

    fn take_node_wide(&mut self, line: &Line) -> Result<(), String> {
        match line.option.as_str() {
            "password_file" => self.set("auth.file", "passwords", quoted(&line.value)),
            "acl_file" => self.set("auth.file", "acl", quoted(&line.value)),
            _ => return self.take_word(line),
        }
        Ok(())
    }

    /// Takes an option whose value is one word.
    fn take_word(&mut self, line: &Line) -> Result<(), String> {
        let value = line.word();
        match line.option.as_str() {
            "max_inflight_messages" => self.set("mqtt", "max_inflight", bounded(value, 65_535)?),
            "max_keepalive" => {
                self.set(
                    "mqtt",
                    "keep_alive_max",
                    quoted(&format!("{}s", number(value)?.min(65_535))),
                );
            }
            "message_size_limit" | "max_packet_size" if number(value)? == 0 => {}
            "message_size_limit" | "max_packet_size" => {
                self.set("limits", "max_message_size", bounded(value, 1 << 30)?);
            }
            "retain_available" => self.set("mqtt", "retain_available", line.flag()?.to_string()),
            "memory_limit" if number(value)? == 0 => {}
            "memory_limit" => self.set("memory", "budget", number(value)?.to_string()),
            "persistent_client_expiration" => self.set("mqtt", "session_expiry_max", quoted(&expiration(value)?)),
            "sys_interval" => self.set(
                "mqtt",
                "sys_interval",
                quoted(&format!("{}s", number(value)?.min(86_400))),
            ),
            "global_max_connections" | "global_max_clients" => {
                self.set("limits", "max_connections", number(value)?.to_string());
            }
            "log_dest" if matches!(value, "stdout" | "stderr" | "syslog") => {}
            "log_type" => match value {
                "debug" | "all" => self.log_level = Some("debug"),
                "error" => self.log_level = self.log_level.or(Some("error")),
                "warning" if self.log_level != Some("debug") => self.log_level = Some("warn"),
                "notice" | "information" if self.log_level != Some("debug") => self.log_level = Some("info"),
                _ => {}
            },
            option => return Err(why_not(option).to_owned()),
        }
        Ok(())
    }

    fn set(&mut self, section: &'static str, key: &'static str, value: String) {
        // As in Mosquitto, the last line counts.
        self.keys.retain(|(s, k, _)| (*s, *k) != (section, key));
        self.keys.push((section, key, value));
    }

    fn write(mut self, file: &str) -> String {
        if self.listeners.is_empty() && self.default.port.is_empty() {
            "1883".clone_into(&mut self.default.port);
            if self.default.address.is_empty() {
                // Without a `listener` Mosquitto serves only clients of this machine, without logins.
                "localhost".clone_into(&mut self.default.address);
                self.default.allow_anonymous.get_or_insert(true);
            }
        }
        if !self.keys.iter().any(|(_, key, _)| *key == "session_expiry_max") {
            // Without a limit Mosquitto keeps sessions until their clients end them.
            self.set("mqtt", "session_expiry_max", quoted(NEVER));
        }
        let default = std::mem::take(&mut self.default);
        // Login options outside of listeners apply to all of them, unless `per_listener_settings` is on.
        let mut anonymous = default.allow_anonymous;
        if !self.per_listener {
            anonymous = self
                .listeners
                .iter()
                .filter_map(|l| l.allow_anonymous)
                .next_back()
                .or(anonymous);
        }
        if !default.port.is_empty() {
            self.listeners.insert(0, default);
        }
        self.notes.extend(self.listeners.iter().filter_map(Listener::unbound));
        self.decide_about_certificates();
        self.decide_about_files();
        self.decide_about_qos();
        if self.listeners.iter().any(|listener| listener.behind_proxy) {
            self.notes.push(
                "enable_proxy_protocol: proxy_from has every address, because Mosquitto checks none. Name the proxies only"
                    .to_owned(),
            );
        }
        self.set("mqtt", "anonymous", quoted(rule(anonymous)));
        if let Some(level) = self.log_level {
            self.set("log", "level", quoted(level));
        }

        let mut out = self.comments(file);
        let mut sections: Vec<&str> = self.keys.iter().map(|(section, ..)| *section).collect();
        sections.sort_unstable();
        sections.dedup();
        for section in sections {
            let _ = writeln!(out, "\n[{section}]");
            for (_, key, value) in self.keys.iter().filter(|(s, ..)| *s == section) {
                let _ = writeln!(out, "{key} = {value}");
            }
        }
        let mut names = Vec::new();
        for listener in &self.listeners {
            let name = listener.name(&names);
            let here = listener.allow_anonymous.filter(|_| self.per_listener);
            let here = listener.own_allow_anonymous.or(here);
            listener.write(&name, here.map(|allowed| rule(Some(allowed))), &mut out);
            names.push(name);
        }
        for unused in ["mqtt", "web_mqtt"] {
            if !names.iter().any(|name| name == unused) {
                let _ = writeln!(out, "\n[listeners.{unused}]\nbind = []\ntls_bind = []");
            }
        }
        out
    }

    /// Decides whether a certificate names the user: Mosquitto has an option for each listener, the gateway one for
    /// all.
    fn decide_about_certificates(&mut self) {
        let (mut naming, mut silent) = (false, false);
        for listener in self.listeners.iter().filter(|l| l.require_certificate) {
            naming |= listener.certificate_names_user;
            silent |= !listener.certificate_names_user;
        }
        if silent && !naming {
            self.set("auth.certificate", "identity", quoted("none"));
        } else if silent {
            self.notes
                .push("use_identity_as_username: holds for all listeners, not for some of them".to_owned());
        }
        if naming {
            let how = "has to exist, with a line in the password file or made by `gatepost user add`";
            self.notes.push(format!(
                "use_identity_as_username: a user whom a certificate names {how}"
            ));
        }
    }

    /// Decides on the highest quality of service: Mosquitto has an option for each listener, the gateway one for all. The
    /// highest holds, so that no client loses what it has.
    fn decide_about_qos(&mut self) {
        let of = |listener: &Listener| listener.max_qos.unwrap_or(2);
        let Some(most) = self.listeners.iter().map(of).max() else {
            return;
        };
        if self.listeners.iter().any(|listener| of(listener) < most) {
            self.notes.push(format!(
                "max_qos: all listeners share one, which is the highest of them, {most}"
            ));
        }
        if most < 2 {
            self.set("mqtt", "maximum_qos", most.to_string());
        }
    }

    /// Translates the files for logins. With `per_listener_settings` each of Mosquitto's listeners has its own. The
    /// gateway has one of each for all listeners, so a password for one listener is valid at all.
    fn decide_about_files(&mut self) {
        for (option, key) in [("password_file", "passwords"), ("acl_file", "acl")] {
            let of = |listener: &Listener| match key {
                "passwords" => listener.passwords.clone(),
                _ => listener.acl.clone(),
            };
            let files: Vec<Line> = self.listeners.iter().filter_map(of).collect();
            let Some(last) = files.last().map(|line| line.value.clone()) else {
                continue;
            };
            for line in files.iter().filter(|line| line.value != last) {
                let place = &line.place;
                self.notes.push(format!(
                    "{place}: {option}: all listeners share one, which is the one of the last listener here"
                ));
            }
            if files.len() < self.listeners.len() {
                self.notes
                    .push(format!("{option}: holds for all listeners, not for some of them"));
            }
            self.set("auth.file", key, quoted(&last));
        }
        if self.keys.iter().any(|(section, ..)| *section == "auth.file") {
            self.set("auth", "backends", "[\"internal\", \"file\"]".to_owned());
        }
    }

    fn comments(&self, file: &str) -> String {
        let mut out = format!(
            "# Made of {file} by `gatepost import`. AMQP and STOMP listen at their own ports, as by default; `bind = []` in a\n\
             # listener's section turns one off. Kept sessions and retained messages are not taken over.\n"
        );
        if !self.notes.is_empty() {
            out.push_str("#\n# Not taken over:\n");
            for note in &self.notes {
                let _ = writeln!(out, "#   {note}");
            }
        }
        out
    }
}

fn rule(anonymous: Option<bool>) -> &'static str {
    if anonymous == Some(true) { "allow" } else { "deny" }
}

fn number(value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| format!("{value} is not a whole number"))
}

/// A limit. 0 means no limit in Mosquitto; it becomes the largest value that the gateway accepts.
fn bounded(value: &str, max: u64) -> Result<String, String> {
    let number = number(value)?;
    let number = if number == 0 { max } else { number.min(max) };
    Ok(number.to_string())
}

/// A time such as `14d`; a month has 30 days, as in Mosquitto.
fn expiration(value: &str) -> Result<String, String> {
    let unit = value.chars().last().unwrap_or(' ');
    let count = number(value.trim_end_matches(unit))?;
    let (count, unit) = match unit {
        'h' => (count, "h"),
        'd' => (count, "d"),
        'w' => (count.saturating_mul(7), "d"),
        'm' => (count.saturating_mul(30), "d"),
        'y' => (count.saturating_mul(365), "d"),
        _ => return Err(format!("{value} is not a time")),
    };
    Ok(format!("{count}{unit}"))
}

/// Why an option has no counterpart.
fn why_not(option: &str) -> &'static str {
    match option {
        "max_queued_messages" | "max_queued_bytes" | "queue_qos0_messages" => {
            "sessions are bounded by memory and disk, not by a number of messages. QoS 0 is not kept for clients that are away"
        }
        "max_topic_alias" | "max_topic_alias_broker" => "the number of topic aliases is the gateway's to say",
        "accept_protocol_versions" => "all three versions are spoken",
        "max_inflight_bytes" => "the limit is max_inflight_messages",
        "upgrade_outgoing_qos" => "the lower QoS of publish and subscription holds",
        "check_retain_source" => {
            "a retained message stays when its publisher loses the right to publish it. Clear its topic then"
        }
        "mount_point" => {
            "no topic gets a prefix. A `vhost` of the listener's own keeps its clients apart from all others"
        }
        "use_username_as_clientid" | "clientid_prefixes" | "auto_id_prefix" | "listener_auto_id_prefix" => {
            "client ids are not checked or changed"
        }
        "allow_zero_length_clientid" => "a client without an id is given one. A kept session needs an id of its own",
        "retain_expiry_interval" => {
            "a retained message expires if its publisher says so, by MQTT 5's Message Expiry Interval"
        }
        "disable_client_cert_date_checks" => "a client certificate that has expired is refused",
        "proxy_protocol_v2_require_tls" => "the proxy has to refuse clients without TLS itself",
        "enable_control_api" => "the management API and `gatepost list` say what `$CONTROL` says",
        "use_subject_as_username" => {
            "a certificate's common name or alternative name can name the user, its subject cannot"
        }
        "capath" => "put the CAs into one file, and name it in client_ca",
        "ciphers" | "ciphers_tls1.3" | "dhparamfile" | "tls_engine" | "tls_engine_kpass_sha1" | "tls_keyform" => {
            "the ciphers are those of rustls, and are not configurable"
        }
        "psk_file" | "psk_hint" => "TLS with pre-shared keys is not built",
        "plugin"
        | "global_plugin"
        | "auth_plugin"
        | "auth_plugin_deny_special_chars"
        | "plugin_load"
        | "plugin_use" => "there are no plug-ins. See docs/security.md for the back ends that are built",
        "persistence_location" => "the gateway has a data directory of its own: node.data_dir",
        "log_dest" => "the gateway writes to standard error, or to a file of its own: log.target",
        "http_dir" => "no files are served",
        "bind_interface" => "name an address in `bind`",
        "log_facility" => "systemd's journal takes what is written to standard error",
        option if option.starts_with("auth_opt_") || option.starts_with("plugin_opt_") => "there are no plug-ins",
        _ => "this option is not known",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Layers};
    use crate::migrate::source::parse;

    fn translated(text: &str) -> String {
        translate("m.conf", &parse("m.conf", text)).expect("a mosquitto.conf")
    }

    /// The configuration that the gateway reads from the translation.
    fn loaded(text: &str) -> Config {
        let toml = translated(text);
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("gatepost.toml");
        std::fs::write(&file, &toml).expect("written");
        let layers = Layers {
            file: Some(file),
            ..Layers::default()
        };
        layers.load().unwrap_or_else(|problems| panic!("{problems}\n{toml}"))
    }

    /// The bug: the third listener of a port got the same section as the second, so the configuration did not load.
    #[test]
    fn listeners_of_one_port_at_several_addresses_have_sections_of_their_own() {
        let lines = (1..=4).map(|n| format!("listener 1883 127.0.0.{n}\n"));
        let config = loaded(&lines.collect::<String>());
        let bound = config.listeners.iter().filter(|(name, _)| name.starts_with("mqtt"));
        let names: Vec<&str> = bound
            .filter(|(_, at)| !at.bind.is_empty())
            .map(|(name, _)| &**name)
            .collect();
        assert_eq!(names, ["mqtt", "mqtt_1883", "mqtt_1883_2", "mqtt_1883_3"]);
    }

    #[test]
    fn without_a_listener_only_this_machine_is_served() {
        let config = loaded("persistence true\n");
        assert!(translated("persistence true").contains("bind = [\"127.0.0.1:1883\"]"));
        assert!(translated("persistence true").contains("anonymous = \"allow\""));
        let listens = |wanted: &str| {
            config
                .listeners
                .iter()
                .any(|(name, at)| name == wanted && !at.bind.is_empty())
        };
        assert!(listens("mqtt") && !listens("web_mqtt"));
    }

    #[test]
    fn listeners_become_sections_of_their_own() {
        let toml = translated(
            "listener 1883\nlistener 8883 10.0.0.1\ncafile /ca\ncertfile /cert\nkeyfile /key\nrequire_certificate true\n\
             use_identity_as_username true\ntls_version tlsv1.3\nlistener 9001\nprotocol websockets\nmax_connections 200\n\
             listener 0 /run/mosquitto.sock\n",
        );
        for wanted in [
            "[listeners.mqtt]\nbind = [\"[::]:1883\"]\ntls_bind = []\n",
            "[listeners.mqtt_8883]\nprotocol = \"mqtt\"\nbind = []\ntls_bind = [\"10.0.0.1:8883\"]\n",
            "[listeners.mqtt_8883.tls]\ncert = \"/cert\"\nkey = \"/key\"\nclient_auth = \"require\"\nclient_ca = \"/ca\"\n\
             min_version = \"1.3\"\n",
            "[listeners.web_mqtt]\nbind = [\"[::]:9001\"]\ntls_bind = []\nmax_connections = 200\n",
            "bind = [\"unix:/run/mosquitto.sock\"]",
            "anonymous = \"deny\"\n",
        ] {
            assert!(toml.contains(wanted), "{wanted}in:\n{toml}");
        }
        // In Mosquitto, whoever has a certificate is a user.
        let notes: Vec<&str> = toml.lines().filter(|line| line.starts_with("#   ")).collect();
        assert!(
            notes.len() == 1
                && notes[0].contains("use_identity_as_username: a user whom a certificate names has to exist"),
            "{toml}"
        );
    }

    #[test]
    fn the_result_is_a_configuration() {
        loaded(
            "listener 1884 127.0.0.1\nallow_anonymous true\nlistener 9001\nprotocol websockets\nmax_inflight_messages 20\n\
             max_keepalive 600\nmessage_size_limit 0\npersistent_client_expiration 2w\nsys_interval 30\nlog_type all\n\
             log_dest stderr\nretain_available true\n",
        );
        let toml = translated("allow_anonymous true\nlistener 1884\nallow_anonymous false\n");
        assert!(toml.contains("anonymous = \"deny\""), "the last line counts:\n{toml}");
    }

    /// The bug: options of Mosquitto 2.1 were not known. A listener behind a proxy closed every connection, and one whose
    /// clients need no login refused them.
    #[test]
    fn options_of_mosquitto_2_1_are_known() {
        let text = "listener 1883\nlistener_allow_anonymous true\nenable_proxy_protocol 2\nlistener 1884\n";
        let config = loaded(text);
        let at = |name: &str| {
            config
                .listeners
                .iter()
                .find(|(wanted, _)| *wanted == name)
                .map(|(_, at)| at)
        };
        assert!(at("mqtt").is_some_and(|at| at.proxy_protocol), "{}", translated(text));
        assert!(
            at("mqtt_1884").is_some_and(|at| !at.proxy_protocol),
            "{}",
            translated(text)
        );
        let toml = translated(text);
        assert!(
            toml.contains("tls_bind = []\nanonymous = \"allow\"\nproxy_protocol = true\n"),
            "{toml}"
        );
        assert!(toml.contains("anonymous = \"deny\"\n\n[listeners.mqtt]"), "{toml}");
        assert!(
            toml.contains("#   enable_proxy_protocol: proxy_from has every address"),
            "{toml}"
        );
    }

    /// The bug: the import said nothing of it, and clients without an id were let in.
    #[test]
    fn clients_without_an_id_are_let_in_and_the_operator_is_told() {
        assert!(!translated("allow_zero_length_clientid true\nlistener 1883\n").contains("Not taken over"));
        let toml = translated("allow_zero_length_clientid false\nlistener 1883\n");
        assert!(
            toml.contains("m.conf:1: allow_zero_length_clientid: a client without an id"),
            "{toml}"
        );
    }

    #[test]
    fn limits_on_what_clients_may_publish_are_taken_over() {
        let text = "retain_available false\nmax_qos 1\nlistener 1883\nmax_qos 0\n";
        assert!(
            translated(text).contains("retain_available = false\n"),
            "{}",
            translated(text)
        );
        assert!(translated(text).contains("maximum_qos = 0\n"), "{}", translated(text));
        loaded(text);
        let text = "listener 1883\nmax_qos 1\nlistener 1884\n";
        assert!(!translated(text).contains("maximum_qos"), "{}", translated(text));
        assert!(
            translated(text).contains("max_qos: all listeners share one, which is the highest of them, 2"),
            "{}",
            translated(text)
        );
        loaded(text);
        let wrong = translated("listener 1883\nmax_qos 3\n");
        assert!(wrong.contains("m.conf:2: max_qos: 3 is not 0, 1 or 2"), "{wrong}");
    }

    #[test]
    fn with_settings_of_their_own_listeners_say_who_may_be_anonymous() {
        let toml = translated(
            "per_listener_settings true\nlistener 1883\nallow_anonymous true\nlistener 1884\nallow_anonymous false\n",
        );
        assert!(
            toml.contains("[listeners.mqtt]\nbind = [\"[::]:1883\"]\ntls_bind = []\nanonymous = \"allow\"\n"),
            "{toml}"
        );
        assert!(toml.contains("tls_bind = []\nanonymous = \"deny\"\n"), "{toml}");
    }

    #[test]
    fn passwords_and_acls_are_read_where_they_are() {
        let toml = translated("password_file /etc/mosquitto/passwd\nacl_file /etc/mosquitto/acl\n");
        assert!(toml.contains("[auth]\nbackends = [\"internal\", \"file\"]\n"), "{toml}");
        assert!(
            toml.contains("[auth.file]\npasswords = \"/etc/mosquitto/passwd\"\nacl = \"/etc/mosquitto/acl\"\n"),
            "{toml}"
        );
    }

    #[test]
    fn an_acl_without_passwords_makes_a_configuration_that_loads() {
        let acl = tempfile::NamedTempFile::new().expect("a file");
        let config = loaded(&format!("allow_anonymous true\nacl_file {}\n", acl.path().display()));
        assert_eq!(config.auth_file.acl, acl.path().display().to_string());
    }

    #[test]
    fn what_is_not_taken_over_is_named_with_its_line() {
        let toml = translated("allow_anonymous true\nmax_queued_messages 5\nconnection up\ntopic # out\nnonsense 1\n");
        for wanted in [
            "m.conf:2: max_queued_messages: ",
            "m.conf:3: connection: ",
            "m.conf:5: nonsense: this option is not known",
        ] {
            assert!(toml.contains(wanted), "{wanted} in:\n{toml}");
        }
    }

    /// The bug: Mosquitto reads one word of a number or flag. The rest of the line made `allow_anonymous` false, became
    /// part of an address that did not load, or prevented the number from being read.
    #[test]
    fn what_follows_a_word_is_no_part_of_it() {
        let text = "allow_anonymous 1 # for now\nlistener 1884   # plain\nmax_keepalive 60 # a minute\nmax_connections 5 #\n\
                    listener 1885 127.0.0.1\nprotocol websockets\nwebsockets_origin *\n";
        let (toml, config) = (translated(text), loaded(text));
        assert!(!toml.contains("Not taken over"), "{toml}");
        for wanted in [
            "anonymous = \"allow\"",
            "bind = [\"[::]:1884\"]",
            "keep_alive_max = \"60s\"",
            "max_connections = 5",
        ] {
            assert!(toml.contains(wanted), "{wanted} in:\n{toml}");
        }
        let web = config.listeners.iter().find(|(name, _)| name == "web_mqtt");
        assert!(web.is_some_and(|(_, listener)| listener.origins.is_empty()), "{toml}");
        let toml = translated("allow_anonymous yes\nlistener 1883\n");
        assert!(
            toml.contains("m.conf:1: allow_anonymous: yes is neither true nor false"),
            "{toml}"
        );
    }

    /// The bug: without a port, the listener of the address was bound to this machine alone and let everybody in.
    #[test]
    fn an_address_without_a_port_is_the_default_listeners() {
        let toml = translated("bind_address 192.0.2.7\npersistence true\n");
        assert!(toml.contains("bind = [\"192.0.2.7:1883\"]"), "{toml}");
        assert!(toml.contains("anonymous = \"deny\""), "{toml}");
    }

    /// The bug: the name of a host or an interface did not load. It must not become every address.
    #[test]
    fn a_name_is_not_bound_but_named() {
        let text = "listener 8883 plant-gw\nlistener 1883 fe80::1\n";
        let toml = translated(text);
        loaded(text);
        assert!(toml.contains("[listeners.mqtt]\nbind = []\n"), "{toml}");
        assert!(toml.contains("bind = [\"[fe80::1]:1883\"]"), "{toml}");
        assert!(toml.contains("listener 8883 plant-gw: this is a name"), "{toml}");
    }

    /// The bug: the files of the last listener replaced the others', without a comment.
    #[test]
    fn files_of_single_listeners_that_cannot_be_kept_apart_are_named() {
        let toml = translated(
            "per_listener_settings true\nlistener 1883\nacl_file /front\nlistener 8883\nacl_file /back\npassword_file /passwd\n",
        );
        for wanted in [
            "m.conf:3: acl_file: all listeners share one",
            "#   password_file: holds for all listeners",
            "passwords = \"/passwd\"\n",
            "acl = \"/back\"\n",
        ] {
            assert!(toml.contains(wanted), "{wanted} in:\n{toml}");
        }
        let one = "per_listener_settings true\nlistener 1883\nacl_file /one\nlistener 8883\nacl_file /one\n";
        assert!(!translated(one).contains("Not taken over"), "{}", translated(one));
    }

    /// The bug: sessions of devices that were away for a day were lost after the move.
    #[test]
    fn sessions_are_kept_as_long_as_mosquitto_keeps_them() {
        assert!(translated("listener 1883\n").contains("session_expiry_max = \"36500d\""));
        assert!(translated("persistent_client_expiration 2w\n").contains("session_expiry_max = \"14d\""));
    }

    #[test]
    fn another_file_is_refused() {
        let refused = translate("x", &parse("x", "{\n\"users\": []\n}"));
        assert!(refused.is_err_and(|reason| reason.contains("does not look like")));
    }

    #[test]
    fn definitions_are_imported_at_the_start() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("definitions.json");
        std::fs::write(&file, "{\"users\": [], \"queues\": []}").expect("written");
        let toml = crate::migrate::import(&file).expect("read");
        assert!(
            toml.contains(&format!("[definitions]\nfile = \"{}\"\n", file.display())),
            "{toml}"
        );
        for wrong in ["{\"users\": [}", "{\"colour\": 1}"] {
            std::fs::write(&file, wrong).expect("written");
            assert!(crate::migrate::import(&file).is_err(), "{wrong}");
        }
    }

    #[test]
    fn included_files_count_in_their_order() {
        let directory = tempfile::tempdir().expect("a directory");
        let conf_d = directory.path().join("conf.d");
        std::fs::create_dir(&conf_d).expect("made");
        std::fs::write(conf_d.join("b.conf"), "max_keepalive 60\n").expect("written");
        std::fs::write(conf_d.join("a.conf"), "max_keepalive 30\n").expect("written");
        std::fs::write(conf_d.join("README"), "max_keepalive 90\n").expect("written");
        let file = directory.path().join("mosquitto.conf");
        std::fs::write(&file, format!("include_dir {}\n", conf_d.display())).expect("written");
        assert!(
            crate::migrate::import(&file)
                .expect("read")
                .contains("keep_alive_max = \"60s\"")
        );
        std::fs::remove_dir_all(conf_d).expect("removed");
        assert!(crate::migrate::import(&file).is_err());
    }
}
