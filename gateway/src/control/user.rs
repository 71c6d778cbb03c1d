//! `gatepost user`.

use super::client::Client;
use super::table::Output;
use super::{Listed, list, password};
use crate::directory::password::{Cost, PasswordHash, Workspace};
use crate::exit::Failure;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum User {
    /// Create a user. It has no rights before `gatepost permission set`
    Add {
        name: String,
        #[command(flatten)]
        password: Password,
        /// Such as administrator; may be given several times
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<String>,
    },
    /// Delete a user with its permissions, and end its connections
    Delete { name: String },
    /// List the users
    List,
    /// Change a user's password. Its connections stay open
    Passwd {
        name: String,
        #[command(flatten)]
        password: Password,
    },
    /// Replace a user's tags; without any, all are removed
    Tags { name: String, tags: Vec<String> },
    /// Check a user's password as a login does. Exit code 65: it is wrong, or there is no such user
    Authenticate {
        name: String,
        /// The first line of this file is the password
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// The password itself. Other users of this machine see it in the list of processes
        #[arg(long, value_name = "PASSWORD", conflicts_with = "password_file")]
        password: Option<String>,
    },
    /// Print the hash of a password, for `gatepost user add --hash` and for definitions. Needs no gateway
    Hash(Hashing),
}

/// How a password is given. Without options it is asked for on the terminal, or read from the first line of standard input.
#[derive(Args, Debug)]
pub struct Password {
    /// The first line of this file is the password
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The password itself. Other users of this machine see it in the list of processes
    #[arg(long, value_name = "PASSWORD", conflicts_with_all = ["password_file", "hash"])]
    password: Option<String>,
    /// A hash that another broker exported, instead of a password
    #[arg(long, value_name = "HASH", conflicts_with = "password_file")]
    hash: Option<String>,
    /// The hash's algorithm, such as rabbit_password_hashing_sha256; not needed for a hash that begins with $
    #[arg(long, value_name = "NAME", requires = "hash", default_value = "")]
    algorithm: String,
    /// No password: the user logs in by certificate only
    #[arg(long, conflicts_with_all = ["password_file", "password", "hash"])]
    no_password: bool,
}

/// The password to hash, and the format.
#[derive(Args, Debug)]
pub struct Hashing {
    /// The first line of this file is the password. Without it, it is asked for, or read from standard input
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The password itself. Other users of this machine see it in the list of processes
    #[arg(long, value_name = "PASSWORD", conflicts_with = "password_file")]
    password: Option<String>,
    /// In RabbitMQ's format, which this gateway reads too: salted SHA-256. Passwords are far easier to guess from it
    /// than from argon2id
    #[arg(long)]
    rabbitmq: bool,
}

impl User {
    /// Whether a running gateway is needed.
    pub(super) fn must_run(&self) -> bool {
        matches!(self, User::Authenticate { .. })
    }
}

pub(super) async fn act(verb: &User, client: &mut Client) -> Result<Listed, Failure> {
    match verb {
        User::Add { name, password, tags } => {
            let mut body = password.body()?;
            body["tags"] = json!(tags);
            client.make(&["users", name], &body).await?;
        }
        User::Delete { name } => client.delete(&["users", name]).await?,
        User::List => return list(client, &["users"], &["name", "tags"]).await,
        User::Passwd { name, password } => {
            client.patch(&["users", name], &password.body()?).await?;
        }
        User::Authenticate {
            name,
            password,
            password_file,
        } => {
            let password = given(password.as_deref(), password_file.as_deref())?;
            let body = json!({ "name": name, "password": password });
            client.post(&["gatepost", "authenticate"], &body).await?;
        }
        // It needs no gateway, and was done before.
        User::Hash(_) => {}
        User::Tags { name, tags } => client.patch(&["users", name], &json!({ "tags": tags })).await?,
    }
    Ok(None)
}

fn given(password: Option<&str>, file: Option<&Path>) -> Result<String, Failure> {
    password.map_or_else(|| password::read(file), |password| Ok(password.to_owned()))
}

impl Password {
    /// The members for the request's body.
    fn body(&self) -> Result<Value, Failure> {
        if self.no_password {
            return Ok(json!({ "password_hash": "" }));
        }
        if let Some(hash) = &self.hash {
            return Ok(json!({ "password_hash": hash, "hashing_algorithm": self.algorithm }));
        }
        let password = given(self.password.as_deref(), self.password_file.as_deref())?;
        Ok(json!({ "password": password }))
    }
}

impl Hashing {
    /// A line with the hash: argon2id with a gateway's default costs, or RabbitMQ's format.
    pub(super) fn hash(&self) -> Result<Output, Failure> {
        let password = given(self.password.as_deref(), self.password_file.as_deref())?;
        let text = if self.rabbitmq {
            let made = PasswordHash::make_rabbit(password.as_bytes());
            STANDARD.encode(made.record().1)
        } else {
            let made = PasswordHash::make(password.as_bytes(), Cost::default(), &mut Workspace::default());
            String::from_utf8_lossy(&made.record().1).into_owned()
        };
        Ok(Output::Text(text + "\n"))
    }
}
