//! `gatepost list`.

use super::client::Client;
use super::table::{Output, cell, field};
use crate::exit::Failure;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

/// What `gatepost list` lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Kind {
    Connections,
    MqttConnections,
    StompConnections,
    Channels,
    Consumers,
    Queues,
    Exchanges,
    Bindings,
    Sessions,
    Subscriptions,
    Retained,
    Vhosts,
    Users,
    Policies,
    Permissions,
    TopicPermissions,
    Listeners,
}

/// What to list, and how much of it.
#[derive(Args, Debug)]
pub struct Listing {
    /// What to list
    kind: Kind,
    /// Fields of the management API to show, such as name messages; a.b is the field b inside a
    columns: Vec<String>,
    /// In one vhost only; for sessions, subscriptions and retained messages the default is /
    #[arg(long)]
    vhost: Option<String>,
    /// Only objects with this value in a field, as FIELD=VALUE; may be given several times
    #[arg(long = "where", value_name = "FIELD=VALUE")]
    filters: Vec<String>,
    /// Only retained messages whose topics match this MQTT filter
    #[arg(long, value_name = "FILTER")]
    topic: Option<String>,
}

impl Listing {
    /// Whether a running gateway is needed. Declared objects can be read from the data directory too.
    pub(super) fn must_run(&self) -> bool {
        matches!(
            self.kind,
            Kind::Connections
                | Kind::MqttConnections
                | Kind::StompConnections
                | Kind::Channels
                | Kind::Consumers
                | Kind::Listeners
        )
    }
}

impl Kind {
    fn path(self, vhost: Option<&str>) -> Vec<&str> {
        let (noun, of_vhost) = match self {
            Kind::Connections | Kind::MqttConnections | Kind::StompConnections => ("connections", false),
            Kind::Channels => ("channels", false),
            Kind::Consumers => ("consumers", true),
            Kind::Queues => ("queues", true),
            Kind::Exchanges => ("exchanges", true),
            Kind::Bindings => ("bindings", true),
            Kind::Policies => ("policies", true),
            Kind::Vhosts => ("vhosts", false),
            Kind::Users => ("users", false),
            Kind::Permissions => ("permissions", false),
            Kind::TopicPermissions => ("topic-permissions", false),
            Kind::Listeners => ("overview", false),
            Kind::Sessions | Kind::Subscriptions => return vec!["gatepost", "sessions", vhost.unwrap_or("/")],
            Kind::Retained => return vec!["gatepost", "retained", vhost.unwrap_or("/")],
        };
        let below_vhost = matches!(noun, "connections" | "channels" | "permissions" | "topic-permissions");
        match vhost {
            Some(vhost) if below_vhost => vec!["vhosts", vhost, noun],
            Some(vhost) if of_vhost => vec![noun, vhost],
            _ => vec![noun],
        }
    }

