//! Logging in, and attaching a connection to the engine of its vhost.

use super::{Broker, Pump, Scratch};
use crate::buffers::FREE_BYTES_SHORT;
use crate::command::{Attach, Command};
use crate::engine::Link;
use crate::event::{Event, LoginFailure, LoginRefused};
use crate::fault::{Fault, FaultKind};
use crate::properties::Name;
use crate::time::Now;
use std::sync::Arc;
use std::task::Poll;

/// The connection's link to an engine, from `Attached` until the end.
pub(super) struct Bound<V> {
    pub(super) vhost: V,
    pub(super) link: Link,
}

impl<V> Pump<V> {
    /// Passes logins to the broker. Before the connection is attached to a vhost, handles all its commands.
    pub(super) fn log_in<B: Broker<Vhost = V>>(&mut self, now: Now, s: &mut Scratch, broker: &mut B) {
        if self.logging_in
            && let Some(answer) = broker.login_answer(&self.peer)
        {
            self.logging_in = false;
            s.events.push(self.identify(answer));
        }
        if self.bound.is_some() {
            // A later login (a new secret, say), or a round of it. It is the last command, because the session reads nothing
            // until it is answered.
            if let Some(Command::Authenticate(login)) = s.commands.pop_if(|c| matches!(c, Command::Authenticate(_))) {
                self.logging_in = true;
                broker.log_in(*login, &self.peer);
            }
            return;
        }
        if let Some(attach) = self.attaching.take() {
            self.attach(now, attach, s, broker);
        }
        if s.commands.is_empty() {
            return;
        }
        let mut commands = std::mem::take(&mut s.commands).into_iter();
        while self.bound.is_none()
            && let Some(command) = commands.next()
        {
            match command {
                // Whoever waits for a login keeps what it has sent. Thousands of strangers may wait at the same time.
                Command::Authenticate(login) if s.is_memory_short && self.session.kept() > FREE_BYTES_SHORT => {
                    let (user, why) = (login.user(), LoginFailure::Busy);
                    s.events.push(Event::LoginRefused(Box::new(LoginRefused { user, why })));
                }
                Command::Authenticate(login) => {
                    self.logging_in = true;
                    broker.log_in(*login, &self.peer);
                }
                Command::Attach(attach) => self.attach(now, attach, s, broker),
                // A detach before the login is done has nothing to undo.
                _ => {}
            }
        }
        s.commands.extend(commands);
    }

    /// Notes the user that has logged in. A later login over the same link must be of the same user.
    fn identify(&mut self, answer: Event) -> Event {
        let Event::Authenticated { user, .. } = &answer else {
            return answer;
        };
        if self.bound.is_some() && self.user.as_ref() != Some(user) {
            let (user, why) = (user.clone(), LoginFailure::BadCredentials);
            return Event::LoginRefused(Box::new(LoginRefused { user, why }));
        }
        self.user = Some(user.clone());
        answer
    }

    /// Attaches the connection, or waits until the broker knows whether it may be.
    fn attach<B: Broker<Vhost = V>>(&mut self, now: Now, attach: Box<Attach>, s: &mut Scratch, broker: &mut B) {
        let user = self.user.clone();
        let user = user.ok_or_else(|| Fault::new(FaultKind::AccessRefused, "not logged in"));
        let may = match &user {
            Ok(user) => broker.may_attach(&attach, user, &self.peer),
            Err(_) => Poll::Ready(Ok(())),
        };
        let Poll::Ready(may) = may else {
            self.attaching = Some(attach);
            return;
        };
        let bound = user.and_then(|user| {
            may?;
            self.bind(now, &attach, user, broker)
        });
        s.events.push(match bound {
            Ok(bound) => {
                self.bound = Some(bound);
                Event::Attached
            }
            Err(fault) => Event::AttachRefused(Box::new(fault)),
        });
    }

    fn bind<B>(&self, now: Now, attach: &Attach, user: Name, broker: &mut B) -> Result<Bound<V>, Fault>
    where
        B: Broker<Vhost = V>,
    {
        let vhost = broker.vhost(attach, &user)?;
        let (peer, wake) = (Arc::clone(&self.peer), broker.waker());
        let link = broker.enter(&vhost, |engine| {
            engine.admit_link(&user)?;
            Ok(engine.attach(now, attach, user.clone(), peer, wake))
        })?;
        broker.attached(attach, &user, &self.peer);
        Ok(Bound { vhost, link })
    }
}
