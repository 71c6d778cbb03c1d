//! Handles the engine's events: deliveries, confirms, answers, faults.

use super::{Awaited, State, StompSession};
use crate::error::Refusal;
use crate::frame::receipt::push_receipt;
use crate::map::Context;
use crate::message::push_message;
use crate::session::subscriptions::Life;
use gatepost_core::command::{Channel, ConsumerToken};
use gatepost_core::event::{CloseReason, Delivery, Event, Op};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::properties::Name;
use gatepost_core::session::{Close, Cx};

impl StompSession {
    /// Moves the fault of a failed publish before the confirms. The watermark of confirms passes a failed publish too,
    /// perhaps before its fault is reported. The client must get the ERROR and no RECEIPT.
    pub(super) fn put_failure_first(&self, events: &mut [Event]) {
        let fails = |event: &Event| {
            matches!(
                event,
                Event::Failed {
                    channel: 0,
                    op: Op::Publish | Op::DeclareQueue,
                    ..
                }
            )
        };
        if !self.publisher.confirms.is_empty()
            && let Some(at) = events.iter().position(fails)
            && let Some(events) = events.get_mut(..=at)
        {
            events.rotate_right(1);
        }
    }

    pub(super) fn answer(&mut self, cx: &mut Cx<'_>, event: Event) -> Result<(), Close> {
        match event {
            Event::Deliver(delivery) => self.deliver(cx, &delivery),
            Event::Confirmed { upto, .. } => self.confirmed(cx, upto),
            Event::Refused { number, why, .. } => return self.publish_refused(cx, number, why),
            Event::Done {
                channel,
                op: Op::Cancel,
                ..
            } => self.cancelled(cx, channel),
            Event::Done {
                channel,
                op: Op::CloseChannel,
                ..
            } => self.subscriptions.free(channel),
            Event::Done { op: Op::Commit, .. } => self.committed(cx),
            Event::Failed { channel, op, fault } => return self.failed(cx, channel, op, &fault),
            Event::QueueDeclared { channel, queue } => self.temp_queue_named(channel, queue.name),
            Event::Consuming { channel, .. } => self.consuming(cx, channel),
            Event::ConsumerGone { channel, consumer } => return self.consumer_gone(cx, channel, consumer),
            Event::Echo { channel, token } => self.echoed(cx, channel, token),
            Event::Authenticated { user, impersonates, .. } => {
                self.impersonates = impersonates;
                self.authenticated(cx, user);
            }
            Event::LoginRefused(refused) => return self.login_refused(cx, &refused),
            Event::Attached => self.attached(cx),
            Event::AttachRefused(fault) => return self.attach_refused(cx, &fault),
            Event::Closed(reason) => return self.closed(cx, reason),
            Event::ClosedBecause(why) => return self.closed_because(cx, &why),
            // The driver withholds publishes, and with them their receipts.
            Event::Flow(_) => {}
            // Answers to commands that this protocol never sends.
            Event::Done { .. }
            | Event::Returned { .. }
            | Event::Unrouted { .. }
            | Event::QueueDeleted { .. }
            | Event::QueuePurged { .. }
            | Event::Got { .. }
            | Event::GetEmpty { .. }
            | Event::SessionOpened { .. }
            | Event::Subscribed { .. }
            | Event::Unsubscribed { .. }
            | Event::Released { .. }
            | Event::ReleaseDue { .. }
            // STOMP has no login mechanism of several rounds.
            | Event::Challenge(_) => {}
        }
        Ok(())
    }

    /// Finishes a DISCONNECT whose receipt waited for all other receipts.
    pub(super) fn drained(&mut self, cx: &mut Cx<'_>) -> Result<(), Close> {
        let State::Draining { receipt } = &self.state else {
            return Ok(());
        };
        let pending = !self.publisher.confirms.is_empty()
            || self.transactions.are_committing()
            || !self.echoes.is_empty()
            || self.subscriptions.await_receipts();
        if pending {
            return Ok(());
        }
        push_receipt(cx.out, self.version, receipt);
        self.close();
        Err(Close::normal("DISCONNECT"))
    }

    fn deliver(&mut self, cx: &mut Cx<'_>, delivery: &Delivery) {
        let Some(subscription) = self.subscriptions.on(delivery.channel) else {
            return;
        };
        subscription.delivered = subscription.delivered.max(delivery.number);
        let context = Context {
            version: self.version,
            topic_exchange: &self.settings.topic_exchange,
            drops: &self.drops,
            codecs: cx.codecs,
            now: cx.now.wall,
        };
        push_message(cx.out, &context, &subscription.opening, delivery);
    }

    fn confirmed(&mut self, cx: &mut Cx<'_>, upto: u64) {
        let confirms = &mut self.publisher.confirms;
        while let Some(receipt) = confirms.pop_upto(upto) {
            push_receipt(cx.out, self.version, &receipt);
        }
    }

