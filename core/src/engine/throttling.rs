//! Unsettled deliveries: the memory they take, and which consumers are throttled for it.
//!
//! A consumer without prefetch is offered whatever there is, as clients expect it. What it does not settle stays: 32 bytes a
//! delivery ([`PLACE_BYTES`]) and, until the log has it, the body. Bodies leave memory like those that wait. The rest is
//! bounded over the whole vhost. Limits per consumer or channel would bound nothing: a client can open more of them.
//! While the bound is exceeded, a connection that itself has more than [`GUARANTEED_BYTES`] unsettled gets one delivery at a time on
//! each of its channels, and no `Get` is served to it. So a client that settles goes on, whatever others do.
//!
//! [`PLACE_BYTES`]: crate::queue::unsettled::PLACE_BYTES

use super::link::LinkState;
use crate::command::Channel as ChannelNumber;
use crate::queue::consumers::Consumer;
use crate::slots::{ConsumerKey, Link};
use std::collections::VecDeque;

/// Bytes a connection may have unsettled whatever others have: places of 8,192 deliveries.
pub(crate) const GUARANTEED_BYTES: usize = 256 << 10;
/// The books of what is unsettled in a vhost.
#[derive(Default)]
pub(crate) struct Throttling {
    /// Of all that is unsettled or fetched: places, and bodies in memory.
    pub(super) bytes: usize,
    /// It was more than [`unsettled_bytes_max`](super::Settings::unsettled_bytes_max), and has not become much less.
    pub(super) over: bool,
    /// Channels with bodies in memory that could leave, numbered: a channel may be another one of the same number.
    pub(super) bodies: VecDeque<Listed>,
    /// The number given last.
    pub(super) numbered: u64,
    /// How many of `bodies` are gone.
    pub(super) gone: usize,
    /// There are some that were not looked at since then.
    pub(super) unseen: bool,
    /// The last batch that was written when they were looked at.
    pub(super) seen_at: u64,
    /// Links with consumers that are offered nothing.
    pub(super) throttled: Vec<Link>,
}

/// A channel on the list of those with bodies in memory.
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
    /// Whether the link is to settle before it is given more.
    pub(crate) fn limits(&self, link: &LinkState) -> bool {
        self.over && link.unsettled_bytes >= GUARANTEED_BYTES
    }
    /// Notes a consumer that is offered nothing until somebody settles.
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
    /// The link has nobody any more who waits for settles.
    pub(super) fn forget(&mut self, link: Link) {
        self.throttled.retain(|l| *l != link);
    }
}
