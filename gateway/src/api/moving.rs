//! `/api/gatepost/queues/{vhost}/{queue}/move`: moves messages from one queue to another.

use super::body::Body;
use super::caller::Caller;
use super::errand::{CHANNEL, Errand};
use super::{Answer, Api, Refusal, answer};
use crate::node::Node;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing;
use gatepost_core::command::{Command, Get, Outcome, PublishFlags};
use gatepost_core::event::{Delivery, Event};
use gatepost_core::message::Message;
use gatepost_core::properties::Name;
use serde_json::json;
use std::sync::Arc;

/// For every user of the API, within its permissions.
pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new().route("/api/gatepost/queues/{vhost}/{queue}/move", routing::post(run))
}

/// Maximum messages that one request moves.
const MOVED_MAX: i64 = 10_000;

/// Parameters: `destination` and `count`. Messages are moved one at a time, in order. A message is in the other queue,
/// as durable as it was, before it leaves this one. So an interruption may leave one message in both queues, but loses
/// none.
async fn run(caller: Caller, State(node): Api, Path((vhost, queue)): Path<(String, String)>, body: Bytes) -> Answer {
    let body = Body::parse(&body)?;
    body.needs(&["destination", "count"])?;
    let destination: Name = body.required("destination")?.into();
    let count = body.number("count")?.unwrap_or_default();
    if *destination == *queue {
        return Err(Refusal::bad_request("destination: it is the queue itself"));
    }
    let vhost = caller.vhost_to_use(&node, &vhost)?;
    let mut errand = Errand::of(&caller, &node, &vhost)?;
    let mut moved = 0;
    for _ in 0..count.clamp(0, MOVED_MAX) {
        let get = Get {
            channel: CHANNEL,
            queue: queue.as_str().into(),
            no_ack: false,
        };
        let Event::Got { delivery, .. } = errand.ask(Command::Get(Box::new(get))).await? else {
            break;
        };
        // If the errand is dropped before this, the message is requeued.
        publish(&mut errand, &delivery, &destination).await?;
        errand.send(Command::Settle {
            channel: CHANNEL,
            number: delivery.number,
            multiple: false,
            outcome: Outcome::Accept,
        });
        let token = 1;
        errand
            .ask(Command::Echo {
                channel: CHANNEL,
                token,
            })
            .await?;
        moved += 1;
    }
    answer(&json!({ "moved": moved }))
}

/// Returns once the other queue has the message.
async fn publish(errand: &mut Errand, delivery: &Delivery, to: &Name) -> Result<(), Refusal> {
    let message = &delivery.message;
    errand.send(Command::Publish {
        channel: CHANNEL,
        flags: PublishFlags::CONFIRM | PublishFlags::MANDATORY,
        packet_id: 0,
        message: to_queue(message, to),
    });
    loop {
        match errand.next().await? {
            Event::Returned { .. } => {
                let reason = format!("there is no queue '{to}'");
                return Err(Refusal::of(StatusCode::NOT_FOUND, "Object Not Found", reason));
            }
            Event::Refused { why, .. } => return Err(Refusal::bad_request(format!("the queue refuses it: {why:?}"))),
            Event::Failed { fault, .. } => return Err((*fault).into()),
            Event::Confirmed { .. } => return Ok(()),
            _ => {}
        }
    }
}

/// The same message for the default exchange. Keys of further queues (CC) are not used again.
fn to_queue(message: &Message, queue: &str) -> Message {
    let mut envelope = *message.envelope();
    envelope.extra_keys = false;
    envelope.retain = false;
    message.readdressed(envelope, "", queue, message.properties_raw())
}
