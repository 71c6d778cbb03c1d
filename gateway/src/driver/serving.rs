//! The task of a connection. The future is written by hand: an `async fn` would keep its arguments in addition to the
//! state made from them, so each idle connection would cost more memory.

use super::{Connection, Place};
use crate::node::Node;
use crate::random::random;
use crate::transport::{Door, Opening, Socket};
use gatepost_core::pump::Scratch;
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Sleep;

thread_local! {
    /// Buffers and figures that all turns of this thread share.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new(Box::new(random)));
}

/// Serves a connection until it ends.
pub(crate) struct Serving(State);

#[expect(
    clippy::large_enum_variant,
    reason = "the large one is where a connection spends its life"
)]
enum State {
    /// Accepted, and not ready for a session yet.
    Opening(Option<(Place, Opening)>),
    Open {
        connection: Connection,
        timer: Pin<Box<Sleep>>,
    },
}

impl Serving {
    /// Takes an accepted, non-blocking socket. `over`: the connection limit is reached, so the client is only told
    /// that.
    pub(crate) fn new(node: Arc<Node>, door: Door, socket: Socket, over: bool) -> Serving {
        let now = node.clock.now();
        let place = Place::new(node, Arc::clone(&door.terms), over);
        Serving(State::Opening(Some((place, Opening::new(socket, door, now)))))
    }
}

impl Future for Serving {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let State::Opening(opening) = &mut self.0 {
            let Some((place, stage)) = opening else {
                return Poll::Ready(());
            };
            place.introduce(cx.waker());
            let opened = match stage.poll(cx, &place.node) {
                Poll::Pending if place.gives_way() => return Poll::Ready(()),
                opened => ready!(opened),
            };
            let connection = match (opening.take(), opened) {
                (Some((place, _)), Ok(opened)) => Connection::open(place, opened),
                _ => None,
            };
            let Some(connection) = connection else {
                return Poll::Ready(());
            };
            let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
            self.0 = State::Open { connection, timer };
        }
        match &mut self.0 {
            State::Open { connection, timer } => {
                SCRATCH.with_borrow_mut(|scratch| connection.poll(cx, scratch, timer.as_mut()))
            }
            State::Opening(_) => Poll::Ready(()),
        }
    }
}