    /// The columns that are shown by default.
    fn usual(self) -> &'static [&'static str] {
        match self {
            Kind::Connections => &["name", "user", "vhost", "protocol", "state"],
            Kind::MqttConnections => &["variable_map.client_id", "user", "vhost", "protocol", "name"],
            Kind::StompConnections => &["user", "vhost", "protocol", "name"],
            Kind::Channels => &["name", "user", "consumer_count", "messages_unacknowledged"],
            Kind::Consumers => &[
                "queue.name",
                "channel_details.name",
                "consumer_tag",
                "ack_required",
                "prefetch_count",
            ],
            Kind::Queues => &["vhost", "name", "messages", "consumers"],
            Kind::Exchanges => &["vhost", "name", "type"],
            Kind::Bindings => &["vhost", "source", "destination_type", "destination", "routing_key"],
            Kind::Sessions => &["client_id", "user", "connected", "messages", "in_flight"],
            Kind::Subscriptions => &["client_id", "filter", "qos"],
            Kind::Retained => &["topic", "bytes"],
            Kind::Vhosts => &["name", "description"],
            Kind::Users => &["name", "tags"],
            Kind::Policies => &["vhost", "name", "pattern", "apply-to", "priority", "definition"],
            Kind::Permissions => &["vhost", "user", "configure", "write", "read"],
            Kind::TopicPermissions => &["vhost", "user", "exchange", "write", "read"],
            Kind::Listeners => &["protocol", "ip_address", "port"],
        }
    }

    /// All possible columns. An object may lack some of them, so they cannot be read from an object.
    fn known(self) -> &'static str {
        match self {
            Kind::Connections | Kind::MqttConnections | Kind::StompConnections => {
                "auth_mechanism channel_max channels client_properties connected_at frame_max host name node \
                 peer_cert_issuer peer_cert_subject peer_cert_validity peer_host peer_port port protocol recv_cnt recv_oct \
                 recv_oct_details send_cnt send_oct send_oct_details send_pend ssl ssl_cipher ssl_hash ssl_key_exchange \
                 ssl_protocol state timeout type user user_provided_name user_who_performed_action variable_map vhost"
            }
            Kind::Channels => {
                "acks_uncommitted confirm connection_details consumer_count global_prefetch_count idle_since message_stats \
                 messages_unacknowledged messages_unacknowledged_details messages_uncommitted messages_unconfirmed name node \
                 number pending_raft_commands prefetch_count state transactional user user_who_performed_action vhost"
            }
            Kind::Consumers => {
                "ack_required active activity_status arguments channel_details consumer_tag consumer_timeout exclusive \
                 prefetch_count queue"
            }
            Kind::Queues => {
                "arguments auto_delete consumer_capacity consumer_utilisation consumers durable \
                 effective_policy_definition exclusive exclusive_consumer_tag garbage_collection head_message_timestamp \
                 idle_since memory message_bytes message_bytes_paged_out message_bytes_persistent message_bytes_ram \
                 message_bytes_ready message_bytes_unacknowledged message_stats messages messages_details \
                 messages_paged_out messages_persistent messages_ram messages_ready messages_ready_details \
                 messages_ready_ram messages_unacknowledged messages_unacknowledged_details \
                 messages_unacknowledged_ram name node operator_policy owner_pid_details policy recoverable_slaves \
                 single_active_consumer_tag state type vhost"
            }
            Kind::Exchanges => {
                "arguments auto_delete durable internal message_stats name policy type user_who_performed_action vhost"
            }
            Kind::Bindings => "arguments destination destination_type properties_key routing_key source vhost",
            Kind::Sessions => {
                "client_id connected expires_at expiry in_flight messages subscription_count subscriptions user"
            }
            Kind::Subscriptions => "client_id filter qos",
            Kind::Retained => "bytes topic",
            Kind::Vhosts => {
                "cluster_state connections default_queue_type description message_stats messages messages_details \
                 messages_ready messages_ready_details messages_unacknowledged messages_unacknowledged_details metadata \
                 name queues recv_oct recv_oct_details send_oct send_oct_details tags tracing"
            }
            Kind::Users => "channels connections hashing_algorithm limits name password_hash tags",
            Kind::Policies => "apply-to definition name pattern priority vhost",
            Kind::Permissions => "configure read user vhost write",
            Kind::TopicPermissions => "exchange read user vhost write",
            Kind::Listeners => "ip_address node port protocol socket_opts",
        }
    }

    /// How the protocol of these connections begins, where there are others.
    fn protocol(self) -> &'static str {
        match self {
            Kind::MqttConnections => "MQTT",
            Kind::StompConnections => "STOMP",
            _ => "",
        }
    }

    /// `rabbitmqctl`'s name of a field.
    fn alias(self, column: &str) -> Option<&'static str> {
        Some(match (self, column) {
            (Kind::Connections | Kind::Channels, "pid") | (Kind::Users, "user") => "name",
            (Kind::Channels, "connection") => "connection_details.name",
            (Kind::MqttConnections, "client_id") => "variable_map.client_id",
            (Kind::MqttConnections | Kind::StompConnections, "conn_name" | "connection") => "name",
            (Kind::MqttConnections | Kind::StompConnections, "connection_state") => "state",
            (Kind::MqttConnections | Kind::StompConnections, "ssl_login_name") => "peer_cert_subject",
            (Kind::MqttConnections | Kind::StompConnections, "peer_addr") => "peer_host",
            (Kind::StompConnections, "version") => "protocol",
            (Kind::Bindings, "source_name") => "source",
            (Kind::Bindings, "destination_name") => "destination",
            (Kind::Bindings, "destination_kind") => "destination_type",
            (Kind::Consumers, "queue_name") => "queue.name",
            (Kind::Consumers, "channel_pid") => "channel_details.name",
            _ => return None,
        })
    }

    /// # Errors
    /// There is no such column. The text lists the existing ones.
    fn check(self, column: &str) -> Result<(), Failure> {
        let first = column.split_once('.').map_or(column, |(first, _)| first);
        let is_known = self.known().split(' ').any(|known| known == column || known == first);
        if is_known || self.alias(column).is_some() || self.is_constant(column) {
            return Ok(());
        }
        let known: Vec<&str> = self.known().split(' ').collect();
        Err(Failure::Usage(format!(
            "there is no column {column}; there are {}",
            known.join(", ")
        )))
    }

    /// The source of a binding is always an exchange.
    fn is_constant(self, column: &str) -> bool {
        self == Kind::Bindings && column == "source_kind"
    }

    fn value(self, row: &Value, column: &str) -> Value {
        if self.is_constant(column) {
            return json!("exchange");
        }
        let column = self.alias(column).unwrap_or(column);
        field(row, column).cloned().unwrap_or(Value::Null)
    }
}

