//! The commands that manage users and rights (`gatepost user`, `vhost`, `permission`, `topic-permission`, `limit`, `ban`) and
//! definitions (`policy`, `queue`, `exchange`, `binding`, `definitions`), and those that show the state (`status`, `list`,
//! `health`, `get`).
//!
//! Each command is one or two requests to the management API. If a gateway runs, they go to its control socket. If none runs,
//! the same handlers work on the data directory, which is locked meanwhile.

mod asking;
mod backup;
mod client;
mod completions;
mod declaring;
mod definitions;
mod health;
mod limits;
mod listing;
mod memory;
mod messages;
mod pages;
mod parameter;
mod password;
mod policy;
mod process;
mod rabbitmqctl;
mod table;
mod target;
mod top;
mod trace;
mod user;
mod vhost;

use crate::config::Layers;
use crate::exit::{Failure, print};
pub use asking::Close;
pub use backup::restore;
use clap::{Args, Subcommand};
use client::Client;
pub use completions::{Shell, completions};
pub use declaring::{Binding, Exchange, Queue};
pub use definitions::Definitions;
pub use health::Checks;
pub use listing::{Kind, Listing};
pub use messages::{Fetch, Outgoing};
pub use pages::{ctl_manual, manual, reference};
pub use parameter::Parameter;
pub use policy::Policy;
pub use rabbitmqctl::translate;
use serde_json::{Value, json};
use std::path::PathBuf;
use table::Output;
pub use target::{Format, Target};
pub use top::{By, Watching};
pub use trace::Trace;
pub use user::User;
pub use vhost::Vhost;

