//! From CONNECT to CONNACK.

use crate::error::{Error, Reason};
use crate::frame::{
    ConnAck, Connect, Disconnect, Header, Kind, LastWill, Properties, Property, PropertyBuf, Sender, Version,
};
use crate::map::{ORIGIN, connect_reason};
use crate::session::authenticating::{Authentication, refusal};
use crate::session::open::{End, Open};
use crate::session::publishing::{Normalised, Writing};
use crate::session::terms::{Terms, capped, forever};
use crate::settings::Settings;
use crate::{Shared, codec, session};
use gatepost_core::command::{Attach, Command, Login, OpenSession, Said, Will};
use gatepost_core::event::{CloseReason, LoginRefused};
use gatepost_core::fault::Fault;
use gatepost_core::message::{Dialect, Envelope, Message};
use gatepost_core::properties::{Name, Origin};
use gatepost_core::session::{Close, Cx};
use gatepost_core::time::Time;
use std::time::Duration;

/// A CONNECT that is not answered yet.
pub(super) struct Opening {
    deadline: Time,
    /// Bytes of the CONNECT: client id, will and credentials are kept until the session is open.
    pub(super) bytes: usize,
    /// Sent when the credentials were accepted.
    attach: Option<Box<Attach>>,
    /// Sent when the vhost was found.
    session: Option<Box<OpenSession>>,
    terms: Terms,
    /// Present if CONNECT names a method.
    authentication: Option<Box<Authentication>>,
    /// What CONNACK must report.
    granted: Granted,
}

/// Properties of the CONNACK that depend on the CONNECT.
#[derive(Default)]
struct Granted {
    /// The server has chosen the client id.
    assigned_id: bool,
    /// Present only if it differs from the client's request.
    session_expiry: Option<u32>,
    /// Present only if it differs from the client's request.
    keep_alive: Option<u16>,
    response_information: bool,
    /// Final data of the authentication method.
    authentication_data: Box<[u8]>,
}

/// Parses a CONNECT, if it is complete, and pushes its login. Returns it with the bytes it took.
pub(super) fn begin(shared: &Shared, cx: &mut Cx<'_>, input: &[u8]) -> Result<Option<(Box<Opening>, usize)>, Close> {
    let Some(&first) = input.first() else { return Ok(None) };
    if Kind::of(first) != Some(Kind::Connect) {
        // [MQTT-3.1.0-1]. Nothing may be sent before CONNACK [MQTT-3.14.0-1].
        return Err(Close::abnormal("the first packet is not CONNECT"));
    }
    let frame = match codec::Frame::cut(input, Version::V5, &shared.settings.limits()) {
        Ok(Some(frame)) => frame,
        Ok(None) => return Ok(None),
        Err(error) => return oversized(shared, cx, input, &error),
    };
    let connect = match Connect::decode(frame.header.flags, frame.body) {
        Ok(connect) => connect,
        Err(error) => return Err(unreadable(cx, frame.body, &error)),
    };
    let terms = Terms::of(&connect, &shared.settings);
    match open(shared, cx, &connect, terms) {
        Ok(opening) => {
            let bytes = frame.size();
            Ok(Some((Box::new(Opening { bytes, ..opening }), bytes)))
        }
        Err((terms, error)) => Err(refuse(cx, &terms, error.reason(), error.text())),
    }
}

/// Answers a CONNECT that cannot be decoded, if its version is known.
fn unreadable(cx: &mut Cx<'_>, body: &[u8], error: &Error) -> Close {
    let version = match *error {
        Error::Version { old: true, .. } => Some(Version::V311),
        Error::Version { old: false, .. } => Some(Version::V5),
        _ => Connect::announced(body),
    };
    if let Some(version) = version {
        // The client's maximum packet size is unknown, so there is no reason string [MQTT-3.2.2-19].
        put_refusal(cx.out, version, error.reason(), "", CONNACK_BYTES_MIN);
    }
    Close::abnormal(error.to_string())
}

