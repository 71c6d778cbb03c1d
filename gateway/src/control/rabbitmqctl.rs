//! RabbitMQ's names of the verbs, for whoever calls the program `gatepostctl` or `rabbitmqctl`.

/// `rabbitmqctl`'s verbs, and the words that say the same here. What follows them stays.
const VERBS: [(&str, &[&str]); 27] = [
    ("list_queues", &["list", "queues"]),
    ("list_exchanges", &["list", "exchanges"]),
    ("list_bindings", &["list", "bindings"]),
    ("list_connections", &["list", "connections"]),
    ("list_channels", &["list", "channels"]),
    ("list_consumers", &["list", "consumers"]),
    ("list_users", &["list", "users"]),
    ("list_vhosts", &["list", "vhosts"]),
    ("list_policies", &["list", "policies"]),
    ("list_permissions", &["permission", "list"]),
    ("list_user_permissions", &["permission", "list", "--user"]),
    ("list_topic_permissions", &["topic-permission", "list"]),
    ("add_user", &["user", "add"]),
    ("delete_user", &["user", "delete"]),
    ("change_password", &["user", "passwd"]),
    ("set_user_tags", &["user", "tags"]),
    ("add_vhost", &["vhost", "add"]),
    ("delete_vhost", &["vhost", "delete"]),
    ("set_permissions", &["permission", "set"]),
    ("clear_permissions", &["permission", "clear"]),
    ("set_topic_permissions", &["topic-permission", "set"]),
    ("clear_topic_permissions", &["topic-permission", "clear"]),
    ("delete_queue", &["queue", "delete"]),
    ("purge_queue", &["queue", "purge"]),
    ("export_definitions", &["definitions", "export"]),
    ("import_definitions", &["definitions", "import"]),
    ("close_connection", &["close", "connection"]),
];

/// The command line in Gatepost's words. One in Gatepost's own words stays as it is.
pub fn translate(arguments: Vec<String>) -> Vec<String> {
    let is_verb = |argument: &String| VERBS.iter().find(|(name, _)| name == argument);
    let Some((at, (_, words))) = arguments
        .iter()
        .enumerate()
        .skip(1)
        .find_map(|(at, argument)| Some((at, is_verb(argument)?)))
    else {
        return arguments;
    };
    // Options that rabbitmqctl takes before its verb.
    let before = arguments.iter().take(at).skip(1).cloned();
    let mut translated: Vec<String> = arguments.iter().take(1).cloned().collect();
    translated.extend(words.iter().map(|word| (*word).to_owned()));
    let mut rest = before.chain(arguments.iter().skip(at + 1).cloned());
    while let Some(argument) = rest.next() {
        match argument.as_str() {
            "-p" => translated.push("--vhost".to_owned()),
            // The only node is this one.
            "-n" => drop(rest.next()),
            "-q" | "-s" => {}
            _ => translated.push(argument),
        }
    }
    translated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_of_rabbitmqctl_become_gateposts() {
        let of = |line: &str| translate(line.split(' ').map(str::to_owned).collect()).join(" ");
        assert_eq!(of("x -n a@b -q list_queues -p v name"), "x list queues --vhost v name");
        assert_eq!(of("x set_permissions ann a b c"), "x permission set ann a b c");
        assert_eq!(of("x list_user_permissions ann"), "x permission list --user ann");
        assert_eq!(of("x user list"), "x user list");
        assert_eq!(of("x"), "x");
    }
}