/// What to manage.
#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum Verb {
    /// Check that a running gateway serves clients. Exit code 0: it does
    Ping {
        #[command(flatten)]
        target: Target,
    },
    /// Show the state of a running gateway: version, numbers of objects, memory, disk, listeners
    Status {
        #[command(flatten)]
        target: Target,
    },
    /// Show the memory of a running gateway: use by kind of object, and use and limit of each part of the budget
    Memory {
        #[command(flatten)]
        target: Target,
    },
    /// Show rates, queues and connections of a running gateway, refreshed every few seconds. Ctrl-C ends it
    Top {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        top: Watching,
    },
    /// Make a running gateway read its configuration, certificates and log file again, as SIGHUP does, and print the
    /// changes
    ///
    /// All or nothing. Exit code 78: the configuration is wrong; the errors are printed, and nothing changes.
    Reload {
        #[command(flatten)]
        target: Target,
    },
    /// Make a running gateway open its log file again, after the old one was moved away
    RotateLogs {
        #[command(flatten)]
        target: Target,
    },
    /// Set log.level of a running gateway, until its next reload or start
    SetLogLevel {
        #[command(flatten)]
        target: Target,
        /// Such as debug, or info,gatepost_mqtt=debug
        level: String,
    },
    /// Stop a gateway that runs on this machine, and wait until it has stopped
    Stop {
        #[command(flatten)]
        target: Target,
    },
    /// Wait until a gateway serves clients. Exit code 75: it did not within --timeout
    AwaitStartup {
        #[command(flatten)]
        target: Target,
    },
    /// Print the configuration of a running gateway
    Environment {
        #[command(flatten)]
        target: Target,
        /// Only keys that differ from their defaults
        #[arg(long)]
        changed: bool,
    },
    /// Print information for diagnosis: status, configuration, counts, and the newest lines of the log
    Report {
        #[command(flatten)]
        target: Target,
    },
    /// List objects, with the given columns
    List {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        list: Listing,
    },
    /// Close connections
    Close {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: Close,
    },
    /// Publish a message. Exit code 65: it was routed to no queue
    Publish {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        message: Outgoing,
    },
    /// Fetch the messages at the head of a queue, and requeue or remove them
    Get {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        messages: Fetch,
    },
    /// Follow single messages through a running gateway: each hop with its time
    Trace {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: Trace,
    },
    /// Run one health check of the management API. Exit code 69: it fails
    HealthCheck {
        #[command(flatten)]
        target: Target,
        /// alarms, local-alarms, is-in-service, virtual-hosts, port-listener PORT, protocol-listener NAME or
        /// certificate-expiration
        #[arg(required = true)]
        check: Vec<String>,
        /// For certificate-expiration: the unit of its number
        #[arg(long, default_value = "weeks", value_parser = ["days", "weeks", "months", "years"])]
        unit: String,
        /// For certificate-expiration: its number, if it is not among the words
        #[arg(long, value_name = "NUMBER")]
        within: Option<u64>,
    },
    /// Check a running gateway, for monitoring: service, alarms of memory and disk, connections, certificates
    ///
    /// Prints one line. Exit codes are those of monitoring plugins: 0 all is well; 1 warning; 2 critical; 3 unknown,
    /// the gateway does not answer.
    Health {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        health: Checks,
    },
    /// Manage users of a running gateway, or of its data directory if none runs
    User {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: User,
    },
    /// Manage vhosts
    Vhost {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: Vhost,
    },
    /// Manage what users may do in a vhost
    Permission {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: Permission,
    },
    /// Manage which topics of an exchange users may write to and read from
    TopicPermission {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: TopicPermission,
    },
    /// Manage limits of users and vhosts
    Limit {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: Limit,
    },
    /// Ban addresses, users or clients from a running gateway
    Ban {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: Ban,
    },
    /// Manage policies, which set arguments of queues and exchanges by their names
    Policy {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: Policy,
    },
    /// Manage parameters of vhosts, and global parameters
    Parameter {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: Parameter,
    },
    /// Print the name of the cluster, or set it. It is kept over a restart, and takes precedence over node.cluster_name
    ClusterName {
        #[command(flatten)]
        target: Target,
        /// The new name
        name: Option<String>,
    },
    /// Create, delete and purge queues
    Queue {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: Queue,
    },
    /// Create and delete exchanges
    Exchange {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: Exchange,
    },
    /// Create bindings
    Binding {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: Binding,
    },
    /// Write a copy of the data directory to a file, whether the gateway runs or is stopped
    ///
    /// The file is a tar archive that only its owner can read. It contains everything that was confirmed before the
    /// command began. `gatepost restore` makes a data directory from it.
    Backup {
        #[command(flatten)]
        target: Target,
        /// The file to create, or - for standard output; an existing file is not changed
        file: PathBuf,
    },
    /// Export and import all definitions as JSON in RabbitMQ's format: users with their hashes, vhosts, permissions,
    /// policies, queues, exchanges, bindings
    Definitions {
        #[command(flatten)]
        target: Target,
        #[command(subcommand)]
        verb: Definitions,
    },
}

#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum Permission {
    /// Set what a user may do in a vhost: regular expressions over names of queues and exchanges
    Set {
        user: String,
        /// What it may declare and delete; ".*" is everything, "" nothing
        configure: String,
        /// What it may publish to, and bind
        write: String,
        /// What it may consume from, and bind to
        read: String,
        #[arg(long, default_value = "/")]
        vhost: String,
    },
    /// Remove a user's permissions in a vhost
    Clear {
        user: String,
        #[arg(long, default_value = "/")]
        vhost: String,
    },
    /// List permissions
    List {
        /// Of one user
        #[arg(long)]
        user: Option<String>,
        /// In one vhost
        #[arg(long)]
        vhost: Option<String>,
    },
}

#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum TopicPermission {
    /// Limit the topics of an exchange for a user: topic filters such as {username}/#, one a line, which may contain {username},
    /// {client_id} and {vhost}
    Set {
        user: String,
        /// Such as amq.topic, which MQTT uses
        exchange: String,
        write: String,
        read: String,
        #[arg(long, default_value = "/")]
        vhost: String,
    },
    /// Remove the limits of topics
    Clear {
        user: String,
        /// Of one exchange only
        #[arg(long)]
        exchange: Option<String>,
        #[arg(long, default_value = "/")]
        vhost: String,
    },
    /// List topic permissions
    List {
        /// Of one user
        #[arg(long)]
        user: Option<String>,
        /// In one vhost
        #[arg(long)]
        vhost: Option<String>,
    },
}

