//! `gatepost policy`.

use super::client::Client;
use super::{Listed, list};
use crate::exit::Failure;
use clap::Subcommand;
use serde_json::{Value, json};

#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum Policy {
    /// Set a policy. It applies to existing and to new queues and exchanges
    Set {
        name: String,
        /// A regular expression over names
        pattern: String,
        /// What it sets, as JSON, such as {"max-length": 1000, "message-ttl": 60000}
        definition: String,
        /// queues, classic_queues, quorum_queues, exchanges or all
        #[arg(long, default_value = "all")]
        apply_to: String,
        /// If several policies match, the one with the highest priority applies
        #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
        priority: i64,
        #[arg(long, default_value = "/")]
        vhost: String,
        /// An operator policy, which only sets limits that users' policies cannot exceed
        #[arg(long)]
        operator: bool,
    },
    /// Remove a policy
    Clear {
        name: String,
        #[arg(long, default_value = "/")]
        vhost: String,
        /// An operator's
        #[arg(long)]
        operator: bool,
    },
    /// List policies
    List {
        /// In one vhost
        #[arg(long)]
        vhost: Option<String>,
        /// Operators'
        #[arg(long)]
        operator: bool,
    },
}

pub(super) async fn act(verb: &Policy, client: &mut Client) -> Result<Listed, Failure> {
    match verb {
        Policy::Set {
            name,
            pattern,
            definition,
            apply_to,
            priority,
            vhost,
            operator,
        } => {
            let definition: Value = serde_json::from_str(definition)
                .map_err(|error| Failure::Usage(format!("the definition is no JSON: {error}")))?;
            let body = json!({
                "pattern": pattern, "definition": definition, "apply-to": apply_to, "priority": priority,
            });
            client.put(&[kind(*operator), vhost, name], &body).await?;
        }
        Policy::Clear { name, vhost, operator } => client.delete(&[kind(*operator), vhost, name]).await?,
        Policy::List { vhost, operator } => {
            let columns = &["vhost", "name", "pattern", "apply-to", "definition", "priority"];
            return match vhost {
                Some(vhost) => list(client, &[kind(*operator), vhost], columns).await,
                None => list(client, &[kind(*operator)], columns).await,
            };
        }
    }
    Ok(None)
}

fn kind(operator: bool) -> &'static str {
    if operator { "operator-policies" } else { "policies" }
}
