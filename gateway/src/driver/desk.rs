//! The node as seen by one connection's pump.

use super::place::Place;
use super::waking::Waking;
use crate::directory::Caller;
use crate::directory::hashing::Answer;
use crate::directory::mechanisms::{Round, refused};
use crate::logging::lines::LineKind;
use crate::logging::{shown, why_refused};
use crate::protection::BanKind;
use crate::vhost::Vhost;
use gatepost_core::access::Asked;
use gatepost_core::buffers::Buffers;
use gatepost_core::command::{Attach, Login, Peer};
use gatepost_core::engine::{Engine, Link, Wake};
use gatepost_core::event::{Event, LoginFailure, LoginRefused};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::properties::{Codecs, Name};
use gatepost_core::pump::{Broker, Published};
use gatepost_core::time::Time;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

/// Answers the questions of one connection's pump to the node: its login, its rights, its vhost.
pub(super) struct Desk<'a> {
    pub(super) place: &'a mut Place,
    pub(super) waking: &'a Arc<Waking>,
}

impl Broker for Desk<'_> {
    type Vhost = Arc<Vhost>;

    fn enter<T>(&mut self, vhost: &Arc<Vhost>, visit: impl FnOnce(&mut Engine) -> T) -> T {
        vhost.enter(visit)
    }

    fn vhost(&mut self, attach: &Attach, user: &Name) -> Result<Arc<Vhost>, Fault> {
        if self.place.node.is_stopping() {
            return Err(Fault::new(FaultKind::NotAllowed, "the gateway is stopping"));
        }
        let name = &self.place.vhost_name(&attach.vhost);
        let now = self.place.node.clock.now().monotonic;
        let banned = |name: &Name| self.place.node.protection.bans(now, BanKind::Client, name);
        if attach.client_name.as_ref().is_some_and(banned) {
            return Err(Fault::new(FaultKind::AccessRefused, "this client is banned"));
        }
        let Some(vhost) = self.place.node.vhost(name) else {
            return Err(Fault::new(FaultKind::NotFound, format!("vhost {name} not found")));
        };
        self.place.sit(self.place.node.directory.enter(user)?);
        self.place.attached();
        Ok(vhost)
    }

    fn may_attach(&mut self, attach: &Attach, user: &Name, peer: &Peer) -> Poll<Result<(), Fault>> {
        if !std::mem::take(&mut self.place.asked_vhost) {
            let directory = &self.place.node.directory;
            if !directory.is_asked(user) {
                return Poll::Ready(Ok(()));
            }
            let to: Arc<dyn Answer> = Arc::clone(self.waking) as _;
            let (vhost, client_id) = (self.place.vhost_name(&attach.vhost), self.place.client_id.as_ref());
            directory.ask_vhost(user, &vhost, client_id, peer, &to);
        }
        match self.waking.take_answer() {
            Some(Event::AttachRefused(fault)) => Poll::Ready(Err(*fault)),
            Some(_) => Poll::Ready(Ok(())),
            None => {
                self.place.asked_vhost = true;
                Poll::Pending
            }
        }
    }

    fn ask(&mut self, vhost: &Arc<Vhost>, link: Link, asked: Asked) {
        let now = self.place.node.clock.now().monotonic;
        self.place.node.directory.ask_question(vhost, link, asked, now);
    }

    fn waker(&mut self) -> Arc<dyn Wake> {
        Arc::clone(self.waking) as Arc<dyn Wake>
    }

    fn acknowledge(&mut self) -> bool {
        self.waking.acknowledge()
    }

    /// The directory answers at once, or hands the password to a hashing thread, which answers later.
    fn log_in(&mut self, mut login: Login, peer: &Peer) {
        self.place.knocks();
        if let Login::Password { said, .. } = &mut login {
            said.vhost = said.vhost.take().map(|vhost| self.place.vhost_name(&vhost));
            self.place.client_id = said.client_id.clone();
        }
        if self.place.over {
            self.place
                .node
                .protection
                .counts
                .told_full
                .fetch_add(1, Ordering::Relaxed);
            self.waking.answer(refused("".into(), LoginFailure::Full));
            return;
        }
        let waking: Arc<dyn Answer> = Arc::clone(self.waking) as _;
        let directory = &self.place.node.directory;
        let answer = match login {
            Login::Mechanism { name, data } => match directory.begin_rounds(&name, data, &waking) {
                Round::Over(answer) => Some(answer),
                Round::Later => None,
                Round::Ask(exchange, question) => {
                    self.place.is_asked(exchange, self.waking.task());
                    Some(Event::Challenge(question.into_bytes().into()))
                }
            },
            Login::Response { data } => Some(match self.place.exchange.take() {
                Some(exchange) => directory.proceed(&exchange, &data, peer.is_local),
                None => refused("".into(), LoginFailure::BadCredentials),
            }),
            login => {
                let caller = Caller {
                    protocol: self.place.protocol_name(),
                    peer,
                    anonymous: self.place.terms.anonymous,
                };
                directory.authenticate(&caller, login, &waking)
            }
        };
        if let Some(answer) = answer {
            waking.answer(answer);
        }
    }

    fn login_answer(&mut self, peer: &Peer) -> Option<Event> {
        let mut answer = self.waking.take_answer()?;
        let now = self.place.node.clock.now().monotonic;
        if let Event::Authenticated { user, impersonates, .. } = &mut answer {
            *impersonates = self.place.node.impersonates(user);
            let protection = &self.place.node.protection;
            if protection.bans(now, BanKind::User, user) {
                answer = refused(user.clone(), LoginFailure::Banned);
            } else {
                self.place.meters = protection.meters(user).map(Box::new);
            }
        }
        match &answer {
            Event::Authenticated { .. } => self.place.logged_in(true),
            Event::LoginRefused(failed) if self.holds_back(now, failed, peer) => {
                return None;
            }
            Event::LoginRefused(refused) => {
                self.place.logged_in(false);
                if self.place.node.lines.admit(LineKind::LoginRefused) {
                    let (user, why) = (&*shown(&refused.user), refused.why);
                    let (peer, protocol) = (super::peer_text(peer), self.place.protocol_name());
                    tracing::warn!(peer, protocol, user, why = why_refused(why), "login refused");
                }
            }
            _ => {}
        }
        Some(answer)
    }

    fn attached(&mut self, attach: &Attach, user: &Name, peer: &Peer) {
        self.place.client.clone_from(&attach.client_name);
        if self.place.node.lines.admit(LineKind::LoggedIn) {
            let (peer, protocol, user) = (super::peer_text(peer), attach.protocol, &*shown(user));
            let client = attach.client_name.as_deref().map(shown);
            let (vhost, client) = (&*shown(&attach.vhost), client.as_deref());
            tracing::info!(peer, protocol, user, vhost, client, "logged in");
        }
    }

    fn complained(&mut self, peer: &Peer, user: Option<&Name>, complaints: &mut Vec<String>) {
        let protocol = self.place.protocol_name();
        for why in complaints.drain(..) {
            if self.place.node.lines.admit(LineKind::Complaint) {
                let (peer, user) = (super::peer_text(peer), user.map(|user| shown(user)));
                let (user, why) = (user.as_deref(), &*shown(&why));
                tracing::info!(peer, protocol, user, why, "the client was told of an error");
            }
        }
    }

    fn codecs(&self) -> &Codecs {
        &self.place.node.codecs
    }

    fn may_publish(&mut self, now: Time) -> Option<usize> {
        let quotas = &self.place.node.protection.quotas;
        // Most connections have no meters. A reload may have removed the quotas of one that has.
        let meters = self.place.meters.as_ref().filter(|_| quotas.are_set())?;
        Some(quotas.left(now, meters))
    }

    fn published(&mut self, now: Time, published: Published) -> Option<Time> {
        let meters = self.place.meters.as_mut()?;
        let until = self.place.node.protection.quotas.take(now, meters, published)?;
        let is_told = meters.is_told;
        self.place.throttled();
        if !is_told {
            self.slowed();
        }
        Some(until)
    }

    fn buffers(&self) -> Option<&Arc<Buffers>> {
        Some(&self.place.node.buffers)
    }
}

