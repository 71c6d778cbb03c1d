//! RabbitMQ's names of the verbs, for a program that is called `gatepostctl` or `rabbitmqctl`.
//!
//! A line is split into its verb, options and other words, and rewritten as Gatepost's verbs expect it. Lists have
//! `rabbitmqctl`'s columns, separated by tabs, and are about the vhost `/` by default.

mod absent;

use crate::exit::Failure;
pub(super) use absent::absent;

/// A verb of `rabbitmqctl`, or of `rabbitmq-diagnostics`.
struct Verb {
    name: &'static str,
    /// The equivalent words of Gatepost.
    words: &'static [&'static str],
    /// The option for the first word after the verb, for the second, and so on. Empty: it stays a word.
    places: &'static [&'static str],
    list: Option<List>,
}

/// Specifics of a verb that lists.
struct List {
    /// The default columns.
    columns: &'static [&'static str],
    /// Lists the objects of one vhost only.
    in_vhost: bool,
}

const fn verb(name: &'static str, words: &'static [&'static str]) -> Verb {
    placed(name, words, &[])
}

const fn placed(name: &'static str, words: &'static [&'static str], places: &'static [&'static str]) -> Verb {
    Verb {
        name,
        words,
        places,
        list: None,
    }
}

const fn list(
    name: &'static str,
    words: &'static [&'static str],
    columns: &'static [&'static str],
    in_vhost: bool,
) -> Verb {
    Verb {
        name,
        words,
        places: &[],
        list: Some(List { columns, in_vhost }),
    }
}

const VERBS: &[Verb] = &[
    list("list_queues", &["list", "queues"], &["name", "messages"], true),
    list("list_exchanges", &["list", "exchanges"], &["name", "type"], true),
    list(
        "list_bindings",
        &["list", "bindings"],
        &[
            "source_name",
            "source_kind",
            "destination_name",
            "destination_kind",
            "routing_key",
            "arguments",
        ],
        true,
    ),
    list(
        "list_connections",
        &["list", "connections"],
        &["user", "peer_host", "peer_port", "state"],
        false,
    ),
    list(
        "list_mqtt_connections",
        &["list", "mqtt-connections"],
        &["client_id", "conn_name"],
        false,
    ),
    // RabbitMQ's default is session_id and conn_name; a session's id is not kept here.
    list(
        "list_stomp_connections",
        &["list", "stomp-connections"],
        &["conn_name", "user"],
        false,
    ),
    list(
        "list_channels",
        &["list", "channels"],
        &["pid", "user", "consumer_count", "messages_unacknowledged"],
        false,
    ),
    list(
        "list_consumers",
        &["list", "consumers"],
        &[
            "queue_name",
            "channel_pid",
            "consumer_tag",
            "ack_required",
            "prefetch_count",
            "active",
            "arguments",
        ],
        true,
    ),
    list("list_users", &["list", "users"], &["user", "tags"], false),
    list("list_vhosts", &["list", "vhosts"], &["name"], false),
    list(
        "list_policies",
        &["list", "policies"],
        &["vhost", "name", "pattern", "apply-to", "definition", "priority"],
        true,
    ),
    list(
        "listeners",
        &["list", "listeners"],
        &["ip_address", "port", "protocol"],
        false,
    ),
    list("list_operator_policies", &["policy", "list", "--operator"], &[], true),
    list(
        "list_permissions",
        &["list", "permissions"],
        &["user", "configure", "write", "read"],
        true,
    ),
    list(
        "list_topic_permissions",
        &["list", "topic-permissions"],
        &["user", "exchange", "write", "read"],
        true,
    ),
    Verb {
        name: "list_user_permissions",
        words: &["list", "permissions"],
        places: &["--where=user"],
        list: Some(List {
            columns: &["vhost", "configure", "write", "read"],
            in_vhost: false,
        }),
    },
    Verb {
        name: "list_user_topic_permissions",
        words: &["list", "topic-permissions"],
        places: &["--where=user"],
        list: Some(List {
            columns: &["vhost", "exchange", "write", "read"],
            in_vhost: false,
        }),
    },
    list("list_user_limits", &["limit", "list", "--of=users"], &[], false),
    list("list_vhost_limits", &["limit", "list", "--of=vhosts"], &[], true),
    placed("authenticate_user", &["user", "authenticate"], &["", "--password"]),
    placed("hash_password", &["user", "hash", "--rabbitmq"], &["--password"]),
    placed("add_user", &["user", "add"], &["", "--password"]),
    verb("delete_user", &["user", "delete"]),
    placed("change_password", &["user", "passwd"], &["", "--password"]),
    verb("clear_password", &["user", "passwd", "--no-password"]),
    verb("set_user_tags", &["user", "tags"]),
    verb("add_vhost", &["vhost", "add"]),
    verb("delete_vhost", &["vhost", "delete"]),
    verb("set_permissions", &["permission", "set"]),
    verb("clear_permissions", &["permission", "clear"]),
    verb("set_topic_permissions", &["topic-permission", "set"]),
    placed(
        "clear_topic_permissions",
        &["topic-permission", "clear"],
        &["", "--exchange"],
    ),
    verb("set_policy", &["policy", "set"]),
    verb("clear_policy", &["policy", "clear"]),
    verb("set_operator_policy", &["policy", "set", "--operator"]),
    verb("clear_operator_policy", &["policy", "clear", "--operator"]),
    Verb {
        name: "set_vhost_limits",
        words: &["limit", "set"],
        places: &["--all"],
        list: Some(List {
            columns: &[],
            in_vhost: true,
        }),
    },
    list("clear_vhost_limits", &["limit", "clear"], &[], true),
    placed("set_user_limits", &["limit", "set"], &["--user", "--all"]),
    placed("clear_user_limits", &["limit", "clear"], &["--user"]),
    verb("set_parameter", &["parameter", "set"]),
    verb("clear_parameter", &["parameter", "clear"]),
    list("list_parameters", &["parameter", "list"], &[], true),
    verb("set_global_parameter", &["parameter", "set-global"]),
    verb("clear_global_parameter", &["parameter", "clear-global"]),
    list("list_global_parameters", &["parameter", "list-global"], &[], false),
    verb("set_cluster_name", &["cluster-name"]),
    verb("set_vhost_tags", &["vhost", "tags"]),
    list("memory_breakdown", &["memory"], &[], false),
    verb("delete_queue", &["queue", "delete"]),
    verb("purge_queue", &["queue", "purge"]),
    verb("export_definitions", &["definitions", "export"]),
    verb("import_definitions", &["definitions", "import"]),
    placed("close_connection", &["close", "connection"], &["", "--reason"]),
    placed("close_all_connections", &["close", "all"], &["--reason"]),
    placed("close_all_user_connections", &["close", "user"], &["", "--reason"]),
    verb("status", &["status"]),
    verb("ping", &["ping"]),
    verb("version", &["version"]),
    verb("stop", &["stop"]),
    verb("shutdown", &["stop"]),
    verb("await_startup", &["await-startup"]),
    verb("environment", &["environment"]),
    verb("report", &["report"]),
    verb("reload", &["reload"]),
    verb("rotate_logs", &["rotate-logs"]),
    verb("set_log_level", &["set-log-level"]),
    verb("check_config", &["check-config"]),
    verb("check_running", &["health-check", "is-in-service"]),
    verb("is_running", &["health-check", "is-in-service"]),
    verb(
        "check_if_node_is_quorum_critical",
        &["health-check", "node-is-quorum-critical"],
    ),
    verb(
        "check_if_node_is_mirror_sync_critical",
        &["health-check", "node-is-mirror-sync-critical"],
    ),
    verb("check_alarms", &["health-check", "alarms"]),
    verb("check_local_alarms", &["health-check", "local-alarms"]),
    verb("check_port_listener", &["health-check", "port-listener"]),
    verb("check_protocol_listener", &["health-check", "protocol-listener"]),
    verb("check_virtual_hosts", &["health-check", "virtual-hosts"]),
    verb(
        "check_certificate_expiration",
        &["health-check", "certificate-expiration"],
    ),
];

/// Each verb with the equivalent words of Gatepost.
pub(super) fn verbs() -> impl Iterator<Item = (String, String)> {
    VERBS.iter().map(|verb| {
        let options = verb.places.iter().filter(|option| !option.is_empty());
        let options = options.map(|option| format!("{option}=..."));
        let words = verb.words.iter().map(|word| (*word).to_owned()).chain(options);
        (
            verb.name.to_owned(),
            format!("gatepost {}", words.collect::<Vec<_>>().join(" ")),
        )
    })
}

/// Options whose value may be the next word.
const WITH_VALUE: [&str; 24] = [
    "-p",
    "--vhost",
    "-n",
    "--node",
    "-t",
    "--timeout",
    "--formatter",
    "--format",
    "--config",
    "--data",
    "--url",
    "--uri",
    "--login",
    "--login-file",
    "--ca",
    "--apply-to",
    "--priority",
    "--description",
    "--reason",
    "--user",
    "--unit",
    "--within",
    "--tags",
    "--default-queue-type",
];

/// The command line in Gatepost's words. Gatepost's own verbs stay unchanged.
///
/// # Errors
/// The verb is one of RabbitMQ's without a counterpart here. The text says what to use instead.
pub fn translate(arguments: Vec<String>) -> Result<Vec<String>, Failure> {
    let Some(at) = verb_at(&arguments) else {
        return Ok(arguments);
    };
    let name = arguments.get(at).map(String::as_str).unwrap_or_default();
    let Some(verb) = VERBS.iter().find(|verb| name == verb.name) else {
        return match absent::instead_of(name) {
            Some(instead) => Err(Failure::Usage(format!("{name}: {instead}"))),
            None => Ok(arguments),
        };
    };
    let mut rest = arguments.iter().enumerate().skip(1).filter(|(n, _)| *n != at);
    let (mut options, mut words) = (Vec::new(), Vec::new());
    while let Some((_, word)) = rest.next() {
        if word == "--" {
            words.extend(rest.by_ref().map(|(_, word)| word.clone()));
        } else if !is_option(word) {
            words.push(word.clone());
        } else if WITH_VALUE.contains(&word.as_str()) {
            options.push((word.clone(), rest.next().map(|(_, value)| value.clone())));
        } else {
            let (name, value) = word
                .split_once('=')
                .map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
            options.push((name.to_owned(), value.map(str::to_owned)));
        }
    }
    let program = arguments.first().cloned();
    Ok(program.into_iter().chain(verb.say(options, words)).collect())
}

fn is_option(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-')
}

/// Position of the first word that is neither an option nor an option's value. Later words are names that users chose:
/// a queue may be called `list_users`.
fn verb_at(arguments: &[String]) -> Option<usize> {
    let mut at = 1;
    loop {
        let word = arguments.get(at)?;
        if !is_option(word) {
            return Some(at);
        }
        at += if WITH_VALUE.contains(&word.as_str()) { 2 } else { 1 };
    }
}

impl Verb {
    fn say(&self, options: Vec<(String, Option<String>)>, words: Vec<String>) -> Vec<String> {
        let mut said: Vec<String> = self.words.iter().map(|word| (*word).to_owned()).collect();
        let (mut has_vhost, mut has_format) = (false, false);
        for (name, value) in options {
            let name = match name.as_str() {
                "-p" | "--vhost" => "--vhost",
                "-t" | "--timeout" => "--timeout",
                "-s" | "--silent" | "--no-table-headers" => "--no-headers",
                // There is only this node, and no banner to leave out.
                "-n" | "--node" | "-q" | "--quiet" | "-l" | "--longnames" | "--local" | "--online" => continue,
                "--formatter" => "--format",
                // For all vhosts or users, instead of one.
                "--global" => {
                    has_vhost = true;
                    continue;
                }
                name => name,
            };
            has_vhost |= name == "--vhost";
            has_format |= matches!(name, "--format" | "--json");
            said.push(match value {
                // One word, so that a value may begin with a hyphen.
                Some(value) if name.starts_with("--") => format!("{name}={value}"),
                Some(value) => format!("{name}{value}"),
                None => name.to_owned(),
            });
        }
        if let Some(list) = &self.list {
            if list.in_vhost && !has_vhost {
                said.push("--vhost=/".to_owned());
            }
            if !has_format {
                said.push("--format=table".to_owned());
            }
        }
        let mut left = Vec::new();
        for (n, word) in words.into_iter().enumerate() {
            match self.places.get(n) {
                Some(option) if !option.is_empty() => said.push(format!("{option}={word}")),
                _ => left.push(word),
            }
        }
        if let (Some(list), true) = (&self.list, left.is_empty()) {
            left.extend(list.columns.iter().map(|column| (*column).to_owned()));
        }
        if left.iter().any(|word| is_option(word)) {
            said.push("--".to_owned());
        }
        said.extend(left);
        said
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> String {
        let words = translate(line.split(' ').map(str::to_owned).collect());
        words.expect("a verb that is there").join(" ")
    }

    #[test]
    fn verbs_of_rabbitmqctl_become_gateposts() {
        for (rabbitmq, ours) in [
            (
                "x -n a@b -q list_queues -p v name",
                "x list queues --vhost=v --format=table name",
            ),
            ("x list_queues", "x list queues --vhost=/ --format=table name messages"),
            (
                "x list_users --formatter json -s",
                "x list users --format=json --no-headers user tags",
            ),
            ("x set_permissions ann a b c", "x permission set ann a b c"),
            (
                "x list_user_permissions ann",
                "x list permissions --format=table --where=user=ann vhost configure write read",
            ),
            (
                "x list_user_permissions -p v ann",
                "x list permissions --vhost=v --format=table --where=user=ann vhost configure write read",
            ),
            ("x add_user ann secret", "x user add --password=secret ann"),
            ("x add_user -- ann -- b", "x user add --password=-- ann b"),
            (
                "x clear_topic_permissions -p v ann amq.topic",
                "x topic-permission clear --vhost=v --exchange=amq.topic ann",
            ),
            (
                "x close_connection a:1->b:2 going",
                "x close connection --reason=going a:1->b:2",
            ),
            (
                "x set_policy -p v --priority 3 --apply-to queues p ^a {}",
                "x policy set --vhost=v --priority=3 --apply-to=queues p ^a {}",
            ),
            ("x delete_queue -- -odd", "x queue delete -- -odd"),
            ("x -q -t 5 status", "x status --timeout=5"),
            ("x list_queues -p", "x list queues --vhost --format=table name messages"),
        ] {
            assert_eq!(of(rabbitmq), ours);
        }
    }

    /// The bug: a queue called `list_users` was listed as users.
    #[test]
    fn only_the_first_word_is_a_verb() {
        for line in [
            "x user list",
            "x queue delete list_users",
            "x publish amq.default q list_queues",
            "x --config list_queues user list",
            "x -h",
            "x",
        ] {
            assert_eq!(of(line), line);
        }
        assert_eq!(of("x delete_queue list_users"), "x queue delete list_users");
    }

    #[test]
    fn no_verb_is_there_twice() {
        let names = VERBS.iter().map(|verb| verb.name);
        let mut names: Vec<&str> = names.chain(absent().map(|(name, _)| name)).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    /// The verbs that `rabbitmqctl help` and `rabbitmq-diagnostics help` of RabbitMQ 3.10.8 list.
    const RABBITMQ: &str = include_str!("rabbitmqctl/verbs-3.10.txt");

    #[test]
    fn every_verb_of_rabbitmqctl_is_there_or_says_what_to_use() {
        for name in RABBITMQ.lines() {
            let is_there = VERBS.iter().any(|verb| verb.name == name) || name == "help";
            assert!(is_there || absent::instead_of(name).is_some(), "{name}");
        }
        let refused = translate(vec!["x".to_owned(), "-q".to_owned(), "join_cluster".to_owned()]);
        let text = refused.expect_err("no cluster").to_string();
        assert!(
            text.starts_with("join_cluster: ") && text.contains("one node"),
            "{text}"
        );
    }
}
