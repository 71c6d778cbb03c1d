//! From the protocol header to `open-ok`: the offer, the client's choice, login, vhost.

use super::{AmqpSession, State};
use crate::error::{Code, Error, Reply};
use crate::frame::{Connection, table};
use crate::map;
use crate::settings::{FRAME_MIN, MECHANISMS};
use gatepost_core::command::{Attach, ClientProperties, Command, Handshake, Login, Said};
use gatepost_core::event::{Event, LoginFailure};
use gatepost_core::fault::FaultKind;
use gatepost_core::properties::{Name, Table, Value};
use gatepost_core::session::Cx;
use gatepost_core::time::Time;

impl AmqpSession {
    pub(super) fn start(&mut self, cx: &mut Cx<'_>) {
        let mechanisms: Vec<&str> = self.offered_mechanisms().collect();
        let mechanisms = mechanisms.join(" ");
        let start = Connection::Start {
            version_major: 0,
            version_minor: 9,
            server_properties: self.server_properties(),
            mechanisms: mechanisms.as_bytes(),
            locales: b"en_US",
        };
        start.encode(0, cx.out);
        self.state = State::Starting;
    }

    fn server_properties(&self) -> Table {
        let mut capabilities = Table::default();
        for name in [
            "publisher_confirms",
            "exchange_exchange_bindings",
            "basic.nack",
            "consumer_cancel_notify",
            "connection.blocked",
            "consumer_priorities",
            "authentication_failure_close",
            "per_consumer_qos",
            "direct_reply_to",
        ] {
            capabilities.push(name, Value::Bool(true));
        }
        let mut table = Table::default();
        table.push("capabilities", Value::Table(capabilities));
        for (name, value) in [
            ("cluster_name", &self.settings.cluster_name),
            ("copyright", &self.settings.copyright),
            ("information", &self.settings.information),
            ("node", &self.settings.node),
            ("platform", &self.settings.platform),
            ("product", &self.settings.product),
            ("version", &self.settings.version),
        ] {
            table.push(name, Value::text(value));
        }
        table
    }

    pub(super) fn start_ok(
        &mut self,
        cx: &mut Cx<'_>,
        client_properties: &Table,
        mechanism: &str,
        response: &[u8],
    ) -> Result<(), Error> {
        if let Some(Value::Table(capabilities)) = client_properties.lookup("capabilities") {
            let has = |name: &str| capabilities.lookup(name) == Some(&Value::Bool(true));
            self.client.cancel_notify = has("consumer_cancel_notify");
            self.client.blocked_notify = has("connection.blocked");
            self.client.login_failure_close = has("authentication_failure_close");
        }
        self.client.name = client_properties
            .lookup("connection_name")
            .and_then(Value::as_str)
            .map(Name::from);
        self.client.properties = client_texts(client_properties);
        let offered = self.offered_mechanisms().find(|name| *name == mechanism);
        let login = match offered {
            Some("PLAIN") => plain(response),
            Some("AMQPLAIN") => amqplain(response),
            Some("EXTERNAL") => external(response),
            Some("ANONYMOUS") => Some(Login::Anonymous),
            _ => None,
        };
        match login {
            Some(login) => {
                self.client.mechanism = offered.unwrap_or_default();
                cx.commands.push(Command::Authenticate(Box::new(login)));
                self.state = State::LoggingIn;
            }
            None => {
                self.state = State::Silent {
                    until: cx.now.monotonic + self.settings.refusal_delay,
                }
            }
        }
        Ok(())
    }

    pub(super) fn tune_ok(&mut self, now: Time, channel_max: u16, frame_max: u32, heartbeat: u16) -> Result<(), Error> {
        let channel_max = negotiated(
            "channel_max",
            channel_max.into(),
            1,
            self.settings.channel_max.max(1).into(),
        )?;
        self.frame_max = negotiated("frame_max", frame_max, FRAME_MIN, self.offered_frame_max())?;
        self.channel_max = u16::try_from(channel_max).unwrap_or(u16::MAX);
        self.heartbeat.agree(now, heartbeat);
        self.state = State::Opening;
        Ok(())
    }

    pub(super) fn open(&mut self, cx: &mut Cx<'_>, vhost: &str) {
        self.client.vhost = vhost.into();
        cx.commands.push(Command::Attach(Box::new(Attach {
            vhost: self.client.vhost.clone(),
            protocol: "AMQP 0-9-1",
            client_name: self.client.name.clone(),
            heartbeat_s: self
                .heartbeat
                .interval()
                .map_or(0, |interval| interval.as_secs() as u16),
            handshake: Some(Box::new(Handshake {
                mechanism: self.client.mechanism,
                channel_max: self.channel_max,
                frame_max: self.frame_max,
                client_properties: std::mem::take(&mut self.client.properties),
            })),
        })));
        self.state = State::Attaching;
    }

