//! A listener: Mosquitto's options, translated to a section of ours.

use super::source::Line;
use std::fmt::Write as _;

/// The options of a `listener PORT`.
#[derive(Clone, Debug, Default)]
pub(super) struct Listener {
    pub port: String,
    /// An address, a path of a Unix socket, or empty for all addresses.
    pub address: String,
    websockets: bool,
    max_connections: Option<u64>,
    origins: Vec<String>,
    cert: String,
    key: String,
    ca: String,
    crl: String,
    pub require_certificate: bool,
    pub certificate_names_user: bool,
    only_tls_1_3: bool,
    pub allow_anonymous: Option<bool>,
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
            "max_connections" => self.max_connections = value.parse().ok(),
            "websockets_origin" => self.origins.push(value.to_owned()),
            "certfile" => value.clone_into(&mut self.cert),
            "keyfile" => value.clone_into(&mut self.key),
            "cafile" => value.clone_into(&mut self.ca),
            "crlfile" => value.clone_into(&mut self.crl),
            "require_certificate" => self.require_certificate = value == "true",
            "use_identity_as_username" => self.certificate_names_user = value == "true",
            "tls_version" => self.only_tls_1_3 = value == "tlsv1.3",
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A name for its section: that of the ready-made listener, or one with the port, unless it is taken.
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
        let bind = quoted(&self.bind());
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

    fn bind(&self) -> String {
        let address = match self.address.as_str() {
            path if path.starts_with('/') => return format!("unix:{path}"),
            "" | "::" => "[::]",
            "localhost" => "127.0.0.1",
            address if address.contains(':') => return format!("[{address}]:{}", self.port),
            address => address,
        };
        format!("{address}:{}", self.port)
    }
}

/// A string in TOML.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
