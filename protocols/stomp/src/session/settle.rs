//! ACK and NACK.

use super::{Awaited, Handled, StompSession};
use crate::error::Refusal;
use crate::frame::Frame;
use crate::frame::ack::Ack;
use crate::frame::subscribe::AckMode;
use crate::session::subscriptions::Life;
use gatepost_core::command::{Channel, Command};
use gatepost_core::session::Cx;

impl StompSession {
    /// ACK or NACK. Whether the number was delivered is checked here; whether it is still unsettled only the engine
    /// knows.
    pub(super) fn ack(&mut self, cx: &mut Cx<'_>, frame: &Frame<'_>) -> Result<Handled, Refusal> {
        let ack = Ack::parse(frame, self.version, self.settings.default_nack_requeue)?;
        let number = ack.id.number;
        let (channel, mode) = self.delivered(&ack).ok_or_else(|| Refusal::message_not_found(number))?;
        // STOMP 1.2 SUBSCRIBE, `ack:client`: cumulative, within the subscription.
        let settle = Command::Settle {
            channel,
            number,
            multiple: mode == AckMode::Client,
            outcome: ack.outcome,
        };
        if let Some(transaction) = ack.transaction {
            let bytes = ack.receipt.map_or(0, str::len);
            self.transactions.check(cx, transaction, bytes, &self.settings)?;
            self.transactions.push(transaction, settle, bytes, ack.receipt);
            return Ok(Handled::Done);
        }
        if let Some(receipt) = ack.receipt {
            // The engine reports a settlement only if it fails. A fault between these two echoes is about this
            // settlement.
            self.echo(
                cx,
                channel,
                Awaited::SettleBegins {
                    receipt: receipt.into(),
                },
            );
            cx.commands.push(settle);
            self.echo(
                cx,
                channel,
                Awaited::SettleEnds {
                    receipt: receipt.into(),
                },
            );
        } else {
            cx.commands.push(settle);
        }
        if let Some(subscription) = self.subscriptions.on(channel) {
            subscription.settle(number);
        }
        self.close_if_settled(cx, channel);
        Ok(Handled::Done)
    }

    /// The channel of a delivery that was made, if its subscription wants acknowledgements.
    fn delivered(&mut self, ack: &Ack<'_>) -> Option<(Channel, AckMode)> {
        if ack.id.session != &*self.nonce {
            return None;
        }
        let (channel, subscription) = self.subscriptions.of(ack.id.subscription)?;
        let known = (1..=subscription.delivered).contains(&ack.id.number)
            && subscription.ack != AckMode::Auto
            && subscription.life != Life::Closing;
        known.then_some((channel, subscription.ack))
    }

    /// Closes the channel of a cancelled subscription once the client has settled all its deliveries.
    pub(super) fn close_if_settled(&mut self, cx: &mut Cx<'_>, channel: Channel) {
        if let Some(subscription) = self.subscriptions.on(channel)
            && subscription.is_finished()
        {
            subscription.life = Life::Closing;
            cx.commands.push(Command::CloseChannel { channel, reply: true });
        }
    }
}
