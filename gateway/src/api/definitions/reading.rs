//! Parses a document of definitions. Unknown members are ignored, as in RabbitMQ.

use super::super::body::Body;
use super::super::users::credential;
use super::super::{Refusal, declaring, policies, table};
use crate::directory::permissions::Permission;
use crate::directory::users::Credential;
use gatepost_core::catalog::VhostRecord;
use gatepost_core::command::{Bind, BindTarget, Command, DeclareQueue, PolicyChange};
use gatepost_core::policy::PolicyKind;
use gatepost_core::properties::{Name, Value as CoreValue};
use serde_json::Value;

/// A parsed document.
#[derive(Default)]
pub(super) struct Definitions {
    pub(super) vhosts: Vec<VhostRecord>,
    pub(super) users: Vec<User>,
    pub(super) permissions: Vec<(Place, Permission)>,
    pub(super) topic_permissions: Vec<TopicPermission>,
    pub(super) globals: Vec<(Name, CoreValue)>,
    /// Limits of vhosts.
    pub(super) limits: Vec<(Name, Name, i64)>,
    pub(super) policies: Vec<(Name, PolicyChange)>,
    pub(super) exchanges: Vec<(Name, Command)>,
    pub(super) queues: Vec<(Name, Command)>,
    pub(super) bindings: Vec<(Name, Bind)>,
}

pub(super) struct User {
    pub(super) name: Name,
    pub(super) credential: Credential,
    pub(super) tags: Vec<Name>,
    pub(super) limits: Vec<(Name, i64)>,
}

/// A user and a vhost.
pub(super) struct Place {
    pub(super) user: Name,
    pub(super) vhost: Name,
}

pub(super) struct TopicPermission {
    pub(super) place: Place,
    pub(super) exchange: Name,
    pub(super) write: String,
    pub(super) read: String,
}

impl Definitions {
    /// Parses a document. `vhost`: the document is about that vhost only and contains no other vhosts or users.
    ///
    /// # Errors
    /// Something is missing or has the wrong type; the text says where.
    pub(super) fn read(document: &Value, vhost: Option<&str>) -> Result<Definitions, Refusal> {
        if !document.is_object() {
            return Err(Refusal::bad_request("expected a JSON object"));
        }
        let mut read = Definitions::default();
        let whole = vhost.is_none();
        if whole {
            each(document, "vhosts", |body| {
                read.vhosts.push(vhost_of(body)?);
                Ok(())
            })?;
            each(document, "users", |body| {
                read.users.push(user(body)?);
                Ok(())
            })?;
            each(document, "permissions", |body| {
                read.permissions.push((place(body)?, permission(body)?));
                Ok(())
            })?;
            each(document, "topic_permissions", |body| {
                read.topic_permissions.push(topic_permission(body)?);
                Ok(())
            })?;
            each(document, "global_parameters", |body| {
                if body.required("name")? == super::IMPORTED {
                    return Ok(());
                }
                let value = body.member("value").unwrap_or(&Value::Null);
                let value = table::value(value).map_err(Refusal::bad_request)?;
                read.globals.push((body.required("name")?.into(), value));
                Ok(())
            })?;
        }
        each(document, "parameters", |body| {
            read.parameter(&within(body, vhost)?, body)
        })?;
        each(document, "policies", |body| {
            let change = policy(PolicyKind::User, body.required("name")?, body)?;
            read.policies.push((within(body, vhost)?, change));
            Ok(())
        })?;
        each(document, "exchanges", |body| {
            // The default exchange: every vhost has it.
            if body.required("name")?.is_empty() {
                return Ok(());
            }
            let exchange = declaring::exchange(body.required("name")?, body)?;
            let command = Command::DeclareExchange(Box::new(exchange));
            read.exchanges.push((within(body, vhost)?, command));
            Ok(())
        })?;
        each(document, "queues", |body| {
            let mut queue = declaring::queue(body.required("name")?, body)?;
            // A queue that exists stays as it is.
            queue.lenient = true;
            name_type(&mut queue, body)?;
            let command = Command::DeclareQueue(Box::new(queue));
            read.queues.push((within(body, vhost)?, command));
            Ok(())
        })?;
        each(document, "bindings", |body| {
            let bind = binding(body)?;
            // Every queue is bound to the default exchange by its name.
            let is_implied = matches!(&bind.target, BindTarget::Queue(queue) if *queue == bind.key);
            if !(bind.source.is_empty() && is_implied) {
                read.bindings.push((within(body, vhost)?, bind));
            }
            Ok(())
        })?;
        Ok(read)
    }

    pub(super) fn has_users(&self) -> bool {
        !self.users.is_empty()
    }