/// Answers a CONNECT that is over the limit or has a bad header. It is answered as soon as its version is known; the
/// rest is not waited for.
fn oversized(
    shared: &Shared,
    cx: &mut Cx<'_>,
    input: &[u8],
    error: &Error,
) -> Result<Option<(Box<Opening>, usize)>, Close> {
    // The longest protocol name has six bytes.
    const ANNOUNCEMENT: usize = 9;
    let Ok(Some(header)) = Header::read(input, Version::V5) else {
        return Err(Close::abnormal(error.to_string()));
    };
    let body = input.get(header.len..).unwrap_or_default();
    if body.len() < ANNOUNCEMENT && header.size() > shared.settings.connect_bytes_max {
        return Ok(None);
    }
    Err(unreadable(cx, body, error))
}

/// Sends a CONNACK that refuses the connection.
fn refuse(cx: &mut Cx<'_>, terms: &Terms, reason: Reason, text: &str) -> Close {
    put_refusal(cx.out, terms.version, reason, text, terms.packet_bytes_max);
    Close::abnormal(text)
}

/// Size of the shortest CONNACK of MQTT 5, in bytes.
const CONNACK_BYTES_MIN: usize = 5;

fn put_refusal(out: &mut Vec<u8>, version: Version, reason: Reason, text: &str, size_max: usize) {
    let mut put = |reason, properties: &Properties<'_>| {
        let start = out.len();
        let packet = ConnAck {
            session_present: false,
            reason,
            properties: *properties,
        };
        let fits = packet.encode(version, out).is_ok() && out.len() - start <= size_max;
        if !fits {
            out.truncate(start);
        }
        fits
    };
    if version == Version::V5 {
        // The reason string is only for people, so it is left out if space is short. A client that accepts not even the
        // bare refusal is closed without one. [MQTT-3.1.2-24]
        let explained = PropertyBuf::from_iter([Property::ReasonString(text)]);
        if (text.is_empty() || !put(reason, &explained.as_properties())) && size_max >= CONNACK_BYTES_MIN {
            out.extend_from_slice(&[Kind::ConnAck.first_byte(), 3, 0, reason.0, 0]);
        }
    } else if let Some(code) = reason.return_code() {
        out.extend_from_slice(&[Kind::ConnAck.first_byte(), 2, 0, code]);
    }
}

/// Checks a CONNECT and pushes its login.
fn open(shared: &Shared, cx: &mut Cx<'_>, connect: &Connect<'_>, mut terms: Terms) -> Result<Opening, (Terms, Error)> {
    let settings = &shared.settings;
    let mut granted = Granted::default();
    let mut asked_expiry = 0;
    let (mut method, mut method_data) = (None, &[][..]);
    for property in connect.properties.iter() {
        match property {
            Property::AuthenticationMethod(name) => method = Some(name),
            Property::AuthenticationData(data) => method_data = data,
            Property::SessionExpiry(seconds) => asked_expiry = seconds,
            Property::RequestResponseInformation(asked) => granted.response_information = asked,
            _ => {}
        }
    }
    let expiry = match connect.version {
        Version::V5 => {
            let expiry = capped(asked_expiry, settings.session_expiry_max);
            if expiry != forever(asked_expiry) {
                granted.session_expiry = expiry;
            }
            terms.may_extend = asked_expiry != 0;
            expiry
        }
        _ if connect.clean_start => Some(0),
        _ => settings.session_expiry_max,
    };
    if let (Version::V5, Some(most)) = (connect.version, settings.keep_alive_max)
        && (connect.keep_alive == 0 || connect.keep_alive > most)
    {
        granted.keep_alive = Some(most);
        terms.keep_alive = most; // [MQTT-3.1.2-21]
    }
    if connect.client_id.is_empty() {
        // MQTT 3.1 always requires a client id, 3.1.1 if the session is to be kept [MQTT-3.1.3-8].
        if connect.version == Version::V31 || (connect.version == Version::V311 && !connect.clean_start) {
            let error = Error::Reason(Reason::CLIENT_ID_NOT_VALID, "the client id is empty");
            return Err((terms, error));
        }
        granted.assigned_id = true;
        terms.client_id = format!("auto-{:016x}{:016x}", (cx.random)(), (cx.random)()).into();
    }
    let will = match connect
        .will
        .as_ref()
        .map(|will| self::will(shared, cx, will))
        .transpose()
    {
        Ok(will) => will.flatten(),
        Err(error) => return Err((terms, error)),
    };
    let (vhost, login) = credentials(settings, connect, &terms.client_id);
    let (authentication, login) = match method.map(|method| Authentication::begin(method, method_data)) {
        Some((authentication, login)) => (Some(Box::new(authentication)), login),
        None => (None, login),
    };
    cx.commands.push(Command::Authenticate(Box::new(login)));
    Ok(Opening {
        bytes: 0,
        deadline: cx.now.monotonic + settings.connect_timeout,
        attach: Some(Box::new(Attach {
            vhost,
            protocol: connect.version.name(),
            client_name: Some(terms.client_id.clone()),
            heartbeat_s: terms.keep_alive,
            handshake: None,
        })),
        session: Some(Box::new(OpenSession {
            client_id: terms.client_id.clone(),
            clean_start: connect.clean_start,
            expiry,
            receive_maximum: terms.receive_maximum,
            will,
        })),
        terms,
        authentication,
        granted,
    })
}

