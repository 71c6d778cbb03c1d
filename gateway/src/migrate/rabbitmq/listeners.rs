//! Listeners of a `rabbitmq.conf`, and their certificates.

use super::super::draft::{Draft, quoted};
use super::{Reason, flag, why};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// Settings of listeners that are spread over several lines.
#[derive(Default)]
pub(super) struct Listeners {
    /// By section and key (`bind`, `tls_bind`).
    places: BTreeMap<(&'static str, &'static str), Place>,
    /// By section.
    clients: BTreeMap<String, Clients>,
}

/// An address whose IP address and port are on lines of their own.
#[derive(Default)]
struct Place {
    ip: Option<IpAddr>,
    port: Option<u16>,
}

/// What clients' certificates must fulfil.
#[derive(Default)]
struct Clients {
    verified: bool,
    needed: bool,
}

/// Plug-ins that listen at one address: their names, our listeners, and their ports without and with TLS.
const PLUGINS: &[(&str, &str, u16, u16)] = &[
    ("management.", "listeners.management", 15672, 15671),
    ("prometheus.", "listeners.metrics", 15692, 15691),
    ("web_mqtt.", "listeners.web_mqtt", 15675, 15676),
    ("web_stomp.", "listeners.web_stomp", 15674, 15673),
];

impl Listeners {
    /// Takes a key about a listener. `Ok(false)`: it is about something else.
    pub(super) fn take(&mut self, key: &str, value: &str, draft: &mut Draft) -> Result<bool, Reason> {
        for (protocol, section) in [
            ("listeners.", "listeners.amqp"),
            ("mqtt.listeners.", "listeners.mqtt"),
            ("stomp.listeners.", "listeners.stomp"),
        ] {
            let Some(rest) = key.strip_prefix(protocol) else {
                continue;
            };
            let bind = match rest.split('.').next() {
                Some("tcp") => "bind",
                Some("ssl") => "tls_bind",
                _ => return Err(why::why(key).to_owned()),
            };
            match value {
                "none" => draft.set(section, bind, "[]"),
                value => draft.push(section, bind, &address(value)?.to_string()),
            }
            return Ok(true);
        }
        for (plugin, section, ..) in PLUGINS {
            if let Some(about) = key.strip_prefix(plugin) {
                return self.of_plugin(section, about, value, draft);
            }
        }
        Ok(false)
    }

    fn of_plugin(
        &mut self,
        section: &'static str,
        about: &str,
        value: &str,
        draft: &mut Draft,
    ) -> Result<bool, Reason> {
        // `web_stomp.port` and `management.listener.port` are older names.
        let about = about.strip_prefix("listener.").unwrap_or(about);
        let about = if about == "port" || about == "ip" {
            format!("tcp.{about}")
        } else {
            about.to_owned()
        };
        let (bind, about) = match about.split_once('.') {
            Some(("tcp", about)) => ("bind", about),
            Some(("ssl", about)) => ("tls_bind", about),
            _ => return Ok(false),
        };
        match about {
            "port" => {
                let port = value.parse().map_err(|_| format!("{value} is no port"))?;
                self.places.entry((section, bind)).or_default().port = Some(port);
            }
            "ip" => self.places.entry((section, bind)).or_default().ip = Some(ip(value)?),
            "listener" => draft.push(section, bind, &address(value)?.to_string()),
            about if bind == "tls_bind" => self.certificate(&format!("{section}.tls"), about, value, draft)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Takes a key about certificates, such as `certfile`.
    pub(super) fn certificate(
        &mut self,
        section: &str,
        about: &str,
        value: &str,
        draft: &mut Draft,
    ) -> Result<(), Reason> {
        let clients = self.clients.entry(section.to_owned());
        match about {
            "certfile" => draft.set(section, "cert", quoted(value)),
            "keyfile" => draft.set(section, "key", quoted(value)),
            "cacertfile" => draft.set(section, "client_ca", quoted(value)),
            "verify" => clients.or_default().verified = value == "verify_peer",
            "fail_if_no_peer_cert" => clients.or_default().needed = flag(value)? == "true",
            "password" => return Err("the key has to be in its file without a password".to_owned()),
            "depth" => return Err("chains may be as long as rustls takes them".to_owned()),
            _ => return Err("ciphers and the like are those of rustls".to_owned()),
        }
        Ok(())
    }

    /// Writes the settings that are spread over several lines. Their order in the file does not matter.
    pub(super) fn finish(self, draft: &mut Draft) {
        for ((section, bind), place) in self.places {
            let usual = PLUGINS.iter().find(|(_, name, ..)| *name == section);
            let (plain, tls) = usual.map_or((0, 0), |(_, _, plain, tls)| (*plain, *tls));
            let usual = if bind == "bind" { plain } else { tls };
            let address = match (place.ip, place.port.unwrap_or(usual)) {
                (Some(ip), port) => SocketAddr::new(ip, port).to_string(),
                (None, port) => format!("[::]:{port}"),
            };
            draft.push(section, bind, &address);
        }
        for (section, clients) in self.clients {
            // A client without a certificate is refused only if clients are asked for one.
            let auth = match (clients.verified, clients.needed) {
                (true, true) => "require",
                (true, false) => "optional",
                (false, _) => "none",
            };
            draft.set(&section, "client_auth", quoted(auth));
        }
        let has_certificate =
            |draft: &Draft, listener: &str| draft.has("tls", "cert") || draft.has(&format!("{listener}.tls"), "cert");
        for listener in [
            "amqp",
            "mqtt",
            "stomp",
            "management",
            "metrics",
            "web_mqtt",
            "web_stomp",
        ] {
            let section = format!("listeners.{listener}");
            if draft.has(&section, "tls_bind") && !has_certificate(draft, &section) {
                draft.set(&section, "tls_bind", "[]");
                let text = format!("{section}: nothing listens with TLS, because the file names no certificate");
                draft.leave(usize::MAX, text);
            }
        }
    }
}

/// `5672`, `127.0.0.1:5672`, `::1:5672` or `[::1]:5672`.
fn address(value: &str) -> Result<SocketAddr, Reason> {
    let (host, port) = value.rsplit_once(':').unwrap_or(("::", value));
    let port = port.parse().map_err(|_| format!("{value} is no address with a port"))?;
    Ok(SocketAddr::new(ip(host)?, port))
}

fn ip(text: &str) -> Result<IpAddr, Reason> {
    match text.trim_start_matches('[').trim_end_matches(']') {
        "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
        text => text
            .parse()
            .map_err(|_| format!("{text} is a name; listeners need an address, such as 192.0.2.7")),
    }
}