impl Desk<'_> {
    /// Logs that the connection publishes more than its quota, the first time.
    #[cold]
    fn slowed(&mut self) {
        let protocol = self.place.protocol_name();
        let Some(meters) = &mut self.place.meters else { return };
        meters.is_told = true;
        if self.place.node.lines.admit(LineKind::Slowed) {
            let (user, client) = (&*shown(&meters.name), self.place.client_id.as_deref().map(shown));
            let (client, listener) = (client.as_deref(), &*self.place.terms.name);
            tracing::info!(
                protocol,
                listener,
                user,
                client,
                "the client publishes more than its quota in [protection], and is made to wait; this is said once for a connection"
            );
        }
    }

    /// Records a failed login. Returns whether to delay the answer, which slows down clients that guess passwords.
    fn holds_back(&mut self, now: Time, failed: &LoginRefused, peer: &Peer) -> bool {
        let is_failure = !matches!(
            failed.why,
            LoginFailure::Full | LoginFailure::Banned | LoginFailure::Busy | LoginFailure::UnknownMechanism
        );
        let Some(address) = peer.address.filter(|_| is_failure && !self.place.delayed) else {
            return false;
        };
        let consequence = self.place.node.protection.login_failed(now, address.ip());
        if let Some(ban) = consequence.ban
            && self.place.node.lines.admit(LineKind::Banned)
        {
            let (address, seconds) = (address.ip(), ban.as_secs());
            tracing::warn!(%address, seconds, "address banned: too many failed logins");
        }
        self.place.delayed = !consequence.delay.is_zero();
        if self.place.delayed {
            let (waking, answer) = (Arc::clone(self.waking), refused(failed.user.clone(), failed.why));
            tokio::spawn(async move {
                tokio::time::sleep(consequence.delay).await;
                waking.answer(answer);
            });
        }
        self.place.delayed
    }
}
