//! Enhanced authentication (MQTT 5 4.12). CONNECT names a method; rounds of AUTH follow if the method needs them. While
//! the session is open, the client may authenticate again in the same way.
//!
//! ```text
//!   CONNECT(method) ─► Asked ──Challenge──► Challenged        Done ──AUTH 0x19──► Asked ...
//!                        ▲    (AUTH 0x18)       │               ▲
//!                        └───────AUTH 0x18──────┘               └──Authenticated (CONNACK 0, AUTH 0)
//! ```
//!
//! The node knows the methods and their data. This file enforces the order of packets.

use crate::error::{Error, Reason};
use crate::frame::{Auth, Property, PropertyBuf, Sender};
use gatepost_core::command::{Command, Login};
use gatepost_core::event::LoginFailure;
use gatepost_core::properties::Name;
use gatepost_core::session::Cx;

/// The method that a client has chosen, and the step it is at.
pub(super) struct Authentication {
    method: Name,
    step: Step,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The node has to answer the client.
    Asked,
    /// The client has to answer the node.
    Challenged,
    /// The client is authenticated.
    Done,
}

impl Authentication {
    /// Starts the method that CONNECT names. Returns the login to send to the node too.
    pub(super) fn begin(method: &str, data: &[u8]) -> (Authentication, Login) {
        let name = Name::from(method);
        let authentication = Authentication {
            method: name.clone(),
            step: Step::Asked,
        };
        let login = Login::Mechanism {
            name,
            data: data.into(),
        };
        (authentication, login)
    }

    /// The method's name, which CONNACK must repeat [MQTT-4.12.0-5].
    pub(super) fn method(&self) -> &Name {
        &self.method
    }

    /// Whether the node has to answer. Until it has, nothing is read: a login must be the last command of its turn.
    pub(super) fn is_asked(&self) -> bool {
        self.step == Step::Asked
    }

    /// Handles an AUTH of the client: pushes the login it asks for.
    pub(super) fn packet(&mut self, cx: &mut Cx<'_>, body: &[u8]) -> Result<(), Error> {
        let packet = Auth::decode(body, Sender::Client)?;
        let (mut method, mut data) = (None, &[][..]);
        for property in packet.properties.iter() {
            match property {
                Property::AuthenticationMethod(name) => method = Some(name),
                Property::AuthenticationData(bytes) => data = bytes,
                _ => {}
            }
        }
        // [MQTT-4.12.0-5], [MQTT-4.12.1-1]
        if method != Some(&*self.method) {
            return Err(Error::Protocol("AUTH does not name the method of CONNECT"));
        }
        let data = data.into();
        let login = match (self.step, packet.reason) {
            (Step::Challenged, Reason::CONTINUE_AUTHENTICATION) => Login::Response { data },
            (Step::Done, Reason::REAUTHENTICATE) => Login::Mechanism {
                name: self.method.clone(),
                data,
            },
            (Step::Done, _) => return Err(Error::Protocol("AUTH goes on with an authentication that is over")),
            _ => return Err(Error::Protocol("an authentication is under way")),
        };
        self.step = Step::Asked;
        cx.commands.push(Command::Authenticate(Box::new(login)));
        Ok(())
    }

    /// The client is authenticated. The caller sends CONNACK, or calls [`Authentication::accept`].
    pub(super) fn done(&mut self) {
        self.step = Step::Done;
    }

    /// Sends the node's challenge. Returns whether it fits the client's Maximum Packet Size.
    #[must_use]
    pub(super) fn challenge(&mut self, data: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> bool {
        self.step = Step::Challenged;
        self.put(Reason::CONTINUE_AUTHENTICATION, data, bytes_max, out)
    }

    /// Reports that the client has authenticated again. Returns whether that fits the client's Maximum Packet Size.
    #[must_use]
    pub(super) fn accept(&mut self, data: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> bool {
        self.step = Step::Done;
        self.put(Reason::SUCCESS, data, bytes_max, out)
    }

    fn put(&self, reason: Reason, data: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> bool {
        let start = out.len();
        let properties = properties(&self.method, data);
        let packet = Auth {
            reason,
            properties: properties.as_properties(),
        };
        let fits = packet.encode(out).is_ok() && out.len() - start <= bytes_max;
        if !fits {
            out.truncate(start);
        }
        fits
    }
}

fn properties(method: &str, data: &[u8]) -> PropertyBuf {
    let data = (!data.is_empty()).then_some(Property::AuthenticationData(data));
    [Some(Property::AuthenticationMethod(method)), data]
        .into_iter()
        .flatten()
        .collect()
}

/// Reason code and text for a refused login. `by_method`: the client named a method, so there was no password that
/// could be bad.
pub(super) fn refusal(why: LoginFailure, by_method: bool) -> (Reason, &'static str) {
    match why {
        LoginFailure::BadCredentials if by_method => (Reason::NOT_AUTHORIZED, "the authentication failed"),
        LoginFailure::BadCredentials => (Reason::BAD_CREDENTIALS, "bad user name or password"),
        LoginFailure::LoopbackOnly | LoginFailure::AnonymousRefused => (Reason::NOT_AUTHORIZED, "not authorized"),
        LoginFailure::Full => (Reason::QUOTA_EXCEEDED, "too many connections"),
        LoginFailure::Banned => (Reason::BANNED, "banned"),
        LoginFailure::Busy => (Reason::SERVER_BUSY, "too many logins at once"),
        LoginFailure::UnknownMechanism => (
            Reason::BAD_AUTHENTICATION_METHOD,
            "the authentication method is unknown",
        ),
    }
}