/// The will for the engine. `None`: clients may not write to its topic, so it is dropped. The connection works without
/// it, and Mosquitto drops it too.
fn will(shared: &Shared, cx: &Cx<'_>, will: &LastWill<'_>) -> Result<Option<Will>, Error> {
    let settings = &shared.settings;
    if will.qos > settings.maximum_qos {
        return Err(Error::Reason(
            Reason::QOS_NOT_SUPPORTED,
            "the will's quality of service is not supported",
        ));
    }
    if will.retain && !settings.retain_available {
        return Err(Error::Reason(
            Reason::RETAIN_NOT_SUPPORTED,
            "retained messages are not supported",
        ));
    }
    if will.payload.len() > settings.max_message_size {
        return Err(Error::Reason(Reason::PACKET_TOO_LARGE, "the will is too large"));
    }
    if shared.refuses_levels(will.topic) {
        return Err(Error::Reason(
            Reason::TOPIC_INVALID,
            "the will's topic has too many levels",
        ));
    }
    if Writing::to(will.topic) != Writing::Allowed {
        return Ok(None);
    }
    let mut scratch = Vec::new();
    let Normalised {
        raw,
        expiry,
        will_delay,
        ..
    } = Normalised::of(will.properties, &mut scratch);
    let envelope = Envelope {
        origin: if raw.is_empty() { Origin::NONE } else { ORIGIN },
        dialect: Dialect::Slash,
        durable: will.qos > 0,
        qos: will.qos,
        retain: will.retain,
        received: cx.now.wall,
        ..Envelope::default()
    };
    Ok(Some(Will {
        message: Message::new(envelope, &settings.exchange, will.topic, raw, will.payload),
        delay: Duration::from_secs(will_delay.unwrap_or(0).into()),
        expiry: expiry.map(|seconds| Duration::from_secs(seconds.into())),
    }))
}

/// The vhost and the login of a CONNECT. If it names an authentication method, only the vhost counts, since the method
/// identifies the client.
fn credentials(settings: &Settings, connect: &Connect<'_>, client_id: &Name) -> (Name, Login) {
    let (vhost, user): (Name, _) = match connect.user.and_then(|user| user.rsplit_once(':')) {
        Some((vhost, user)) if settings.vhost_in_username => (vhost.into(), Some(user)),
        _ => (settings.default_vhost.clone(), connect.user),
    };
    let login = match (user, connect.password) {
        // Clients whose settings were left empty send empty texts. Mosquitto and RabbitMQ accept them as well.
        (None | Some(""), None | Some(b"")) => Login::Anonymous,
        (user, password) => Login::Password {
            user: user.unwrap_or("").into(),
            password: password.unwrap_or_default().into(),
            said: Said {
                vhost: Some(vhost.clone()),
                client_id: Some(client_id.clone()),
            },
        },
    };
    (vhost, login)
}

