//! Creates, deletes and purges queues, exchanges and bindings, with the caller's rights.

use super::body::Body;
use super::caller::Caller;
use super::errand::{CHANNEL, Errand};
use super::properties_key::properties_key;
use super::{Answer, Api, Refusal, done, made, table};
use crate::directory::Put;
use crate::node::Node;
use crate::vhost::Vhost;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::IntoResponse as _;
use axum::routing;
use gatepost_core::binding::{Binding, Destination};
use gatepost_core::command::{
    Bind, BindTarget, Command, DeclareExchange, DeclareQueue, DeleteExchange, DeleteQueue, PurgeQueue,
};
use gatepost_core::engine::inspect::{Cursor, Item, Kind};
use gatepost_core::fault::{Fault, FaultKind};
use gatepost_core::properties::Table;
use std::fmt::Write as _;
use std::sync::Arc;

/// Routes that change things, for every user of the API within its permissions. The routes that read are in the files
/// of the objects.
pub(super) fn routes() -> Router<Arc<Node>> {
    Router::new()
        .route(
            "/api/queues/{vhost}/{queue}",
            routing::put(put_queue).delete(delete_queue),
        )
        .route("/api/queues/{vhost}/{queue}/contents", routing::delete(purge))
        .route(
            "/api/exchanges/{vhost}/{exchange}",
            routing::put(put_exchange).delete(delete_exchange),
        )
        .route(
            "/api/bindings/{vhost}/e/{source}/{kind}/{destination}",
            routing::post(bind),
        )
        .route(
            "/api/bindings/{vhost}/e/{source}/{kind}/{destination}/{properties_key}",
            routing::delete(unbind),
        )
}

/// Whether a deletion has a condition. Tools write `if-unused=true`, `if-unused=1` or just `if-unused`.
fn asks(uri: &Uri, condition: &str) -> bool {
    let query = uri.query().unwrap_or_default();
    query.split('&').any(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        name == condition && matches!(value, "true" | "1" | "")
    })
}

fn errand(caller: &Caller, node: &Arc<Node>, vhost: &str) -> Result<Errand, Refusal> {
    Ok(Errand::of(caller, node, &caller.vhost_to_use(node, vhost)?)?)
}

/// Whether the object that `command` looks up exists.
async fn is_there(errand: &mut Errand, command: Command) -> Result<bool, Fault> {
    match errand.ask(command).await {
        Ok(_) => Ok(true),
        Err(fault) if fault.kind == FaultKind::NotFound => Ok(false),
        Err(fault) => Err(fault),
    }
}

/// Declares the object that `look` looks up. As RabbitMQ does, the answer tells whether it existed.
async fn put(mut errand: Errand, look: Command, declare: Command) -> Answer {
    let there = is_there(&mut errand, look).await?;
    errand.ask(declare).await?;
    made(if there { Put::Changed } else { Put::Created })
}

/// Deletes the object that `look` looks up. If it does not exist, AMQP reports success, but HTTP must answer 404.
async fn take_away(mut errand: Errand, look: Command, delete: Command) -> Answer {
    if !is_there(&mut errand, look).await? {
        return Err(Refusal::not_found());
    }
    errand.ask(delete).await?;
    done()
}

fn look_at_queue(name: &str) -> Command {
    Command::DeclareQueue(Box::new(DeclareQueue {
        passive: true,
        lenient: true,
        ..DeclareQueue::durable(CHANNEL, name)
    }))
}

/// The queue that a JSON object describes.
pub(crate) fn queue(name: &str, body: &Body) -> Result<DeclareQueue, Refusal> {
    Ok(DeclareQueue {
        durable: body.flag("durable")?.unwrap_or(false),
        auto_delete: body.flag("auto_delete")?.unwrap_or(false),
        arguments: arguments(body)?,
        ..DeclareQueue::durable(CHANNEL, name)
    })
}

/// Checks a name or a key against AMQP's limits.
pub(crate) fn short(what: &str, text: &str) -> Result<(), Refusal> {
    if text.len() > SHORT_MAX {
        return Err(Refusal::bad_request(format!("{what} has {SHORT_MAX} bytes at most")));
    }
    Ok(())
}

const SHORT_MAX: usize = 255;

/// The exchange that a JSON object describes.
pub(crate) fn exchange(name: &str, body: &Body) -> Result<DeclareExchange, Refusal> {
    short("an exchange's name", name)?;
    Ok(DeclareExchange {
        channel: CHANNEL,
        name: name.into(),
        kind: body.text("type")?.unwrap_or("direct").into(),
        passive: false,
        durable: body.flag("durable")?.unwrap_or(false),
        auto_delete: body.flag("auto_delete")?.unwrap_or(false),
        internal: body.flag("internal")?.unwrap_or(false),
        arguments: arguments(body)?,
        reply: true,
    })
}

pub(crate) fn arguments(body: &Body) -> Result<Table, Refusal> {
    match body.members("arguments")? {
        Some(members) => table::table(&members).map_err(Refusal::bad_request),
        None => Ok(Table::default()),
    }
}