    /// Handles the directory's answers.
    pub(super) fn login_event(&mut self, cx: &mut Cx<'_>, event: Event) -> Result<(), Error> {
        match (&self.state, event) {
            (State::LoggingIn, Event::Authenticated { user, impersonates, .. }) => {
                self.client.user = user;
                self.client.impersonates = impersonates;
                let heartbeat = u16::try_from(self.settings.heartbeat.as_secs()).unwrap_or(u16::MAX);
                let frame_max = self.offered_frame_max();
                Connection::Tune {
                    channel_max: self.channel_max,
                    frame_max,
                    heartbeat,
                }
                .encode(0, cx.out);
                self.state = State::Tuning;
                Ok(())
            }
            (State::LoggingIn, Event::LoginRefused(refused)) if refused.why == LoginFailure::Full => {
                let detail = "too many connections: try again later";
                Err(Error::Connection(Reply::frame(Code::ConnectionForced, detail)))
            }
            (State::LoggingIn, Event::LoginRefused(refused)) if refused.why == LoginFailure::Busy => {
                Err(Error::Connection(Reply::frame(
                    Code::ConnectionForced,
                    "too many logins at once: try again",
                )))
            }
            (State::LoggingIn, Event::LoginRefused(_)) if self.client.login_failure_close => {
                let detail = format!(
                    "Login was refused using authentication mechanism {}. For details see the broker logfile.",
                    self.client.mechanism
                );
                Err(Error::Connection(Reply::frame(Code::AccessRefused, detail)))
            }
            (State::LoggingIn, Event::LoginRefused(_)) => {
                self.state = State::Silent {
                    until: cx.now.monotonic + self.settings.refusal_delay,
                };
                Ok(())
            }
            (State::Attaching, Event::Attached) => {
                self.client.attached = true;
                Connection::OpenOk { reserved: "" }.encode(0, cx.out);
                self.state = State::Running;
                Ok(())
            }
            (State::Attaching, Event::AttachRefused(fault)) => {
                // 1.4.2.7 has one code for any refusal of the client. An error of ours keeps its own code.
                let mut reply = map::reply(&fault, (10, 40));
                if !matches!(fault.kind, FaultKind::Internal | FaultKind::ResourceError) {
                    reply.code = Code::NotAllowed;
                }
                Err(Error::Connection(reply))
            }
            _ => Ok(()),
        }
    }

    /// The answer to a new secret. The connection's user cannot change.
    pub(super) fn secret_event(&mut self, cx: &mut Cx<'_>, event: Event) -> Result<(), Error> {
        match event {
            Event::Authenticated { user, impersonates, .. } if user == self.client.user => {
                self.client.impersonates = impersonates;
                Connection::UpdateSecretOk {}.encode(0, cx.out);
                Ok(())
            }
            _ => {
                let detail = "New secret was refused by one of the backends";
                Err(Error::new(Code::NotAllowed, detail, (10, 70)))
            }
        }
    }

    /// Those of the configured mechanisms that can succeed on this connection.
    fn offered_mechanisms(&self) -> impl Iterator<Item = &'static str> + use<'_> {
        let known = |name: &Name| {
            MECHANISMS
                .iter()
                .copied()
                .filter(|known| self.client.has_certificate || *known != "EXTERNAL")
                .find(|known| **known == **name)
        };
        self.settings.mechanisms.iter().filter_map(known)
    }

    fn offered_frame_max(&self) -> u32 {
        self.settings.frame_max.max(FRAME_MIN)
    }
}

/// The client properties that are texts, such as product and version.
fn client_texts(properties: &Table) -> ClientProperties {
    let texts = properties.0.iter();
    ClientProperties::new(texts.filter_map(|(name, value)| Some((&**name, value.as_str()?))))
}

/// Checks a value of `tune-ok`, which may only lower what `tune` offered (1.4.2.6). Zero would mean no limit, and we
/// always have one.
fn negotiated(name: &str, value: u32, min: u32, max: u32) -> Result<u32, Error> {
    let detail = match value {
        0 => format!("negotiated {name} = 0 (no limit) is higher than the maximum allowed value ({max})"),
        v if v < min => format!("negotiated {name} = {v} is lower than the minimum allowed value ({min})"),
        v if v > max => format!("negotiated {name} = {v} is higher than the maximum allowed value ({max})"),
        v => return Ok(v),
    };
    Err(Error::new(Code::NotAllowed, detail, (10, 31)))
}

/// SASL PLAIN, RFC 4616: `\0user\0password`. An authorization identity in front is refused, since no user may act for
/// another.
fn plain(response: &[u8]) -> Option<Login> {
    let mut parts = response.split(|b| *b == 0);
    let (Some([]), Some(user), Some(password), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    password_login(user, password)
}

/// SASL EXTERNAL, RFC 4422 appendix A: the certificate identifies the user. A name in the response must be the same
/// user's.
fn external(response: &[u8]) -> Option<Login> {
    let user = std::str::from_utf8(response).ok()?;
    Some(Login::Certificate {
        user: (!user.is_empty()).then(|| user.into()),
    })
}

/// RabbitMQ's AMQPLAIN: a table without its length.
fn amqplain(response: &[u8]) -> Option<Login> {
    let table = table::decode(response).ok()?;
    let text = |name| match table.lookup(name) {
        Some(Value::Text(octets)) => Some(octets),
        _ => None,
    };
    password_login(text("LOGIN")?, text("PASSWORD")?)
}

fn password_login(user: &[u8], password: &[u8]) -> Option<Login> {
    let user = std::str::from_utf8(user).ok()?;
    Some(Login::Password {
        user: user.into(),
        password: password.into(),
        said: Said::default(),
    })
}