/// Parses AUTH, which is passed on, or DISCONNECT, if it is complete. Returns the bytes it took.
fn read_answer(
    shared: &Shared,
    cx: &mut Cx<'_>,
    authentication: &mut Authentication,
    input: &[u8],
) -> Result<Option<usize>, End> {
    let Some(frame) = codec::Frame::cut(input, Version::V5, &shared.settings.limits())? else {
        return Ok(None);
    };
    if frame.header.kind == Kind::Disconnect {
        let packet = Disconnect::decode(frame.body, Version::V5, Sender::Client)?;
        let text = format!("DISCONNECT {:?} before the login was done", packet.reason);
        return Err(End::Disconnect(Close::normal(text)));
    }
    authentication.packet(cx, frame.body)?;
    Ok(Some(frame.size()))
}

impl Opening {
    pub(super) fn deadline(&self) -> Time {
        self.deadline
    }

    /// The credentials are accepted. `data`: final data of the authentication method, for CONNACK.
    pub(super) fn attach(&mut self, cx: &mut Cx<'_>, data: Box<[u8]>) {
        self.granted.authentication_data = data;
        if let Some(authentication) = &mut self.authentication {
            authentication.done();
        }
        cx.commands.extend(self.attach.take().map(Command::Attach));
    }

    /// The authentication method has a challenge for the client.
    pub(super) fn challenge(&mut self, cx: &mut Cx<'_>, data: &[u8]) -> Result<(), Close> {
        let bytes_max = self.terms.packet_bytes_max;
        let fits = match &mut self.authentication {
            Some(authentication) => authentication.challenge(data, bytes_max, cx.out),
            // Cannot occur: without a method there are no challenges.
            None => false,
        };
        if !fits {
            return Err(self.refuse(cx, Reason::PACKET_TOO_LARGE, "AUTH does not fit the client"));
        }
        Ok(())
    }

    /// Parses the client's answer to a challenge, if it is complete, and passes it on. Returns the bytes it took. Until
    /// CONNACK a client may send only AUTH and DISCONNECT [MQTT-3.1.2-30].
    pub(super) fn respond(&mut self, shared: &Shared, cx: &mut Cx<'_>, input: &[u8]) -> Result<Option<usize>, Close> {
        let Some(&first) = input.first() else { return Ok(None) };
        let read = match (Kind::of(first), &mut self.authentication) {
            (Some(Kind::Auth | Kind::Disconnect), Some(authentication)) => {
                read_answer(shared, cx, authentication, input)
            }
            _ => Err(Error::Protocol("neither AUTH nor DISCONNECT while the client is authenticated").into()),
        };
        read.map_err(|end| match end {
            End::Error(error) => self.refuse(cx, error.reason(), error.text()),
            End::Disconnect(close) => close,
        })
    }

    /// The vhost was found.
    pub(super) fn open_session(&mut self, cx: &mut Cx<'_>) {
        cx.commands.extend(self.session.take().map(Command::OpenSession));
    }

    pub(super) fn login_refused(&self, cx: &mut Cx<'_>, refused: &LoginRefused) -> Close {
        let (reason, text) = refusal(refused.why, self.authentication.is_some());
        self.refuse(cx, reason, text)
    }

    /// The vhost or the session was refused.
    pub(super) fn failed(&self, cx: &mut Cx<'_>, fault: &Fault) -> Close {
        self.refuse(cx, connect_reason(fault.kind), &fault.text)
    }

    pub(super) fn too_slow(&self, cx: &mut Cx<'_>) -> Close {
        self.refuse(cx, Reason::SERVER_UNAVAILABLE, "the login took too long")
    }