    /// A publish was refused: answers its receipt with an ERROR. RabbitMQ sends nothing here, and its clients wait for
    /// ever.
    fn publish_refused(&mut self, cx: &mut Cx<'_>, number: u64, why: FaultKind) -> Result<(), Close> {
        let receipt = self.publisher.confirms.take(number);
        self.refuse(cx, &Refusal::publish_refused(why), receipt.as_deref(), None)
    }

    fn consuming(&mut self, cx: &mut Cx<'_>, channel: Channel) {
        let Some(subscription) = self.subscriptions.on(channel) else {
            return;
        };
        if subscription.life == Life::Opening {
            subscription.life = Life::Active;
        }
        if let Some(receipt) = subscription.subscribe_receipt.take() {
            push_receipt(cx.out, self.version, &receipt);
        }
    }

    fn cancelled(&mut self, cx: &mut Cx<'_>, channel: Channel) {
        let Some(subscription) = self.subscriptions.on(channel) else {
            return;
        };
        subscription.life = Life::Cancelled;
        if let Some(receipt) = subscription.unsubscribe_receipt.take() {
            push_receipt(cx.out, self.version, &receipt);
        }
        self.close_if_settled(cx, channel);
    }

    /// The queue of a consumer was deleted. The connection is closed, as after every ERROR; clients that stay connected
    /// would wait for ever.
    fn consumer_gone(&mut self, cx: &mut Cx<'_>, channel: Channel, consumer: ConsumerToken) -> Result<(), Close> {
        let Some(subscription) = self.subscriptions.on(channel).filter(|s| s.token == consumer) else {
            return Ok(());
        };
        if !matches!(subscription.life, Life::Opening | Life::Active) {
            return Ok(());
        }
        subscription.life = Life::Cancelled;
        let refusal = Refusal::subscription_cancelled(&subscription.name.description());
        let id = subscription.name.id().map(str::to_owned);
        self.publisher.declared.remove(&subscription.queue);
        self.subscriptions.forget_name(channel);
        self.close_if_settled(cx, channel);
        self.refuse(cx, &refusal, None, id.as_deref())
    }

    fn temp_queue_named(&mut self, channel: Channel, name: Name) {
        if let Some(subscription) = self.subscriptions.on(channel).filter(|s| s.temporary) {
            subscription.queue = name;
            if matches!(self.state, State::NamingTempQueue) {
                self.state = State::Ready;
            }
        }
    }

    fn committed(&mut self, cx: &mut Cx<'_>) {
        let Some(receipts) = self.transactions.committed() else {
            return;
        };
        for receipt in receipts.of_frames.iter().chain(&receipts.own) {
            push_receipt(cx.out, self.version, receipt);
        }
    }

    fn echoed(&mut self, cx: &mut Cx<'_>, channel: Channel, token: u64) {
        match self.echoes.remove(&token) {
            Some(Awaited::SettleBegins { receipt }) => {
                self.settling.insert(channel, receipt);
            }
            Some(Awaited::SettleEnds { receipt }) => {
                // Absent if the settlement failed: then the ERROR answered it.
                if self.settling.remove(&channel).is_some() {
                    push_receipt(cx.out, self.version, &receipt);
                }
            }
            Some(Awaited::Drained) | None => {}
        }
    }

    fn failed(&mut self, cx: &mut Cx<'_>, channel: Channel, op: Op, fault: &Fault) -> Result<(), Close> {
        if op == Op::Settle {
            let receipt = self.settling.remove(&channel);
            if let Some(subscription) = self.subscriptions.on(channel) {
                subscription.miscounted = true;
            }
            return self.refuse(cx, &Refusal::settle_failed(fault), receipt.as_deref(), None);
        }
        let receipt = if op == Op::Commit {
            self.transactions.committed().and_then(|receipts| receipts.own)
        } else if let Some(subscription) = self.subscriptions.on(channel) {
            subscription
                .subscribe_receipt
                .take()
                .or_else(|| subscription.unsubscribe_receipt.take())
        } else {
            // The engine does not say which publish failed. If only one is unanswered, it was that one.
            self.publisher.confirms.take_only()
        };
        self.refuse(cx, &Refusal::fault(fault), receipt.as_deref(), None)
    }

    fn closed_because(&mut self, cx: &mut Cx<'_>, why: &str) -> Result<(), Close> {
        self.refuse(cx, &Refusal::connection_closed(format!("{why}\n")), None, None)
    }

    fn closed(&mut self, cx: &mut Cx<'_>, reason: CloseReason) -> Result<(), Close> {
        let why = match reason {
            CloseReason::Shutdown => "The server is shutting down\n",
            CloseReason::TakenOver => "Another connection has taken over\n",
            CloseReason::Forced => "Closed by an operator\n",
            CloseReason::VhostDeleted => "The virtual host is deleted\n",
            CloseReason::UserDeleted => "The user is deleted\n",
            CloseReason::CredentialsExpired => "The credentials have expired\n",
        };
        self.refuse(cx, &Refusal::connection_closed(why), None, None)
    }
}