async fn put_queue(
    caller: Caller,
    State(node): Api,
    Path((vhost, name)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let declare = queue(&name, &Body::parse(&body)?)?;
    if name.is_empty() {
        return Err(Refusal::not_found());
    }
    let errand = errand(&caller, &node, &vhost)?;
    put(errand, look_at_queue(&name), Command::DeclareQueue(Box::new(declare))).await
}

async fn delete_queue(
    caller: Caller,
    State(node): Api,
    Path((vhost, name)): Path<(String, String)>,
    uri: Uri,
) -> Answer {
    let errand = errand(&caller, &node, &vhost)?;
    let look = look_at_queue(&name);
    let delete = DeleteQueue {
        channel: CHANNEL,
        name: name.into(),
        if_unused: asks(&uri, "if-unused"),
        if_empty: asks(&uri, "if-empty"),
        reply: true,
    };
    take_away(errand, look, Command::DeleteQueue(Box::new(delete))).await
}

/// Removes ready messages only; consumers keep their unsettled ones.
async fn purge(caller: Caller, State(node): Api, Path((vhost, name)): Path<(String, String)>) -> Answer {
    let purge = PurgeQueue {
        channel: CHANNEL,
        name: name.into(),
        reply: true,
    };
    let mut errand = errand(&caller, &node, &vhost)?;
    errand.ask(Command::PurgeQueue(Box::new(purge))).await?;
    done()
}

fn look_at_exchange(name: &str) -> Command {
    Command::DeclareExchange(Box::new(DeclareExchange {
        channel: CHANNEL,
        name: name.into(),
        kind: "direct".into(),
        passive: true,
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Table::default(),
        reply: true,
    }))
}

async fn put_exchange(
    caller: Caller,
    State(node): Api,
    Path((vhost, name)): Path<(String, String)>,
    body: Bytes,
) -> Answer {
    let declare = exchange(&name, &Body::parse(&body)?)?;
    let errand = errand(&caller, &node, &vhost)?;
    put(
        errand,
        look_at_exchange(&name),
        Command::DeclareExchange(Box::new(declare)),
    )
    .await
}

async fn delete_exchange(
    caller: Caller,
    State(node): Api,
    Path((vhost, name)): Path<(String, String)>,
    uri: Uri,
) -> Answer {
    let errand = errand(&caller, &node, &vhost)?;
    let look = look_at_exchange(&name);
    let delete = DeleteExchange {
        channel: CHANNEL,
        name: name.into(),
        if_unused: asks(&uri, "if-unused"),
        reply: true,
    };
    take_away(errand, look, Command::DeleteExchange(Box::new(delete))).await
}

/// The target for `q` or `e` in a path.
fn target(kind: &str, destination: &str) -> Result<BindTarget, Refusal> {
    match kind {
        "q" => Ok(BindTarget::Queue(destination.into())),
        "e" => Ok(BindTarget::Exchange(destination.into())),
        _ => Err(Refusal::not_found()),
    }
}

async fn bind(
    caller: Caller,
    State(node): Api,
    Path((vhost, source, kind, destination)): Path<(String, String, String, String)>,
    body: Bytes,
) -> Answer {
    let body = Body::parse(&body)?;
    let bind = Bind {
        channel: CHANNEL,
        source: source.into(),
        target: target(&kind, &destination)?,
        key: body.text("routing_key")?.unwrap_or_default().into(),
        arguments: arguments(&body)?,
        reply: true,
    };
    short("a routing key", &bind.key)?;
    let key = properties_key(&bind.key, &bind.arguments);
    let mut errand = errand(&caller, &node, &vhost)?;
    errand.ask(Command::Bind(Box::new(bind))).await?;
    let location = format!("{}/{}", segment(&destination), segment(&key));
    Ok((StatusCode::CREATED, [(header::LOCATION, location)]).into_response())
}

/// Escapes a path segment (RFC 3986 2.3): all characters but the unreserved.
fn segment(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => escaped.push(char::from(byte)),
            byte => _ = write!(escaped, "%{byte:02X}"),
        }
    }
    escaped
}

async fn unbind(
    caller: Caller,
    State(node): Api,
    Path((vhost, source, kind, destination, key)): Path<(String, String, String, String, String)>,
) -> Answer {
    let target = target(&kind, &destination)?;
    let vhost = caller.vhost_to_use(&node, &vhost)?;
    let found = find(&vhost, &source, &target, &key)
        .await
        .ok_or_else(Refusal::not_found)?;
    let unbind = Bind {
        channel: CHANNEL,
        source: found.source.clone(),
        target,
        key: found.key.clone(),
        arguments: found.arguments.clone(),
        reply: true,
    };
    let mut errand = Errand::of(&caller, &node, &vhost)?;
    errand.ask(Command::Unbind(Box::new(unbind))).await?;
    done()
}

/// Maximum bindings examined in one hold of the engine's lock.
const AT_ONCE: usize = 512;

/// The binding between two ends that has this properties key.
async fn find(vhost: &Arc<Vhost>, source: &str, target: &BindTarget, key: &str) -> Option<Binding> {
    let is_target = |destination: &Destination| match (destination, target) {
        (Destination::Queue { name, .. }, BindTarget::Queue(wanted)) => name == wanted,
        (Destination::Exchange(name), BindTarget::Exchange(wanted)) => name == wanted,
        _ => false,
    };
    let mut cursor = Cursor::new(Kind::Bindings);
    while !cursor.is_done() {
        let items = vhost.enter(|engine| engine.inspect(&mut cursor, AT_ONCE));
        let found = items.into_iter().find_map(|item| match item {
            Item::Binding(b)
                // A subscription belongs to its client and is not shown as a binding.
                if b.grant.is_none()
                    && *b.source == *source
                    && is_target(&b.destination)
                    && properties_key(&b.key, &b.arguments) == key =>
            {
                Some(b)
            }
            _ => None,
        });
        if found.is_some() {
            return found;
        }
        tokio::task::yield_now().await;
    }
    None
}
