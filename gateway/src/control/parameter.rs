//! `gatepost parameter` and `gatepost cluster-name`.

use super::Listed;
use super::client::Client;
use super::list;
use crate::exit::Failure;
use clap::Subcommand;
use serde_json::{Value, json};

#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum Parameter {
    /// Set a parameter of a vhost. There is one: limits, of the component vhost-limits
    Set {
        component: String,
        name: String,
        /// As JSON, such as {"max-connections": 5}
        value: String,
        #[arg(long, default_value = "/")]
        vhost: String,
    },
    /// Remove a parameter of a vhost
    Clear {
        component: String,
        name: String,
        #[arg(long, default_value = "/")]
        vhost: String,
    },
    /// List the parameters of vhosts
    List {
        /// Those of one vhost
        #[arg(long)]
        vhost: Option<String>,
    },
    /// Set a global parameter. The gateway uses one, cluster_name, and keeps the others for people and their tools
    SetGlobal {
        name: String,
        /// As JSON
        value: String,
    },
    /// Remove a global parameter
    ClearGlobal { name: String },
    /// List global parameters
    ListGlobal,
}

const COLUMNS: &[&str] = &["component", "name", "value"];

pub(super) async fn act(verb: &Parameter, client: &mut Client) -> Result<Listed, Failure> {
    match verb {
        Parameter::Set {
            component,
            name,
            value,
            vhost,
        } => {
            let body = json!({ "value": parsed(value)? });
            client.put(&["parameters", component, vhost, name], &body).await?;
        }
        Parameter::Clear { component, name, vhost } => {
            client.delete(&["parameters", component, vhost, name]).await?;
        }
        Parameter::List { vhost } => {
            let mut all = client.get(&["parameters"]).await?;
            if let (Some(rows), Some(vhost)) = (all.as_array_mut(), vhost) {
                rows.retain(|row| row["vhost"].as_str() == Some(vhost));
            }
            return Ok(Some((COLUMNS, all)));
        }
        Parameter::SetGlobal { name, value } => {
            let body = json!({ "value": parsed(value)? });
            client.put(&["global-parameters", name], &body).await?;
        }
        Parameter::ClearGlobal { name } => client.delete(&["global-parameters", name]).await?,
        Parameter::ListGlobal => return list(client, &["global-parameters"], &["name", "value"]).await,
    }
    Ok(None)
}

/// Sets the name, or prints it.
pub(super) async fn cluster_name(name: Option<&str>, client: &mut Client) -> Result<Listed, Failure> {
    let Some(name) = name else {
        let row = client.get(&["cluster-name"]).await?;
        return Ok(Some((&["name"], json!([row]))));
    };
    client.put(&["cluster-name"], &json!({ "name": name })).await?;
    Ok(None)
}

fn parsed(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::Usage(format!("the value is not JSON: {error}")))
}
