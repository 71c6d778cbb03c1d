//! A listener: Mosquitto's options, translated to a section of ours.

use super::source::Line;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The options of a `listener PORT`.
#[derive(Clone, Debug, Default)]
pub(super) struct Listener {
    pub port: String,
    /// An address, a path of a Unix socket, or empty for all addresses.
    pub address: String,
    websockets: bool,
    max_connections: Option<u64>,
    /// The highest quality of service, if it is not 2.
    pub max_qos: Option<u8>,
    origins: Vec<String>,
    cert: String,
    key: String,
    ca: String,
    crl: String,
    pub require_certificate: bool,
    pub certificate_names_user: bool,
    only_tls_1_3: bool,
    pub allow_anonymous: Option<bool>,
    /// `listener_allow_anonymous`, which takes precedence over `allow_anonymous`.
    pub own_allow_anonymous: Option<bool>,
    /// A proxy is before it, and begins each connection with a PROXY header.
    pub behind_proxy: bool,
    /// The files of passwords and rights, if each listener has its own.
    pub passwords: Option<Line>,
    pub acl: Option<Line>,
}

impl Listener {
    /// A listener for MQTT without TLS.
    pub(super) fn at(port: &str, address: &str) -> Listener {
        Listener {
            port: port.to_owned(),
            address: address.to_owned(),
            ..Listener::default()
        }
    }

    /// Takes an option of a listener. `Ok(false)`: it is not a listener's option.
    pub(super) fn take(&mut self, line: &Line) -> Result<bool, String> {
        let value = line.value.as_str();
        match line.option.as_str() {
            "protocol" => match value {
                "mqtt" => self.websockets = false,
                "websockets" => self.websockets = true,
                other => return Err(format!("the protocol {other} is not spoken")),
            },
            // -1, Mosquitto's default, means no limit and does not parse.
            "max_connections" => self.max_connections = line.word().parse().ok(),
            "max_qos" => {
                let qos = line.word().parse().ok().filter(|qos| *qos <= 2);
                self.max_qos = Some(qos.ok_or_else(|| format!("{} is not 0, 1 or 2", line.word()))?);
            }
            // Without a list of origins any page may connect.
            "websockets_origin" if value == "*" => {}
            "websockets_origin" => {
                let origin = value.trim_end_matches('/');
                let host = origin.split_once("://").map(|(_, host)| host);
                if !host.is_some_and(|host| !host.is_empty() && !host.contains(['/', ' ', '*'])) {
                    return Err(format!("{value} is not an origin such as https://panel.example"));
                }
                self.origins.push(origin.to_owned());
            }
            "certfile" => value.clone_into(&mut self.cert),
            "keyfile" => value.clone_into(&mut self.key),
            "cafile" => value.clone_into(&mut self.ca),
            "crlfile" => value.clone_into(&mut self.crl),
            "require_certificate" => self.require_certificate = line.flag()?,
            "use_identity_as_username" => self.certificate_names_user = line.flag()?,
            "listener_allow_anonymous" => self.own_allow_anonymous = Some(line.flag()?),
            // Its number is the header's version, and the gateway takes both.
            "enable_proxy_protocol" => self.behind_proxy = true,
            "tls_version" => self.only_tls_1_3 = value == "tlsv1.3",
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The name of its section: that of the default listener, or one with the port if that is taken.
    pub(super) fn name(&self, taken: &[String]) -> String {
        let usual = if self.websockets { "web_mqtt" } else { "mqtt" };
        let with_port = format!("mqtt_{}", self.port);
        // Several listeners may have the same port at different addresses.
        let numbered = (2..).map(|number| format!("{with_port}_{number}"));
        let mut names = [usual.to_owned(), with_port.clone()].into_iter().chain(numbered);
        names.find(|name| !taken.contains(name)).unwrap_or(with_port)
    }

    /// Writes its section. `anonymous`: its own rule, if it differs from the node's.
    pub(super) fn write(&self, name: &str, anonymous: Option<&str>, out: &mut String) {
        let _ = writeln!(out, "\n[listeners.{name}]");
        if name != "mqtt" && name != "web_mqtt" {
            out.push_str("protocol = \"mqtt\"\n");
            if self.websockets {
                out.push_str("websocket = true\n");
            }
        }
        let bind = self.bind().map(|address| quoted(&address)).unwrap_or_default();
        let (plain, tls) = if self.cert.is_empty() {
            (bind, String::new())
        } else {
            (String::new(), bind)
        };
        let _ = writeln!(out, "bind = [{plain}]\ntls_bind = [{tls}]");
        if let Some(max) = self.max_connections {
            let _ = writeln!(out, "max_connections = {max}");
        }
        if !self.origins.is_empty() {
            let origins: Vec<String> = self.origins.iter().map(|origin| quoted(origin)).collect();
            let _ = writeln!(out, "origins = [{}]", origins.join(", "));
        }
        if let Some(anonymous) = anonymous {
            let _ = writeln!(out, "anonymous = {}", quoted(anonymous));
        }
        if self.behind_proxy {
            // Mosquitto believes the header of everybody.
            out.push_str("proxy_protocol = true\nproxy_from = [\"0.0.0.0/0\", \"::/0\"]\n");
        }
        self.write_tls(name, out);
    }

    fn write_tls(&self, name: &str, out: &mut String) {
        if self.cert.is_empty() {
            return;
        }
        let _ = writeln!(out, "\n[listeners.{name}.tls]");
        for (key, value) in [("cert", &self.cert), ("key", &self.key)] {
            let _ = writeln!(out, "{key} = {}", quoted(value));
        }
        if self.require_certificate {
            out.push_str("client_auth = \"require\"\n");
            for (key, value) in [("client_ca", &self.ca), ("client_crl", &self.crl)] {
                if !value.is_empty() {
                    let _ = writeln!(out, "{key} = {}", quoted(value));
                }
            }
        }
        if self.only_tls_1_3 {
            out.push_str("min_version = \"1.3\"\n");
        }
    }

    /// Why its address cannot be bound.
    pub(super) fn unbound(&self) -> Option<String> {
        let Listener { port, address, .. } = self;
        self.bind().is_none().then(|| {
            format!("listener {port} {address}: this is a name, or no port. Set its bind to an address, such as 192.0.2.7:{port}")
        })
    }

    /// The address as our configuration has it. `None`: it is the name of a host or of an interface. Names are not
    /// resolved: the gateway may run elsewhere, and listening at every address instead could let others in.
    fn bind(&self) -> Option<String> {
        if self.address.starts_with('/') {
            return Some(format!("unix:{}", self.address));
        }
        let ip = match self.address.as_str() {
            "" => IpAddr::from(Ipv6Addr::UNSPECIFIED),
            "localhost" => IpAddr::from(Ipv4Addr::LOCALHOST),
            address => address.parse().ok()?,
        };
        Some(SocketAddr::new(ip, self.port.parse().ok()?).to_string())
    }
}

/// A string in TOML.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