/// The user or vhost that limits are for.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct Whose {
    /// Of a user: max-connections, max-channels
    #[arg(long)]
    user: Option<String>,
    /// Of a vhost: max-connections, max-queues
    #[arg(long)]
    vhost: Option<String>,
}

#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum Limit {
    /// Set a limit
    Set {
        #[command(flatten)]
        whose: Whose,
        #[arg(required_unless_present = "all")]
        name: Option<String>,
        #[arg(allow_hyphen_values = true, required_unless_present = "all")]
        value: Option<i64>,
        /// Several at once, as JSON, such as {"max-connections": 5}
        #[arg(long, value_name = "JSON", conflicts_with_all = ["name", "value"])]
        all: Option<String>,
    },
    /// Remove a limit
    Clear {
        #[command(flatten)]
        whose: Whose,
        /// Without it, or `all`: all of them
        name: Option<String>,
    },
    /// List limits
    List {
        /// Of one user
        #[arg(long)]
        user: Option<String>,
        /// Of one vhost
        #[arg(long, conflicts_with = "user")]
        vhost: Option<String>,
        /// Those of all users, or of all vhosts
        #[arg(long, value_parser = ["users", "vhosts"])]
        of: Option<String>,
    },
}

#[derive(Subcommand, Debug)]
#[expect(missing_docs, reason = "each says so to whoever asks for help")]
pub enum Ban {
    /// Ban an address, user or client until the gateway stops. (For permanent bans use the section `protection` of the
    /// configuration.)
    Add {
        /// address, user or client
        kind: String,
        value: String,
        /// Duration of the ban in seconds
        #[arg(long, value_name = "SECONDS")]
        seconds: Option<u64>,
    },
    /// Remove a ban, including one for failed logins
    Delete {
        /// address, user or client
        kind: String,
        value: String,
    },
    /// List bans
    List,
}

impl Verb {
    /// Whether the verb needs a running gateway.
    fn must_run(&self) -> bool {
        match self {
            Verb::List { list, .. } => list.must_run(),
            Verb::User { verb, .. } => verb.must_run(),
            Verb::Memory { .. } => true,
            Verb::Reload { .. } | Verb::RotateLogs { .. } | Verb::SetLogLevel { .. } | Verb::Stop { .. } => true,
            Verb::AwaitStartup { .. } | Verb::Environment { .. } | Verb::Report { .. } | Verb::Top { .. } => true,
            Verb::Ban { .. } | Verb::Ping { .. } | Verb::Status { .. } | Verb::Close { .. } => true,
            Verb::Trace { .. }
            | Verb::Publish { .. }
            | Verb::Get { .. }
            | Verb::Health { .. }
            | Verb::HealthCheck { .. } => true,
            _ => false,
        }
    }

    fn target(&self) -> &Target {
        match self {
            Verb::Ping { target }
            | Verb::Status { target }
            | Verb::Reload { target }
            | Verb::RotateLogs { target }
            | Verb::SetLogLevel { target, .. }
            | Verb::Stop { target }
            | Verb::AwaitStartup { target }
            | Verb::Environment { target, .. }
            | Verb::Report { target }
            | Verb::Top { target, .. }
            | Verb::List { target, .. }
            | Verb::Close { target, .. }
            | Verb::Publish { target, .. }
            | Verb::Get { target, .. }
            | Verb::Trace { target, .. }
            | Verb::Health { target, .. }
            | Verb::HealthCheck { target, .. }
            | Verb::User { target, .. }
            | Verb::Vhost { target, .. }
            | Verb::Permission { target, .. }
            | Verb::TopicPermission { target, .. }
            | Verb::Limit { target, .. }
            | Verb::Ban { target, .. }
            | Verb::Policy { target, .. }
            | Verb::Parameter { target, .. }
            | Verb::ClusterName { target, .. }
            | Verb::Memory { target }
            | Verb::Queue { target, .. }
            | Verb::Exchange { target, .. }
            | Verb::Binding { target, .. }
            | Verb::Backup { target, .. }
            | Verb::Definitions { target, .. } => target,
        }
    }
}

