//! The broker as a connection sees it.

use super::Published;
use crate::access::Asked;
use crate::buffers::Buffers;
use crate::command::{Attach, Login, Peer};
use crate::engine::{Engine, Link, Wake};
use crate::event::Event;
use crate::fault::Fault;
use crate::properties::{Codecs, Name};
use crate::time::Time;
use std::sync::Arc;
use std::task::Poll;

/// The broker as one connection sees it: who logs it in, and how it reaches the engine of its vhost.
pub trait Broker {
    /// A handle to a vhost's engine.
    type Vhost;

    /// Visits the engine: under its lock, and then hands over what is to be logged and fetched, and fires the wakes.
    fn enter<T>(&mut self, vhost: &Self::Vhost, visit: impl FnOnce(&mut Engine) -> T) -> T;

    /// Finds the vhost that `user` asks for.
    ///
    /// # Errors
    /// The fault the peer is told: no such vhost, no access, the node is stopping.
    fn vhost(&mut self, attach: &Attach, user: &Name) -> Result<Self::Vhost, Fault>;

    /// The callback with which the engine wakes the connection when it has something to take. The next turn sees the call
    /// in [`Broker::acknowledge`].
    fn waker(&mut self) -> Arc<dyn Wake>;

    /// Whether the engine woke the connection since the last call of this.
    fn acknowledge(&mut self) -> bool;

    /// Starts a login, or continues one after a challenge. Must not block: slow work (hashing, a network request) is done
    /// elsewhere, the connection is woken, and [`Broker::login_answer`] returns the answer in the next turn.
    fn log_in(&mut self, login: Login, peer: &Peer);

    /// The answer to the last [`Broker::log_in`], once it is there.
    fn login_answer(&mut self, peer: &Peer) -> Option<Event>;

    /// The connection has reached its vhost: its login is done.
    fn attached(&mut self, _attach: &Attach, _user: &Name, _peer: &Peer) {}

    /// Errors that the peer was told in this turn, and that leave its connection open. For the log.
    fn complained(&mut self, _peer: &Peer, _user: Option<&Name>, _complaints: &mut Vec<String>) {}

    /// Whether `user` may be attached to the requested vhost. `Pending` if that takes longer; then this is called again
    /// in the turn after a wake.
    ///
    /// # Errors
    /// The fault the peer is told.
    fn may_attach(&mut self, _attach: &Attach, _user: &Name, _peer: &Peer) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    /// Passes on a question about a right that an external server knows ([`asked`](crate::access::Rights::asked)). The
    /// answer goes to the engine ([`Engine::answer_question`]), on any thread.
    fn ask(&mut self, _vhost: &Self::Vhost, _link: Link, _asked: Asked) {}

    /// For sessions that translate messages of other protocols.
    fn codecs(&self) -> &Codecs;

    /// How many messages the connection may publish now; `None`: no limit. Called once a turn. After `None`,
    /// [`Broker::published`] is not called.
    fn may_publish(&mut self, _now: Time) -> Option<usize> {
        None
    }

    /// Takes the count of what the connection has published in a turn. Returns the time before which it must not be read.
    fn published(&mut self, _now: Time, _published: Published) -> Option<Time> {
        None
    }

    /// The limit on the buffers of all connections; `None`: no limit.
    fn buffers(&self) -> Option<&Arc<Buffers>> {
        None
    }
}
