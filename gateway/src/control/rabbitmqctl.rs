//! RabbitMQ's names of the verbs, for whoever calls the program `gatepostctl` or `rabbitmqctl`.
//!
//! A line is taken apart into its verb, options and other words, and put together again as Gatepost's verbs take them.
//! Lists have `rabbitmqctl`'s columns, tabs between them, and are of the vhost `/` if no other is named.

/// A verb of `rabbitmqctl`, or of `rabbitmq-diagnostics`.
struct Verb {
    name: &'static str,
    /// The words that say the same here.
    words: &'static [&'static str],
    /// The option that takes the first word after the verb, the second, and so on. Empty: it stays a word.
    places: &'static [&'static str],
    list: Option<List>,
}

/// What is special about a verb that lists.
struct List {
    /// Shown where no column is named.
    columns: &'static [&'static str],
    /// Of one vhost only.
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
    list("list_permissions", &["permission", "list"], &[], true),
    list("list_topic_permissions", &["topic-permission", "list"], &[], true),
    Verb {
        name: "list_user_permissions",
        words: &["permission", "list"],
        places: &["--user"],
        list: Some(List {
            columns: &[],
            in_vhost: false,
        }),
    },
    Verb {
        name: "list_user_topic_permissions",
        words: &["topic-permission", "list"],
        places: &["--user"],
        list: Some(List {
            columns: &[],
            in_vhost: false,
        }),
    },
    list("list_user_limits", &["limit", "list"], &[], false),
    list("list_vhost_limits", &["limit", "list"], &[], false),
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
    verb("delete_queue", &["queue", "delete"]),
    verb("purge_queue", &["queue", "purge"]),
    verb("export_definitions", &["definitions", "export"]),
    verb("import_definitions", &["definitions", "import"]),
    placed("close_connection", &["close", "connection"], &["", "--reason"]),
    placed("close_all_connections", &["close", "all"], &["--reason"]),
    verb("status", &["status"]),
    verb("ping", &["ping"]),
    verb("version", &["version"]),
    verb("stop", &["stop"]),
    verb("await_startup", &["await-startup"]),
    verb("environment", &["environment"]),
    verb("report", &["report"]),
    verb("reload", &["reload"]),
    verb("rotate_logs", &["rotate-logs"]),
    verb("set_log_level", &["set-log-level"]),
    verb("check_config", &["check-config"]),
    verb("check_running", &["health-check", "is-in-service"]),
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

/// Each verb with the words that say the same here.
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
const WITH_VALUE: [&str; 21] = [
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
];

/// The command line in Gatepost's words. One in Gatepost's own words stays as it is.
pub fn translate(arguments: Vec<String>) -> Vec<String> {
    let Some(at) = verb_at(&arguments) else {
        return arguments;
    };
    let Some(verb) = VERBS
        .iter()
        .find(|verb| arguments.get(at).is_some_and(|word| word == verb.name))
    else {
        return arguments;
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
    program.into_iter().chain(verb.say(options, words)).collect()
}

fn is_option(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-')
}

/// Where the first word stands that is neither an option nor an option's value. Later words are names that somebody chose:
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
                // The only node is this one, and there is no banner to leave out.
                "-n" | "--node" | "-q" | "--quiet" | "-l" | "--longnames" | "--local" | "--online" => continue,
                "--formatter" => "--format",
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
        translate(line.split(' ').map(str::to_owned).collect()).join(" ")
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
                "x permission list --format=table --user=ann",
            ),
            (
                "x list_user_permissions -p v ann",
                "x permission list --vhost=v --format=table --user=ann",
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

    /// A queue called `list_users` was listed as users.
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
        let mut names: Vec<&str> = VERBS.iter().map(|verb| verb.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), VERBS.len());
    }
}
