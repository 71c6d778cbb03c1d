//! The memory of unsettled deliveries, and which consumers are throttled because of it.
//!
//! A consumer without prefetch is offered all there is, as clients expect. A delivery that it does not settle costs 32
//! bytes ([`PLACE_BYTES`]) and, until the log has it, its body. Bodies are evicted like those that wait. The rest is
//! limited for the vhost as a whole, because limits for consumers or channels would limit nothing: a client can open
//! more of them. Above the limit, a connection that has more than [`GUARANTEED_BYTES`] unsettled itself gets only one
//! delivery at a time on each of its channels, and its `Get`s are refused. So a client that settles always continues,
//! whatever others do.
//!
//! [`PLACE_BYTES`]: crate::queue::unsettled::PLACE_BYTES

use super::link::LinkState;
use crate::command::Channel as ChannelNumber;
use crate::queue::consumers::Consumer;
use crate::slots::{ConsumerKey, Link};
use std::collections::VecDeque;

/// Bytes that a connection may have unsettled whatever others have: 8,192 deliveries without bodies.
pub(crate) const GUARANTEED_BYTES: usize = 256 << 10;
/// What is counted of unsettled deliveries in a vhost.
#[derive(Default)]
pub(crate) struct Throttling {
    /// Bytes of everything unsettled or fetched: entries, and bodies in memory.
    pub(super) bytes: usize,
    /// Whether that exceeded [`unsettled_bytes_max`](super::Settings::unsettled_bytes_max), and has not become much
    /// less since.
    pub(super) over: bool,
    /// Channels with bodies in memory that could be evicted. Each has a number, because a channel's own number may be
    /// reused.
    pub(super) bodies: VecDeque<Listed>,
    /// The last number given to an entry of `bodies`.
    pub(super) numbered: u64,
    /// How many channels in `bodies` were closed.
    pub(super) gone: usize,
    /// There are new ones since the last look.
    pub(super) unseen: bool,
    /// The last batch that was written at the last look.
    pub(super) seen_at: u64,
    /// Links with throttled consumers.
    pub(super) throttled: Vec<Link>,
}

/// An entry of the list of channels with bodies in memory.
#[derive(Clone, Copy)]
pub(super) struct Listed {
    pub(super) link: Link,
    pub(super) channel: ChannelNumber,
    pub(super) number: u64,
}

impl Throttling {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }
    /// Whether the link has to settle before it is given more.
    pub(crate) fn limits(&self, link: &LinkState) -> bool {
        self.over && link.unsettled_bytes >= GUARANTEED_BYTES
    }
    /// Notes a consumer as throttled.
    pub(crate) fn throttle(&mut self, key: ConsumerKey, consumer: &mut Consumer, link: &mut LinkState) {
        if consumer.throttled {
            return;
        }
        consumer.throttled = true;
        let throttled = &mut link.rare.make().throttled;
        if throttled.is_empty() {
            self.throttled.push(link.id);
        }
        throttled.push(key);
    }
    /// The link has no throttled consumers any more.
    pub(super) fn forget(&mut self, link: Link) {
        self.throttled.retain(|l| *l != link);
    }
}