/// Runs a command. The command's own options take precedence over `layers`.
///
/// # Errors
/// The request was refused, or there is no gateway. Then nothing was changed.
pub fn run(verb: &Verb, layers: Layers) -> Result<(), Failure> {
    let output = match (verb, execute(verb, layers)) {
        // A monitoring system takes any other code for a broken plugin.
        (Verb::Health { .. }, Err(failure)) => health::unknown(&failure),
        (_, output) => output?,
    };
    let target = verb.target();
    print(&output.text(target.format(), !target.no_headers))?;
    match output {
        Output::Verdict { code: code @ 1.., .. } => Err(Failure::Check(code)),
        _ => Ok(()),
    }
}

fn execute(verb: &Verb, mut layers: Layers) -> Result<Output, Failure> {
    let target = verb.target();
    layers.file = target.config.clone().or(layers.file);
    layers.data = target.data.clone().or(layers.data);
    if let Verb::User {
        verb: User::Hash(hashing),
        ..
    } = verb
    {
        return hashing.hash();
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Internal(format!("cannot start a runtime: {error}")))?;
    runtime.block_on(async {
        if let Verb::AwaitStartup { .. } = verb {
            return process::await_startup(&layers, target).await;
        }
        let mut client = Client::reach(&layers, target, verb.must_run()).await?;
        let done = match verb {
            Verb::Stop { .. } => process::stop(&layers, target, &mut client).await,
            verb => ask(verb, &mut client).await,
        };
        // Changes are synced already. Closing releases the lock of the data directory.
        client.close().await;
        done
    })
}

/// A list to print, and the columns to show.
type Listed = Option<(&'static [&'static str], Value)>;

async fn ask(verb: &Verb, client: &mut Client) -> Result<Output, Failure> {
    match verb {
        Verb::Status { .. } => asking::status(client).await,
        Verb::List { list, .. } => listing::list(list, client).await,
        Verb::Close { verb, .. } => asking::close(verb, client).await,
        Verb::Publish { message, .. } => messages::publish(message, client).await,
        Verb::Get { messages, .. } => messages::get(messages, client).await,
        Verb::Trace { target, verb } => trace::act(verb, target.format(), client).await,
        Verb::Health { health, .. } => health::health(health, client).await,
        Verb::HealthCheck {
            check, unit, within, ..
        } => health::one(check, (*within, unit), client).await,
        Verb::Reload { .. } => process::reload(client).await,
        Verb::RotateLogs { .. } => process::rotate_logs(client).await,
        Verb::SetLogLevel { level, .. } => process::set_log_level(level, client).await,
        Verb::Environment { changed, .. } => process::environment(*changed, client).await,
        Verb::Top { top, .. } => top::top(top, client).await.map(|()| Output::Nothing),
        Verb::Report { target } => process::report(target.format(), client).await,
        Verb::Ping { .. } => {
            client.get(&["whoami"]).await?;
            Ok(Output::Nothing)
        }
        verb => Ok(match manage(verb, client).await? {
            Some((columns, rows)) => Output::List {
                columns: columns.iter().map(|name| (*name).to_owned()).collect(),
                rows,
                is_chosen: false,
            },
            None => Output::Nothing,
        }),
    }
}

