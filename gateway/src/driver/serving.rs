//! The task of a connection. Written by hand, because an `async fn` keeps its arguments beside what it makes of them,
//! and an idle connection is to be small.

use super::{Connection, Place, scratch};
use crate::node::Node;
use crate::threads::Shared;
use std::future::Future;
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Sleep;

/// Serves a connection until it ends.
pub(crate) struct Serving(State);

#[expect(
    clippy::large_enum_variant,
    reason = "the large one is where a connection spends its life"
)]
enum State {
    /// Dealt to a thread that has not looked at it yet.
    Arrived(Option<(Place, TcpStream, SocketAddr)>),
    Open {
        connection: Connection,
        timer: Pin<Box<Sleep>>,
    },
}

impl Serving {
    /// For an accepted socket that does not block.
    pub(crate) fn new(
        node: Arc<Node>,
        thread: Arc<Shared>,
        protocol: usize,
        stream: TcpStream,
        address: SocketAddr,
    ) -> Serving {
        Serving(State::Arrived(Some((
            Place::new(node, thread, protocol),
            stream,
            address,
        ))))
    }
}

impl Future for Serving {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let State::Arrived(arrival) = &mut self.0 {
            let connection = arrival
                .take()
                .and_then(|(place, stream, address)| Connection::open(place, stream, address));
            let Some(connection) = connection else {
                return Poll::Ready(());
            };
            let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
            self.0 = State::Open { connection, timer };
        }
        match &mut self.0 {
            State::Open { connection, timer } => scratch::with(|scratch| connection.poll(cx, scratch, timer.as_mut())),
            State::Arrived(_) => Poll::Ready(()),
        }
    }
}
