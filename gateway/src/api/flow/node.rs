//! The nodes of the flow map.

use super::super::connections::name_of;
use foldhash::quality::RandomState;
use gatepost_core::engine::flow::Party;
use gatepost_core::in_process;
use gatepost_core::properties::Name;
use std::hash::{BuildHasher as _, Hash, Hasher};
use std::sync::{Arc, OnceLock};

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum NodeKind {
    Client,
    Exchange,
    Topic,
    /// A client's further topics, which are not counted one by one.
    Others,
    Queue,
}

impl NodeKind {
    /// Its name in the API and in metrics.
    pub(crate) fn word(self) -> &'static str {
        match self {
            NodeKind::Client => "client",
            NodeKind::Exchange => "exchange",
            NodeKind::Topic | NodeKind::Others => "topic",
            NodeKind::Queue => "queue",
        }
    }
}

/// A node. All fields identify it: connections of the same user with the same client name are one client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FlowNode {
    pub(crate) vhost: Name,
    pub(crate) kind: NodeKind,
    /// Empty: the default exchange.
    pub(crate) name: Name,
    /// For a client: its protocol, and its user.
    pub(crate) client: Option<(&'static str, Name)>,
    /// Hash of the other fields. A look puts each node into several tables, and hashing names was half of its cost.
    hash: u64,
}

impl Hash for FlowNode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl FlowNode {
    pub(super) fn new(vhost: &Name, kind: NodeKind, name: &Name) -> Arc<FlowNode> {
        FlowNode::with_client(vhost, kind, name.clone(), None)
    }

    fn with_client(vhost: &Name, kind: NodeKind, name: Name, client: Option<(&'static str, Name)>) -> Arc<FlowNode> {
        static STATE: OnceLock<RandomState> = OnceLock::new();
        let hash = STATE
            .get_or_init(RandomState::default)
            .hash_one((vhost, kind, &name, &client));
        Arc::new(FlowNode {
            vhost: vhost.clone(),
            kind,
            name,
            client,
            hash,
        })
    }

    pub(super) fn of_client(vhost: &Name, party: &Party) -> Arc<FlowNode> {
        let client = Some((party.protocol, party.user.clone()));
        FlowNode::with_client(vhost, NodeKind::Client, called(party), client)
    }

    /// A unique text for it, the same from look to look.
    pub(crate) fn id(&self) -> String {
        let kind = match self.kind {
            NodeKind::Others => "topics",
            kind => kind.word(),
        };
        let mut id = format!("{kind}:{}:{}", part(&self.vhost), part(&self.name));
        if let Some((protocol, user)) = &self.client {
            id.push_str(&format!(":{}:{}", part(protocol), part(user)));
        }
        id
    }
}

/// A client's own name, or the name of its connection.
pub(crate) fn called(party: &Party) -> Name {
    match &party.name {
        Some(name) if !name.is_empty() => name.clone(),
        _ if party.protocol == in_process::PROTOCOL => MANAGEMENT_API.into(),
        _ => name_of(&party.peer, party.link).as_str().into(),
    }
}

/// The name of clients without a connection: requests of the API that publish or fetch.
const MANAGEMENT_API: &str = "management API";
/// The name of a client's further topics.
pub(super) const OTHER_TOPICS: &str = "other topics";

/// Escapes a part of an id, so that it contains no colon.
fn part(text: &str) -> String {
    text.replace('%', "%25").replace(':', "%3A")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_colons_have_ids_of_their_own() {
        let id = |vhost: &str, name: &str| FlowNode::new(&vhost.into(), NodeKind::Topic, &name.into()).id();
        assert_eq!(id("/", "a"), "topic:/:a");
        assert_ne!(id("a:b", "c"), id("a", "b:c"));
        assert_ne!(id("a", "b%3Ac"), id("a", "b:c"));
    }
}