    /// RabbitMQ stores limits of vhosts and operator policies as parameters.
    fn parameter(&mut self, vhost: &Name, body: &Body) -> Result<(), Refusal> {
        let value = Body::of(body.members("value")?.unwrap_or_default());
        match body.required("component")? {
            "vhost-limits" => {
                for (name, n) in value.numbers()? {
                    self.limits.push((vhost.clone(), name, n));
                }
            }
            "operator_policy" => {
                let change = policy(PolicyKind::Operator, body.required("name")?, &value)?;
                self.policies.push((vhost.clone(), change));
            }
            other => {
                let text = format!("Validation failed\n\ncomponent {other} not found\n");
                return Err(Refusal::bad_request(text));
            }
        }
        Ok(())
    }
}

/// Parses each entry of a list. An error names the entry's position.
fn each(document: &Value, list: &str, mut read: impl FnMut(&Body) -> Result<(), Refusal>) -> Result<(), Refusal> {
    let entries = match document.get(list) {
        None | Some(Value::Null) => return Ok(()),
        Some(Value::Array(entries)) => entries,
        Some(_) => return Err(Refusal::bad_request(format!("{list}: expected a list"))),
    };
    for (n, entry) in entries.iter().enumerate() {
        let at = |refusal: Refusal| Refusal::bad_request(format!("{list}[{n}]: {}", refusal.reason));
        let Value::Object(members) = entry else {
            return Err(Refusal::bad_request(format!("{list}[{n}]: expected an object")));
        };
        read(&Body::of(members.clone())).map_err(at)?;
    }
    Ok(())
}

/// The entry's vhost: the one of the import, or its own.
fn within(body: &Body, vhost: Option<&str>) -> Result<Name, Refusal> {
    match vhost {
        Some(vhost) => Ok(vhost.into()),
        None => Ok(body.required("vhost")?.into()),
    }
}

fn vhost_of(body: &Body) -> Result<VhostRecord, Refusal> {
    let metadata = Body::of(body.members("metadata")?.unwrap_or_default());
    let description = body.text("description")?.or(metadata.text("description")?);
    let tags = body.texts("tags")?.or(metadata.texts("tags")?).unwrap_or_default();
    Ok(VhostRecord {
        name: body.required("name")?.into(),
        description: description.unwrap_or_default().to_owned(),
        tags: tags.iter().map(|tag| tag.as_str().into()).collect(),
        default_queue_type: body.text("default_queue_type")?.unwrap_or_default().into(),
    })
}

fn user(body: &Body) -> Result<User, Refusal> {
    let tags = body.texts("tags")?.unwrap_or_default();
    Ok(User {
        name: body.required("name")?.into(),
        credential: credential(body)?.unwrap_or(Credential::Nothing),
        tags: tags.iter().map(|tag| tag.as_str().into()).collect(),
        limits: Body::of(body.members("limits")?.unwrap_or_default()).numbers()?,
    })
}

fn place(body: &Body) -> Result<Place, Refusal> {
    body.needs(&["user", "vhost"])?;
    Ok(Place {
        user: body.required("user")?.into(),
        vhost: body.required("vhost")?.into(),
    })
}

fn permission(body: &Body) -> Result<Permission, Refusal> {
    body.needs(&["configure", "write", "read"])?;
    Ok(Permission {
        configure: body.required("configure")?.to_owned(),
        write: body.required("write")?.to_owned(),
        read: body.required("read")?.to_owned(),
    })
}

fn topic_permission(body: &Body) -> Result<TopicPermission, Refusal> {
    body.needs(&["user", "vhost", "exchange", "write", "read"])?;
    Ok(TopicPermission {
        place: place(body)?,
        exchange: body.required("exchange")?.into(),
        write: body.required("write")?.to_owned(),
        read: body.required("read")?.to_owned(),
    })
}

fn policy(kind: PolicyKind, name: &str, body: &Body) -> Result<PolicyChange, Refusal> {
    Ok(PolicyChange {
        kind,
        name: name.into(),
        policy: Some(policies::record(body)?),
    })
}

/// A queue's type is an argument of it. RabbitMQ 3.13 and later also name it beside the arguments, and some files only there.
fn name_type(queue: &mut DeclareQueue, body: &Body) -> Result<(), Refusal> {
    let named = body.text("type")?.filter(|kind| *kind != "classic");
    if let Some(kind) = named
        && queue.arguments.lookup("x-queue-type").is_none()
    {
        queue.arguments.push("x-queue-type", CoreValue::text(kind));
    }
    Ok(())
}

fn binding(body: &Body) -> Result<Bind, Refusal> {
    body.needs(&["source", "destination", "destination_type"])?;
    let destination = body.required("destination")?;
    let target = match body.required("destination_type")? {
        "queue" => BindTarget::Queue(destination.into()),
        "exchange" => BindTarget::Exchange(destination.into()),
        other => {
            let text = format!("destination_type: 'queue' or 'exchange', and not '{other}'");
            return Err(Refusal::bad_request(text));
        }
    };
    let key = body.text("routing_key")?.unwrap_or_default();
    declaring::short("a routing key", key)?;
    Ok(Bind {
        channel: super::super::errand::CHANNEL,
        source: body.required("source")?.into(),
        target,
        key: key.into(),
        arguments: declaring::arguments(body)?,
        reply: true,
    })
}
