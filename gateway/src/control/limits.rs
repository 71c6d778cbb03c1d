//! `gatepost limit`.

use super::client::Client;
use super::{Limit, Listed, Whose};
use crate::exit::Failure;
use serde_json::{Map, Value, json};

pub(super) async fn act(verb: &Limit, client: &mut Client) -> Result<Listed, Failure> {
    match verb {
        Limit::Set {
            whose,
            name,
            value,
            all,
        } => {
            let (kind, whose) = path_of(whose);
            for (name, value) in wanted(name.as_deref(), *value, all.as_deref())? {
                client.put(&[kind, &whose, &name], &json!({ "value": value })).await?;
            }
        }
        Limit::Clear { whose, name } => {
            let (kind, whose) = path_of(whose);
            match name.as_deref() {
                Some(name) if name != ALL => client.delete(&[kind, &whose, name]).await?,
                _ => {
                    for name in set(&client.get(&[kind, &whose]).await?) {
                        client.delete(&[kind, &whose, &name]).await?;
                    }
                }
            }
        }
        Limit::List { user, vhost, of } => {
            return listed(user.as_deref(), vhost.as_deref(), of.as_deref(), client).await;
        }
    }
    Ok(None)
}

async fn listed(
    user: Option<&str>,
    vhost: Option<&str>,
    of: Option<&str>,
    client: &mut Client,
) -> Result<Listed, Failure> {
    let (columns, paths): (&'static [&'static str], Vec<Vec<&str>>) = match (user, vhost, of) {
        (Some(user), ..) => (&["user", "value"], vec![vec!["user-limits", user]]),
        (_, Some(vhost), _) => (&["vhost", "value"], vec![vec!["vhost-limits", vhost]]),
        (.., Some("users")) => (&["user", "value"], vec![vec!["user-limits"]]),
        (.., Some(_)) => (&["vhost", "value"], vec![vec!["vhost-limits"]]),
        _ => (
            &["user", "vhost", "value"],
            vec![vec!["user-limits"], vec!["vhost-limits"]],
        ),
    };
    let mut all = Vec::new();
    for path in paths {
        all.extend(client.get(&path).await?.as_array().cloned().unwrap_or_default());
    }
    Ok(Some((columns, Value::from(all))))
}

const ALL: &str = "all";

fn path_of(whose: &Whose) -> (&'static str, String) {
    match (&whose.user, &whose.vhost) {
        (Some(user), _) => ("user-limits", user.clone()),
        (None, vhost) => ("vhost-limits", vhost.clone().unwrap_or_default()),
    }
}

/// The limits to set: one, or an object of several.
fn wanted(name: Option<&str>, value: Option<i64>, all: Option<&str>) -> Result<Map<String, Value>, Failure> {
    match (all, name, value) {
        (Some(all), ..) => {
            serde_json::from_str(all).map_err(|error| Failure::Usage(format!("the limits are no JSON object: {error}")))
        }
        (None, Some(name), Some(value)) => Ok(Map::from_iter([(name.to_owned(), json!(value))])),
        _ => Err(Failure::Usage("which limit, and to what?".to_owned())),
    }
}

/// The names of the limits that are set.
fn set(limits: &Value) -> Vec<String> {
    let rows = limits.as_array().into_iter().flatten();
    let members = rows.filter_map(|row| row["value"].as_object());
    members.flat_map(|members| members.keys().cloned()).collect()
}
