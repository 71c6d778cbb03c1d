//! `gatepost vhost`.

use super::client::Client;
use super::{Listed, list};
use crate::exit::Failure;
use clap::Subcommand;
use serde_json::json;

#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum Vhost {
    /// Create a vhost
    Add {
        name: String,
        /// A description
        #[arg(long, default_value = "")]
        description: String,
        /// Such as production,site-a
        #[arg(long, value_name = "TAGS", value_delimiter = ',')]
        tags: Vec<String>,
        /// Type of queues that are declared without one: classic or quorum
        #[arg(long, value_name = "TYPE")]
        default_queue_type: Option<String>,
    },
    /// Delete a vhost with everything in it, and end its connections
    Delete { name: String },
    /// Replace a vhost's tags; without any, all are removed
    Tags { name: String, tags: Vec<String> },
    /// List the vhosts
    List,
}

pub(super) async fn act(verb: &Vhost, client: &mut Client) -> Result<Listed, Failure> {
    match verb {
        Vhost::Add {
            name,
            description,
            tags,
            default_queue_type,
        } => {
            let mut body = json!({ "description": description, "tags": tags });
            if let Some(queue_type) = default_queue_type {
                body["default_queue_type"] = json!(queue_type);
            }
            client.make(&["vhosts", name], &body).await?;
        }
        Vhost::Tags { name, tags } => {
            // The request replaces all properties of a vhost.
            let described = client.get(&["vhosts", name]).await?;
            let body = json!({ "description": described["description"], "tags": tags });
            client.put(&["vhosts", name], &body).await?;
        }
        Vhost::Delete { name } => client.delete(&["vhosts", name]).await?,
        Vhost::List => return list(client, &["vhosts"], &["name", "description", "queues"]).await,
    }
    Ok(None)
}