pub(super) async fn list(asked: &Listing, client: &mut Client) -> Result<Output, Failure> {
    let kind = asked.kind;
    if asked.vhost.is_some() && matches!(kind, Kind::Vhosts | Kind::Users | Kind::Listeners) {
        return Err(Failure::Usage(
            "--vhost: vhosts, users and listeners are not in one".to_owned(),
        ));
    }
    if asked.topic.is_some() && kind != Kind::Retained {
        return Err(Failure::Usage("--topic is for retained messages".to_owned()));
    }
    let mut filters = Vec::new();
    for filter in &asked.filters {
        let pair = filter.split_once('=');
        filters.push(pair.ok_or_else(|| Failure::Usage(format!("--where {filter}: expected FIELD=VALUE")))?);
    }
    let named = asked.columns.iter().map(String::as_str);
    for column in named.chain(filters.iter().map(|(column, _)| *column)) {
        kind.check(column)?;
    }
    let mut rows = rows(asked, client).await?;
    rows.retain(|row| {
        filters
            .iter()
            .all(|(column, wanted)| is(&kind.value(row, column), wanted))
    });
    // A user without permissions is not the same as none of that name.
    if let (Kind::Permissions | Kind::TopicPermissions, true) = (kind, rows.is_empty())
        && let Some((_, user)) = filters.iter().find(|(column, _)| *column == "user")
        && let Err(failure @ Failure::NoSuchUser(_)) = client.get(&["users", user]).await
    {
        return Err(failure);
    }
    let is_chosen = !asked.columns.is_empty();
    if is_chosen {
        for row in &mut rows {
            let members = asked
                .columns
                .iter()
                .map(|column| (column.clone(), kind.value(row, column)));
            *row = Value::Object(members.collect());
        }
    }
    let columns = if is_chosen {
        asked.columns.clone()
    } else {
        kind.usual().iter().map(|name| (*name).to_owned()).collect()
    };
    Ok(Output::List {
        columns,
        rows: rows.into(),
        is_chosen,
    })
}

fn is(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text == wanted,
        other => cell(Some(other)) == wanted,
    }
}

async fn rows(asked: &Listing, client: &mut Client) -> Result<Vec<Value>, Failure> {
    let path = asked.kind.path(asked.vhost.as_deref());
    let mut answer = match &asked.topic {
        Some(topic) => client.get_with(&path, &[("filter", topic)]).await?,
        None => client.get(&path).await?,
    };
    let array = |value: &mut Value| match value.take() {
        Value::Array(rows) => rows,
        _ => Vec::new(),
    };
    Ok(match asked.kind {
        Kind::MqttConnections | Kind::StompConnections => {
            let mut rows = array(&mut answer);
            let protocol = asked.kind.protocol();
            rows.retain(|row| row["protocol"].as_str().is_some_and(|of| of.starts_with(protocol)));
            rows
        }
        Kind::Subscriptions => array(&mut answer).iter().flat_map(subscriptions).collect(),
        Kind::Listeners => array(&mut answer["listeners"]),
        Kind::Retained => {
            let rows = array(&mut answer["items"]);
            let total = answer["total"].as_u64().unwrap_or(0);
            if total > rows.len() as u64 {
                let shown = rows.len();
                eprintln!(
                    "only {shown} of {total} retained messages are listed: name fewer topics with --topic FILTER"
                );
            }
            rows
        }
        _ => array(&mut answer),
    })
}

fn subscriptions(session: &Value) -> Vec<Value> {
    let subscriptions = session["subscriptions"].as_array().into_iter().flatten();
    let with_client = subscriptions.map(|subscription| {
        let mut row = subscription.clone();
        row["client_id"] = session["client_id"].clone();
        row
    });
    with_client.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_columns_of_each_kind_are_known() {
        for kind in Kind::value_variants() {
            for column in kind.usual() {
                kind.check(column).unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            }
        }
    }
}
