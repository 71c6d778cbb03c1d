//! The node as one connection's pump sees it.

use super::place::Place;
use super::waking::Waking;
use crate::node::DEFAULT_VHOST;
use crate::vhost::Vhost;
use gatepost_core::buffers::Buffers;
use gatepost_core::command::{Attach, Login, Peer};
use gatepost_core::engine::{Engine, Wake};
use gatepost_core::event::Event;
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::properties::Codecs;
use gatepost_core::pump::Broker;
use std::sync::Arc;

/// See the module.
pub(super) struct Desk<'a> {
    pub(super) place: &'a mut Place,
    pub(super) waking: &'a Arc<Waking>,
}

impl Broker for Desk<'_> {
    type Vhost = Arc<Vhost>;

    fn enter<T>(&mut self, vhost: &Arc<Vhost>, visit: impl FnOnce(&mut Engine) -> T) -> T {
        vhost.enter(visit)
    }

    fn vhost(&mut self, attach: &Attach) -> Result<Arc<Vhost>, Fault> {
        if self.place.node.is_stopping() {
            return Err(Fault::new(FaultKind::NotAllowed, "the gateway is stopping"));
        }
        let name = match &self.place.terms.vhost {
            Some(vhost) if &*attach.vhost == DEFAULT_VHOST => vhost,
            _ => &attach.vhost,
        };
        let Some(vhost) = self.place.node.vhost(name) else {
            return Err(Fault::new(FaultKind::NotFound, format!("vhost {name} not found")));
        };
        self.place.attached();
        Ok(vhost)
    }

    fn waker(&mut self) -> Arc<dyn Wake> {
        Arc::clone(self.waking) as Arc<dyn Wake>
    }

    fn acknowledge(&mut self) -> bool {
        self.waking.acknowledge()
    }

    /// The directory answers at once today. A slow check (hashing, a network look-up) runs elsewhere with a clone of
    /// `waking`, and calls [`Waking::answer`] as this does.
    fn log_in(&mut self, login: Login, peer: &Peer) {
        let protocol = self.place.protocol_name();
        let answer = self
            .place
            .node
            .directory
            .authenticate(protocol, peer, self.place.terms.anonymous, login);
        self.waking.answer(answer);
    }

    fn login_answer(&mut self, peer: &Peer) -> Option<Event> {
        let answer = self.waking.take_answer()?;
        match &answer {
            Event::Authenticated { .. } => self.place.logged_in(true),
            Event::LoginRefused(refused) => {
                self.place.logged_in(false);
                if let Some(left_out) = self.place.node.throttle.admit() {
                    let (user, why) = (&*refused.user, refused.why);
                    let (peer, protocol) = (super::peer_text(peer), self.place.protocol_name());
                    tracing::warn!(peer, protocol, user, ?why, left_out, "login refused");
                }
            }
            _ => {}
        }
        Some(answer)
    }

    fn codecs(&self) -> &Codecs {
        &self.place.node.codecs
    }

    fn buffers(&self) -> Option<&Arc<Buffers>> {
        Some(&self.place.node.buffers)
    }
}
