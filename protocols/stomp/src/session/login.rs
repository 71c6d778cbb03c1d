//! From CONNECT to CONNECTED: credentials, then the virtual host.

use super::{Handled, State, StompSession};
use crate::error::Refusal;
use crate::frame::Frame;
use crate::frame::connect::{Connect, HeartBeat, push_connected};
use gatepost_core::command::{Attach, Command, Login, Said};
use gatepost_core::event::{LoginFailure, LoginRefused};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::properties::Name;
use gatepost_core::session::{Close, Cx};

/// A CONNECT that is not answered yet.
#[derive(Debug)]
pub(super) struct Connecting {
    vhost: Name,
    client: HeartBeat,
}

impl StompSession {
    /// Handles the first frame.
    pub(super) fn connect(&mut self, cx: &mut Cx<'_>, frame: &Frame<'_>) -> Result<Handled, Refusal> {
        if !matches!(self.state, State::AwaitingConnect) {
            return Err(Refusal::already_connected());
        }
        let connect = Connect::parse(frame.headers)?;
        self.version = connect.version;
        self.client_id = connect.client_id.map(Box::from);
        let vhost = connect
            .host
            .map_or_else(|| self.settings.default_vhost.clone(), Name::from);
        let login = match connect.login {
            Some(user) => Login::Password {
                user: user.into(),
                password: connect.passcode.unwrap_or_default().as_bytes().into(),
                said: Said {
                    vhost: Some(vhost.clone()),
                    client_id: None,
                },
            },
            None => Login::Anonymous,
        };
        cx.commands.push(Command::Authenticate(Box::new(login)));
        self.state = State::Authenticating(Box::new(Connecting {
            vhost,
            client: connect.heart_beat,
        }));
        Ok(Handled::Done)
    }

    pub(super) fn authenticated(&mut self, cx: &mut Cx<'_>, user: Name) {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Authenticating(connecting) => {
                self.user = user;
                self.attach(cx, connecting);
            }
            other => self.state = other,
        }
    }

    pub(super) fn login_refused(&mut self, cx: &mut Cx<'_>, refused: &LoginRefused) -> Result<(), Close> {
        let refusal = match refused.why {
            LoginFailure::BadCredentials | LoginFailure::AnonymousRefused | LoginFailure::UnknownMechanism => {
                Refusal::login_refused(&refused.user)
            }
            LoginFailure::LoopbackOnly => Refusal::loopback_only(),
            LoginFailure::Full => Refusal::too_many_connections(),
            LoginFailure::Banned => Refusal::login_refused(&refused.user),
            LoginFailure::Busy => Refusal::login_busy(),
        };
        self.refuse(cx, &refusal, None, None)
    }

    /// The connection is registered at the engine: sends CONNECTED.
    pub(super) fn attached(&mut self, cx: &mut Cx<'_>) {
        let connecting = match std::mem::replace(&mut self.state, State::Ready) {
            State::Attaching(connecting) => connecting,
            other => {
                self.state = other;
                return;
            }
        };
        self.login_deadline = None;
        self.decoder.set_version(self.version);
        let server = connecting
            .client
            .answer(self.settings.heart_beat_min, self.settings.heart_beat_max);
        let (send, receive) = (server.interval(connecting.client), connecting.client.interval(server));
        self.heart_beat.start(cx.now.monotonic, send, receive);
        push_connected(cx.out, self.version, &format!("session-{}", self.nonce), server);
    }

    pub(super) fn attach_refused(&mut self, cx: &mut Cx<'_>, fault: &Fault) -> Result<(), Close> {
        let vhost = match std::mem::replace(&mut self.state, State::Closed) {
            State::Attaching(mut connecting) => {
                let default = &self.settings.default_vhost;
                // stomp.py and other clients put the server's own name or address into `host` by default.
                if fault.kind == FaultKind::NotFound && !connecting.vhost.contains('/') && connecting.vhost != *default
                {
                    connecting.vhost = default.clone();
                    self.attach(cx, connecting);
                    return Ok(());
                }
                connecting.vhost
            }
            other => {
                self.state = other;
                return Ok(());
            }
        };
        self.refuse(cx, &Refusal::vhost_refused(&vhost, fault), None, None)
    }

    fn attach(&mut self, cx: &mut Cx<'_>, connecting: Box<Connecting>) {
        cx.commands.push(Command::Attach(Box::new(Attach {
            vhost: connecting.vhost.clone(),
            protocol: self.version.protocol(),
            client_name: self.client_id.as_deref().map(Name::from),
            ..Attach::default()
        })));
        self.state = State::Attaching(connecting);
    }
}
