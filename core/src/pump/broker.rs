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
    /// What leads to a vhost's engine.
    type Vhost;

    /// Visits the engine: under its lock, and then hands over what is to be logged and fetched, and fires the wakes.
    fn enter<T>(&mut self, vhost: &Self::Vhost, visit: impl FnOnce(&mut Engine) -> T) -> T;

    /// Finds the vhost that `user` asks for.
    ///
    /// # Errors
    /// The fault the peer is told: no such vhost, no access, the node is stopping.
    fn vhost(&mut self, attach: &Attach, user: &Name) -> Result<Self::Vhost, Fault>;

    /// What the engine calls when the connection has something to take. The next turn sees the call in
    /// [`Broker::acknowledge`].
    fn waker(&mut self) -> Arc<dyn Wake>;

    /// Whether the connection was called since this was last asked.
    fn acknowledge(&mut self) -> bool;

    /// Starts a login, or goes on with one after a challenge. It may take its time (hashing, a network look-up), and does
    /// that elsewhere: the answer comes by a wake, and [`Broker::login_answer`] returns it in the turn that follows.
    fn log_in(&mut self, login: Login, peer: &Peer);

    /// The answer to the last [`Broker::log_in`], once it is there.
    fn login_answer(&mut self, peer: &Peer) -> Option<Event>;

    /// The connection has reached its vhost: its login is done.
    fn attached(&mut self, _attach: &Attach, _user: &Name, _peer: &Peer) {}

    /// Errors that the peer was told in this turn, and that leave its connection open. For the log.
    fn complained(&mut self, _peer: &Peer, _user: Option<&Name>, _complaints: &mut Vec<String>) {}

    /// Whether `user` may be attached to the vhost that it asks for. It may take its time, as a login: then this is called again
    /// in the turn that follows a wake.
    ///
    /// # Errors
    /// The fault the peer is told.
    fn may_attach(&mut self, _attach: &Attach, _user: &Name, _peer: &Peer) -> Poll<Result<(), Fault>> {
        Poll::Ready(Ok(()))
    }

    /// Passes on a question to whoever knows what the user may do, if its rights are [asked](crate::access::Rights::asked). The
    /// answer goes to the engine ([`Engine::answer_question`]), on whichever thread.
    fn ask(&mut self, _vhost: &Self::Vhost, _link: Link, _asked: Asked) {}

    /// For sessions that translate messages of other protocols.
    fn codecs(&self) -> &Codecs;

    /// How many messages the connection may publish now; `None`: any number. Asked once a turn. If it is `None`, it is not told
    /// what was published.
    fn may_publish(&mut self, _now: Time) -> Option<usize> {
        None
    }

    /// What the connection has published in a turn. Returns the time before which it is not read.
    fn published(&mut self, _now: Time, _published: Published) -> Option<Time> {
        None
    }

    /// The memory that this connection's buffers share with all others'; `None`: there is no limit.
    fn buffers(&self) -> Option<&Arc<Buffers>> {
        None
    }
}