    /// The engine ends the connection before CONNACK. DISCONNECT is not allowed yet [MQTT-3.14.0-1].
    pub(super) fn closed(&self, cx: &mut Cx<'_>, why: CloseReason) -> Close {
        let reason = match why {
            CloseReason::Shutdown => Reason::SERVER_UNAVAILABLE,
            CloseReason::TakenOver => Reason::SERVER_BUSY,
            CloseReason::Forced
            | CloseReason::VhostDeleted
            | CloseReason::UserDeleted
            | CloseReason::CredentialsExpired => Reason::NOT_AUTHORIZED,
        };
        self.refuse(cx, reason, session::closed(why));
        Close::normal(session::closed(why))
    }

    fn refuse(&self, cx: &mut Cx<'_>, reason: Reason, text: &str) -> Close {
        refuse(cx, &self.terms, reason, text)
    }

    /// The session is open: sends CONNACK.
    pub(super) fn accept(self, shared: &Shared, cx: &mut Cx<'_>, present: bool) -> Result<Open, Close> {
        let Opening {
            mut terms,
            granted,
            authentication,
            ..
        } = self;
        let method = authentication.as_deref().map(Authentication::method);
        if terms.version == Version::V5 {
            let start = cx.out.len();
            let mut fits = |terms: &Terms, optional| {
                let properties = connack_properties(&shared.settings, terms, &granted, method, optional);
                let packet = ConnAck {
                    session_present: present,
                    reason: Reason::SUCCESS,
                    properties: properties.as_properties(),
                };
                let fits = packet.encode(Version::V5, cx.out).is_ok() && cx.out.len() - start <= terms.packet_bytes_max;
                if !fits {
                    cx.out.truncate(start);
                }
                fits
            };
            if !fits(&terms, true) {
                // Properties that offer something may be left out; those that restrict the client may not.
                // [MQTT-3.1.2-24]
                terms.topic_alias_maximum_in = 0;
                if !fits(&terms, false) {
                    return Err(refuse(
                        cx,
                        &terms,
                        Reason::PACKET_TOO_LARGE,
                        "CONNACK does not fit the client",
                    ));
                }
            }
        } else {
            let present = u8::from(present && terms.version != Version::V31);
            cx.out.extend_from_slice(&[Kind::ConnAck.first_byte(), 2, present, 0]);
        }
        Ok(Open::new(&shared.settings, terms, authentication, cx.now))
    }
}

/// The properties of a successful CONNACK.
fn connack_properties(
    settings: &Settings,
    terms: &Terms,
    granted: &Granted,
    method: Option<&Name>,
    optional: bool,
) -> PropertyBuf {
    let information = settings.response_prefix.as_ref();
    let information = information.filter(|_| granted.response_information && optional);
    let information = information.map(|prefix| format!("{prefix}/{}", terms.client_id));
    let data = Some(&granted.authentication_data).filter(|data| method.is_some() && !data.is_empty());
    // A packet cannot be longer than the setting, which is capped to 32 bits.
    let packet_bytes_max = u32::try_from(settings.packet_bytes_max()).ok();
    [
        granted.session_expiry.map(Property::SessionExpiry),
        Some(Property::ReceiveMaximum(settings.receive_maximum.max(1))),
        (settings.maximum_qos < 2).then_some(Property::MaximumQos(settings.maximum_qos)),
        (!settings.retain_available).then_some(Property::RetainAvailable(false)),
        packet_bytes_max.filter(|_| optional).map(Property::MaximumPacketSize),
        granted
            .assigned_id
            .then_some(Property::AssignedClientId(&terms.client_id)),
        (terms.topic_alias_maximum_in > 0).then_some(Property::TopicAliasMaximum(terms.topic_alias_maximum_in)),
        granted.keep_alive.map(Property::ServerKeepAlive),
        information.as_deref().map(Property::ResponseInformation),
        method.map(|name| Property::AuthenticationMethod(name)),
        data.map(|data| Property::AuthenticationData(data)),
    ]
    .into_iter()
    .flatten()
    .collect()
}