async fn manage(verb: &Verb, client: &mut Client) -> Result<Listed, Failure> {
    match verb {
        Verb::User { verb, .. } => user::act(verb, client).await,
        Verb::Vhost { verb, .. } => vhost::act(verb, client).await,
        Verb::Permission { verb, .. } => permission(verb, client).await,
        Verb::TopicPermission { verb, .. } => topic_permission(verb, client).await,
        Verb::Limit { verb, .. } => limits::act(verb, client).await,
        Verb::Ban { verb, .. } => ban(verb, client).await,
        Verb::Policy { verb, .. } => policy::act(verb, client).await,
        Verb::Parameter { verb, .. } => parameter::act(verb, client).await,
        Verb::ClusterName { name, .. } => parameter::cluster_name(name.as_deref(), client).await,
        Verb::Memory { .. } => memory::accounts(client).await,
        Verb::Queue { verb, .. } => declaring::queue(verb, client).await,
        Verb::Exchange { verb, .. } => declaring::exchange(verb, client).await,
        Verb::Binding { verb, .. } => declaring::binding(verb, client).await,
        Verb::Backup { file, .. } => backup::backup(file, client).await.map(|()| None),
        Verb::Definitions { verb, .. } => definitions::act(verb, client).await,
        // These ask, and manage nothing.
        _ => Ok(None),
    }
}

async fn permission(verb: &Permission, client: &mut Client) -> Result<Listed, Failure> {
    match verb {
        Permission::Set {
            user,
            configure,
            write,
            read,
            vhost,
        } => {
            let body = json!({ "configure": configure, "write": write, "read": read });
            client.put(&["permissions", vhost, user], &body).await?;
        }
        Permission::Clear { user, vhost } => client.delete(&["permissions", vhost, user]).await?,
        Permission::List { user, vhost } => {
            let columns = &["user", "vhost", "configure", "write", "read"];
            return filtered(client, "permissions", columns, user.as_deref(), vhost.as_deref()).await;
        }
    }
    Ok(None)
}

async fn topic_permission(verb: &TopicPermission, client: &mut Client) -> Result<Listed, Failure> {
    match verb {
        TopicPermission::Set {
            user,
            exchange,
            write,
            read,
            vhost,
        } => {
            let body = json!({ "exchange": exchange, "write": write, "read": read });
            client.put(&["topic-permissions", vhost, user], &body).await?;
        }
        TopicPermission::Clear { user, exchange, vhost } => match exchange {
            Some(exchange) => client.delete(&["topic-permissions", vhost, user, exchange]).await?,
            None => client.delete(&["topic-permissions", vhost, user]).await?,
        },
        TopicPermission::List { user, vhost } => {
            let columns = &["user", "vhost", "exchange", "write", "read"];
            return filtered(client, "topic-permissions", columns, user.as_deref(), vhost.as_deref()).await;
        }
    }
    Ok(None)
}

async fn ban(verb: &Ban, client: &mut Client) -> Result<Listed, Failure> {
    match verb {
        Ban::Add { kind, value, seconds } => {
            let body = seconds.map_or(json!({}), |seconds| json!({ "seconds": seconds }));
            client.put(&["bans", kind, value], &body).await?;
        }
        Ban::Delete { kind, value } => client.delete(&["bans", kind, value]).await?,
        Ban::List => return list(client, &["bans"], &["kind", "value", "origin", "seconds_left"]).await,
    }
    Ok(None)
}

async fn list(client: &mut Client, path: &[&str], columns: &'static [&'static str]) -> Result<Listed, Failure> {
    Ok(Some((columns, client.get(path).await?)))
}

/// The list, filtered by user and vhost.
async fn filtered(
    client: &mut Client,
    kind: &str,
    columns: &'static [&'static str],
    user: Option<&str>,
    vhost: Option<&str>,
) -> Result<Listed, Failure> {
    let mut all = client.get(&[kind]).await?;
    let is = |entry: &Value, key: &str, wanted: Option<&str>| {
        wanted.is_none_or(|wanted| entry.get(key).and_then(Value::as_str) == Some(wanted))
    };
    if let Some(entries) = all.as_array_mut() {
        entries.retain(|entry| is(entry, "user", user) && is(entry, "vhost", vhost));
    }
    Ok(Some((columns, all)))
}
