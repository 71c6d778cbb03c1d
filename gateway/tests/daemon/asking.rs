//! Command-line verbs against a running gateway: `gatepost list`, `status`, `publish`, `get`, `close`, `health`, and
//! the same as `gatepostctl`.

use crate::control::{command_line, control, try_control};
use crate::support::Gatepost;
use crate::support::amqp::Amqp;
use crate::support::daemon::{free_port, run};
use crate::support::mqtt::Mqtt;
use crate::support::raw::{eventually, read_to_end, tcp};
use crate::support::stomp::Stomp;
use crate::support::tls::Authority;
use serde_json::Value;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::process::Output;

/// The same as `gatepostctl`; returns standard output alone.
fn ctl(gatepost: &Gatepost, arguments: &[&str]) -> (Option<i32>, String, String) {
    let config = gatepost.config();
    let at = ["--config", config.to_str().expect("a path in Unicode")];
    said(&command_line("gatepostctl", &[&at, arguments].concat(), ""))
}

fn said(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn verbs_ask_a_running_gateway_and_list_declarations_of_a_stopped_one() {
    let mut gatepost = Gatepost::with(1, "");
    let say = |arguments: &[&str]| control(&gatepost, arguments, "");
    let told = say(&["status"]);
    assert!(told.contains("product") && told.contains("Gatepost"), "{told}");
    say(&["queue", "declare", "asked"]);
    say(&["publish", "amq.default", "asked", "hello"]);
    let nowhere = try_control(&gatepost, &["publish", "amq.default", "nobody", "x"], "");
    assert_eq!(nowhere.0, Some(65), "{}", nowhere.1);
    assert!(say(&["get", "asked"]).contains("hello"));
    assert!(say(&["get", "asked", "--remove"]).contains("hello"));
    assert!(!say(&["get", "asked"]).contains("hello"));
    let told = say(&["list", "queues", "name", "--where", "name=asked"]);
    assert_eq!(told, "name\nasked\n");
    let client = Mqtt::open(gatepost.mqtt, "asked-client", true);
    let told = say(&["list", "sessions", "client_id"]);
    assert!(told.contains("asked-client"), "{told}");
    let user = say(&["list", "connections", "user"]);
    let user = user.lines().nth(1).expect("a connection");
    say(&["close", "user", user, "--reason", "for the test"]);
    assert_eq!(read_to_end(client.stream), b"");
    let client = Mqtt::open(gatepost.mqtt, "asked-again", true);
    say(&["close", "all", "--vhost", "/"]);
    assert_eq!(read_to_end(client.stream), b"");
    gatepost.terminate();
    assert!(control(&gatepost, &["list", "queues", "name"], "").contains("asked"));
    for arguments in [&["status"][..], &["list", "connections"], &["get", "asked"]] {
        assert_eq!(try_control(&gatepost, arguments, "").0, Some(69));
    }
}

#[test]
fn health_answers_as_monitoring_plugins_do() {
    let mut gatepost = Gatepost::with(1, "");
    let (code, out, _) = ctl(&gatepost, &["health", "--port", "1"]);
    assert_eq!(code, Some(2), "{out}");
    // Monitoring reads standard output.
    assert!(
        out.starts_with("CRITICAL - ") && out.contains("port-listener 1: "),
        "{out}"
    );
    // The test's machine may be short of disk. Then health reports that and nothing else.
    let port = gatepost.mqtt.to_string();
    let (code, out, _) = ctl(&gatepost, &["health", "--port", &port, "--protocol", "mqtt", "--json"]);
    let verdict: Value = serde_json::from_str(&out).expect("JSON");
    let alarms = ctl(&gatepost, &["check_alarms"]).0;
    let expected = if alarms == Some(0) { ("OK", 0) } else { ("CRITICAL", 2) };
    assert_eq!(
        (verdict["status"].as_str(), code),
        (Some(expected.0), Some(expected.1)),
        "{out}"
    );
    assert_eq!(ctl(&gatepost, &["check_port_listener", &port]).0, Some(0));
    let (code, _, err) = ctl(&gatepost, &["check_port_listener", "1"]);
    assert_eq!(code, Some(69));
    assert!(err.contains("No active listener"), "{err}");
    gatepost.terminate();
    let (code, out, _) = ctl(&gatepost, &["health"]);
    assert_eq!(code, Some(3));
    assert!(out.starts_with("UNKNOWN - "), "{out}");
}

#[test]
fn ctl_exit_64_65_67_69_75() {
    let gatepost = Gatepost::with(1, "");
    let (code, _, err) = ctl(&gatepost, &["list_queues", "nonsense"]);
    assert_eq!(code, Some(64), "{err}");
    assert!(
        err.contains("no column nonsense; there are arguments, ") && err.contains("messages_ready"),
        "{err}"
    );
    for (expected, arguments) in [
        (64, &["no_such_verb"][..]),
        (64, &["list_queues", "--no-such-option"]),
        (64, &["list", "queues", "--where", "name"]),
        (64, &["list", "users", "--vhost", "/"]),
        (64, &["status", "--timeout", "0"]),
        (64, &["list_queues", "-p"]),
        (65, &["list_queues", "-p", "nowhere"]),
        (65, &["delete_queue", "nothing"]),
        (65, &["purge_queue", "nothing"]),
        (65, &["close_connection", "nobody", "why"]),
        (65, &["get", "nothing"]),
        (67, &["delete_user", "nobody"]),
        (67, &["change_password", "nobody", "x"]),
        (67, &["set_user_tags", "nobody", "administrator"]),
        (67, &["set_permissions", "nobody", "", "", ""]),
        (67, &["close", "user", "nobody"]),
        (69, &["status", "--url", "http://127.0.0.1:1"]),
        (0, &["--version"]),
        (0, &["--help"]),
    ] {
        let (code, out, err) = ctl(&gatepost, arguments);
        assert_eq!(code, Some(expected), "{arguments:?}: {err}");
        assert_eq!(out.is_empty(), expected != 0, "{arguments:?}: {out}");
        assert_eq!(err.is_empty(), expected == 0, "{arguments:?}: {err}");
    }
    // A process that listens and never answers.
    let silent = Gatepost::prepare(1, "");
    fs::create_dir_all(silent.data()).expect("a directory");
    let _listener = UnixListener::bind(silent.data().join("control.sock")).expect("a socket");
    let (code, _, err) = ctl(&silent, &["ping", "-t", "1"]);
    assert_eq!(code, Some(75), "{err}");
    assert!(err.contains("no answer within 1 s"), "{err}");
}

#[test]
fn ctl_json_is_pure_stdout() {
    let gatepost = Gatepost::with(1, "");
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("json", true).expect("a queue");
    amqp.consume("json", 1, false).expect("a consumer");
    let mut mqtt = Mqtt::open(gatepost.mqtt, "json-client", false);
    mqtt.subscribe("a/b", 1).expect("subscribed");
    control(&gatepost, &["policy", "set", "p", "^x", "{\"max-length\": 1}"], "");
    control(&gatepost, &["publish", "amq.default", "json", "x"], "");
    for kind in [
        "connections",
        "channels",
        "consumers",
        "queues",
        "exchanges",
        "bindings",
        "sessions",
        "subscriptions",
        "vhosts",
        "users",
        "policies",
        "listeners",
    ] {
        let (code, out, err) = ctl(&gatepost, &["list", kind, "--json"]);
        assert_eq!(code, Some(0), "{err}");
        let rows: Value = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{kind}: {error}: {out}"));
        let rows = rows.as_array().expect("an array");
        assert!(!rows.is_empty(), "{kind}");
        // Every field that there is can be named.
        for name in rows.iter().filter_map(Value::as_object).flat_map(|row| row.keys()) {
            let (code, out, err) = ctl(&gatepost, &["list", kind, name, "--json"]);
            assert_eq!(code, Some(0), "{kind} {name}: {err}");
            let chosen: Value = serde_json::from_str(&out).expect("JSON");
            assert_eq!(
                chosen[0].as_object().map(|row| row.keys().collect::<Vec<_>>()),
                Some(vec![name])
            );
        }
    }
    for arguments in [
        &["status"][..],
        &["list_queues"],
        &["list_user_permissions", "guest"],
        &["list_users"],
        &["get", "json"],
        &["limit", "list"],
    ] {
        let (_, out, err) = ctl(&gatepost, &[arguments, &["--json"]].concat());
        serde_json::from_str::<Value>(&out).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {out}"));
        assert_eq!(err, "", "{arguments:?}");
    }
}

#[test]
fn gatepostctl_lists_as_rabbitmqctl_does() {
    let gatepost = Gatepost::with(1, "");
    let out = |arguments: &[&str]| {
        let (code, out, err) = ctl(&gatepost, arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
        out
    };
    out(&["add_vhost", "v"]);
    out(&["add_user", "ann", "s3cret"]);
    out(&["set_user_tags", "ann", "management", "policymaker"]);
    out(&["set_permissions", "-p", "v", "ann", "a", "b", "c"]);
    assert_eq!(
        out(&["-q", "list_user_permissions", "ann"]),
        "vhost\tconfigure\twrite\tread\nv\ta\tb\tc\n"
    );
    assert_eq!(out(&["list_permissions", "-s", "-p", "v"]), "ann\ta\tb\tc\n");
    assert!(out(&["list_users", "--no-table-headers"]).contains("ann\t[management, policymaker]\n"));
    out(&["set_topic_permissions", "-p", "v", "ann", "amq.topic", "a/#", "b/#"]);
    assert_eq!(
        out(&["list_topic_permissions", "-s", "-p", "v"]),
        "ann\tamq.topic\ta/#\tb/#\n"
    );
    assert_eq!(
        out(&["list_user_topic_permissions", "-s", "ann"]),
        "v\tamq.topic\ta/#\tb/#\n"
    );
    out(&["set_vhost_limits", "-p", "v", "{\"max-queues\": 3}"]);
    out(&[
        "set_policy",
        "-p",
        "v",
        "short",
        "^q",
        "{\"max-length\": 5}",
        "--apply-to",
        "queues",
    ]);
    let policies = out(&["list_policies", "-p", "v", "name", "pattern"]);
    assert_eq!(policies, "name\tpattern\nshort\t^q\n");
    control(&gatepost, &["queue", "declare", "list_users", "--vhost", "v"], "");
    assert_eq!(out(&["list_queues", "-p", "v"]), "name\tmessages\nlist_users\t0\n");
    assert_eq!(out(&["-n", "gatepost@here", "list_queues"]), "name\tmessages\n");
    let bindings = out(&["list_bindings", "-p", "v", "-s"]);
    assert_eq!(bindings, "\texchange\tlist_users\tqueue\tlist_users\t[]\n");
    out(&["delete_queue", "list_users", "-p", "v"]);
    out(&["set_user_limits", "ann", "{\"max-channels\": 7}"]);
    assert_eq!(
        out(&["list_vhost_limits", "-p", "v"]),
        "vhost\tvalue\nv\t{\"max-queues\":3}\n"
    );
    assert_eq!(out(&["list_vhost_limits"]), "vhost\tvalue\n");
    assert!(out(&["list_vhost_limits", "--global"]).contains("v\t{\"max-queues\":3}\n"));
    assert_eq!(
        out(&["list_user_limits", "--user", "ann", "-s"]),
        "ann\t{\"max-channels\":7}\n"
    );
    out(&["clear_vhost_limits", "-p", "v"]);
    assert!(!out(&["list_vhost_limits", "--global"]).contains("max-queues"));
    out(&["clear_password", "ann"]);
    out(&["delete_user", "ann"]);
}

/// The text was "Not Found" for all of them, a user of no such name had an empty list of permissions, and `--within` was unknown.
#[test]
fn what_is_not_there_is_named_with_rabbitmqctl_s_exit_codes() {
    let gatepost = Gatepost::with(1, "");
    for (arguments, code, text) in [
        (&["-p", "nov", "list_queues"][..], 65, "there is no vhost 'nov'"),
        (
            &["delete_queue", "nobody"],
            65,
            "there is no queue 'nobody' in vhost '/'",
        ),
        (
            &["close_connection", "nobody", "why"],
            65,
            "there is no connection 'nobody'",
        ),
        (&["list_user_permissions", "nobody"], 67, "no such user: 'nobody'"),
        (&["list_user_topic_permissions", "nobody"], 67, "no such user: 'nobody'"),
        (&["delete_user", "nobody"], 67, "no such user: 'nobody'"),
        (&["trace", "show", "1-2"], 65, "there is no trace '1-2'"),
    ] {
        let (found, out, err) = ctl(&gatepost, arguments);
        assert_eq!((found, out.as_str()), (Some(code), ""), "{arguments:?}: {err}");
        assert!(err.contains(text), "{arguments:?}: {err}");
    }
    control(&gatepost, &["user", "add", "bare", "--password", "x"], "");
    for arguments in [
        &["list_user_permissions", "bare"][..],
        &["check_certificate_expiration", "--unit", "days", "--within", "3"],
        &["check_certificate_expiration", "3", "--unit", "months"],
    ] {
        let (code, _, err) = ctl(&gatepost, arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
    }
}

#[test]
fn parameters_and_names_are_set_as_by_rabbitmqctl() {
    let mut gatepost = Gatepost::with(1, "");
    let out = |arguments: &[&str]| {
        let (code, out, err) = ctl(&gatepost, arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
        out
    };
    out(&[
        "add_vhost",
        "v",
        "--description",
        "first line",
        "--tags",
        "a,b",
        "--default-queue-type",
        "quorum",
    ]);
    let described = ["list_vhosts", "name", "description", "tags", "default_queue_type", "-s"];
    assert!(
        out(&described).contains("v\tfirst line\t[a, b]\tquorum\n"),
        "{}",
        out(&described)
    );
    out(&["set_vhost_tags", "v", "c"]);
    assert!(out(&described).contains("v\tfirst line\t[c]\tquorum\n"));
    out(&["set_vhost_limits", "-p", "v", "{\"max-queues\": 3}"]);
    let parameters = ["list_parameters", "-p", "v", "-s"];
    assert_eq!(out(&parameters), "vhost-limits\tlimits\t{\"max-queues\":3}\n");
    out(&["clear_parameter", "-p", "v", "vhost-limits", "limits"]);
    assert_eq!(out(&parameters), "");
    let limits = "{\"max-queues\": 4}";
    out(&["set_parameter", "-p", "v", "vhost-limits", "limits", limits]);
    assert_eq!(out(&parameters), "vhost-limits\tlimits\t{\"max-queues\":4}\n");
    // Federation is not built, and the answer says so.
    let (code, _, err) = ctl(&gatepost, &["set_parameter", "federation-upstream", "f", "{}"]);
    assert_eq!(code, Some(65));
    assert!(err.contains("component federation-upstream not found"), "{err}");
    let (code, _, err) = ctl(&gatepost, &["set_global_parameter", "plant", "{line: 7}"]);
    assert_eq!(code, Some(64), "{err}");
    out(&["set_global_parameter", "plant", "{\"line\": 7}"]);
    assert!(out(&["list_global_parameters", "-s"]).contains("plant\t{\"line\":7}\n"));
    out(&["clear_global_parameter", "plant"]);
    assert!(!out(&["list_global_parameters"]).contains("plant"));
    let greeted = |gatepost: &Gatepost| {
        let mut stream = tcp(gatepost.amqp);
        stream.write_all(b"AMQP\x00\x00\x09\x01").expect("sent");
        let mut head = [0; 7];
        stream.read_exact(&mut head).expect("connection.start");
        let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut start = vec![0; usize::try_from(length).expect("a length")];
        stream.read_exact(&mut start).expect("connection.start");
        String::from_utf8_lossy(&start).into_owned()
    };
    out(&["set_cluster_name", "site 7"]);
    assert_eq!(out(&["cluster-name", "--no-headers"]), "site 7\n");
    assert!(greeted(&gatepost).contains("site 7"));
    gatepost.signal("HUP");
    eventually("a reload", || gatepost.log().contains("the configuration is reloaded"));
    assert!(greeted(&gatepost).contains("site 7"));
    gatepost.terminate();
    gatepost.start_again();
    assert!(greeted(&gatepost).contains("site 7"));
    gatepost.terminate();
    assert_eq!(control(&gatepost, &["cluster-name", "--no-headers"], ""), "site 7\n");
}

#[test]
fn passwords_are_hashed_and_checked() {
    let gatepost = Gatepost::with(1, "");
    let (code, hash, err) = ctl(&gatepost, &["user", "hash", "--password", "s3cret"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
    let (code, rabbits, err) = ctl(&gatepost, &["hash_password", "s3cret"]);
    assert_eq!(code, Some(0), "{err}");
    let (_, other, _) = ctl(&gatepost, &["hash_password", "s3cret"]);
    assert_ne!(rabbits, other, "each has a salt of its own");
    for (name, hash) in [("eve", &hash), ("rob", &rabbits)] {
        control(&gatepost, &["user", "add", name, "--hash", hash.trim()], "");
        assert_eq!(ctl(&gatepost, &["authenticate_user", name, "s3cret"]).0, Some(0));
        for wrong in ["S3cret", "s3cret ", "x"] {
            let (code, out, err) = ctl(&gatepost, &["authenticate_user", name, wrong]);
            assert_eq!((code, out.as_str()), (Some(65), ""), "{err}");
            assert!(err.contains("refused") && !err.contains(wrong), "{err}");
        }
    }
    assert_eq!(
        try_control(&gatepost, &["user", "authenticate", "eve"], "s3cret\n").0,
        Some(0)
    );
    assert_eq!(ctl(&gatepost, &["authenticate_user", "nobody", "s3cret"]).0, Some(65));
}

/// The parts of the budget, and the same in RabbitMQ's categories.
#[test]
fn memory_is_shown_by_kind_of_object() {
    let gatepost = Gatepost::with(1, "[memory]\nbudget = \"100MiB\"\nobjects = \"10MiB\"\n");
    let accounts = || -> Value {
        let (code, out, err) = ctl(&gatepost, &["memory", "--json"]);
        assert_eq!(code, Some(0), "{err}");
        serde_json::from_str(&out).expect("JSON")
    };
    let row = |accounts: &Value, name: &str| {
        let rows = accounts.as_array().expect("rows");
        let row = rows
            .iter()
            .find(|row| row["name"] == name)
            .unwrap_or_else(|| panic!("{name}"));
        (row["bytes"].as_u64().expect("bytes"), row["limit"].as_u64())
    };
    let before = accounts();
    assert_eq!(row(&before, "objects").1, Some(10 << 20));
    assert_eq!(row(&before, "counted").1, Some(100 << 20));
    let (bytes, limit) = row(&before, "hashing");
    assert!(limit == Some(8 << 20) && bytes <= 8 << 20, "{before}");
    control(&gatepost, &["queue", "declare", "weighed"], "");
    control(
        &gatepost,
        &["publish", "amq.default", "weighed", &"x".repeat(50_000)],
        "",
    );
    let after = accounts();
    assert!(
        row(&after, "objects.queues").0 > row(&before, "objects.queues").0,
        "{after}"
    );
    assert!(
        row(&after, "messages").0 >= row(&before, "messages").0 + 50_000,
        "{after}"
    );
    let kinds = ["retained", "routes", "queues", "sessions", "connections"];
    let kinds: u64 = kinds.iter().map(|kind| row(&after, &format!("objects.{kind}")).0).sum();
    assert_eq!(kinds, row(&after, "objects").0);
    let (code, table, err) = ctl(&gatepost, &["memory_breakdown"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(
        table.starts_with("name\tbytes\tlimit\n") && table.contains("\nresident\t"),
        "{table}"
    );
}

#[test]
fn connections_of_one_protocol_are_listed_as_rabbitmqs_plugins_list_them() {
    let gatepost = Gatepost::with(1, "");
    let _amqp = Amqp::open(gatepost.amqp);
    let _mqtt = Mqtt::open(gatepost.mqtt, "sensor-7", true);
    let _stomp = Stomp::try_open(gatepost.stomp).expect("a session");
    let lines = |arguments: &[&str]| -> Vec<String> {
        let (code, out, err) = ctl(&gatepost, arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {err}");
        out.lines().map(str::to_owned).collect()
    };
    let mqtt = lines(&["list_mqtt_connections"]);
    assert_eq!((mqtt.len(), mqtt[0].as_str()), (2, "client_id\tconn_name"), "{mqtt:?}");
    let (client, name) = mqtt[1].split_once('\t').expect("two columns");
    assert_eq!(client, "sensor-7");
    assert!(name.ends_with(&format!("-> 127.0.0.1:{}", gatepost.mqtt)), "{name}");
    let stomp = lines(&[
        "list_stomp_connections",
        "-s",
        "conn_name",
        "connection_state",
        "version",
        "peer_addr",
    ]);
    assert_eq!(stomp.len(), 1, "{stomp:?}");
    assert!(stomp[0].ends_with("\trunning\tSTOMP 1.2\t127.0.0.1"), "{stomp:?}");
    assert!(
        stomp[0].contains(&format!("-> 127.0.0.1:{}\t", gatepost.stomp)),
        "{stomp:?}"
    );
    // As a verb of gatepost, and in a vhost.
    let listed = control(&gatepost, &["list", "mqtt-connections", "--vhost", "/"], "");
    assert!(listed.contains("sensor-7") && listed.lines().count() == 2, "{listed}");
    let (code, _, err) = ctl(&gatepost, &["list_mqtt_connections", "colour"]);
    assert_eq!(code, Some(64));
    assert!(err.contains("there is no column colour"), "{err}");
}

#[test]
fn missing_verbs_of_rabbitmqctl_name_an_alternative() {
    let gatepost = Gatepost::prepare(1, "");
    for (verb, told) in [
        ("join_cluster", "one node"),
        ("eval", "management API"),
        ("trace_on", "gatepost trace start"),
        ("set_disk_free_limit", "disk.free_limit"),
    ] {
        let (code, out, err) = ctl(&gatepost, &[verb, "word"]);
        assert_eq!((code, out.as_str()), (Some(64), ""), "{verb}: {err}");
        assert!(err.starts_with(&format!("{verb}: ")) && err.contains(told), "{err}");
    }
}

/// `--url https://` trusts the authorities of `--ca`, or the system's, and only certificates for the name in the URL.
#[test]
fn verbs_use_https_if_the_certificate_is_valid() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (cert, key, port) = (authority.path("server.pem"), authority.path("server.key"), free_port());
    let settings = format!(
        "[listeners.management_tls]\nprotocol = \"management\"\ntls_bind = [\"127.0.0.1:{port}\", \"127.0.0.2:{port}\"]\n\
         [listeners.management_tls.tls]\ncert = {cert:?}\nkey = {key:?}\n"
    );
    let gatepost = Gatepost::with(1, &settings);
    let password = gatepost.dir.join("password");
    fs::write(&password, "guest\n").expect("written");
    let ask = |host: &str, ca: Option<&std::path::Path>| {
        let url = format!("https://{host}:{port}");
        let password = password.to_str().expect("Unicode");
        let mut arguments = vec![
            "user",
            "list",
            "--url",
            &url,
            "--login",
            "guest",
            "--login-file",
            password,
        ];
        if let Some(ca) = ca {
            arguments.extend(["--ca", ca.to_str().expect("Unicode")]);
        }
        said(&command_line("gatepost", &arguments, ""))
    };
    let ca = authority.path("ca.pem");
    for host in ["localhost", "127.0.0.1"] {
        let (code, out, err) = ask(host, Some(&ca));
        assert_eq!(code, Some(0), "{host}: {err}");
        assert!(out.contains("guest"), "{out}");
    }
    let strange = stranger.path("ca.pem");
    // The system's authorities do not include the test's, and this address is not in the certificate.
    for (host, ca, told) in [
        ("localhost", Some(strange.as_path()), "invalid peer certificate"),
        ("localhost", None, "UnknownIssuer"),
        ("127.0.0.2", Some(ca.as_path()), "127.0.0.2"),
    ] {
        let (code, out, err) = ask(host, ca);
        assert_eq!((code, out.as_str()), (Some(69), ""), "{host}: {err}");
        assert!(err.contains(told) && err.contains("certificate"), "{err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
    let key = authority.path("server.key");
    for (ca, told) in [(gatepost.dir.join("nowhere.pem"), "nowhere.pem"), (key, "server.key")] {
        let (code, _, err) = ask("localhost", Some(&ca));
        assert_eq!(code, Some(64), "{err}");
        assert!(err.contains("--ca") && err.contains(told), "{err}");
    }
    // TLS to a port without TLS, and the other way round.
    let plain = gatepost.management;
    for (url, told) in [
        (format!("https://127.0.0.1:{plain}"), "does not speak TLS: try http://"),
        (format!("http://127.0.0.1:{port}"), "does not answer"),
    ] {
        let (code, _, err) = said(&command_line("gatepost", &["user", "list", "--url", &url], ""));
        assert_eq!(code, Some(69), "{url}: {err}");
        assert!(err.contains(told), "{url}: {err}");
    }
}

#[test]
fn verbs_use_http_without_a_configuration() {
    let gatepost = Gatepost::with(1, "");
    let url = format!("http://127.0.0.1:{}", gatepost.management);
    let password = gatepost.dir.join("password");
    let broken = gatepost.dir.join("broken.toml");
    fs::write(&broken, "[nonsense]\nx = 1\n").expect("written");
    let ask = |arguments: &[&str], password_text: &str| {
        fs::write(&password, password_text).expect("written");
        let login = [
            "--url",
            &url,
            "--login",
            "guest",
            "--login-file",
            password.to_str().expect("Unicode"),
        ];
        said(&command_line("gatepost", &[arguments, &login].concat(), ""))
    };
    let (code, out, err) = ask(&["user", "list"], "guest\n");
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("guest"), "{out}");
    let (code, _, err) = ask(&["user", "list"], "wrong\n");
    assert_eq!(code, Some(69), "{err}");
    assert!(err.contains("401") && err.contains("Login failed"), "{err}");
    let (code, _, err) = said(&command_line("gatepost", &["user", "list", "--url", &url], ""));
    assert_eq!(code, Some(69), "{err}");
    let (code, _, err) = said(&command_line(
        "gatepost",
        &["status", "--url", "http://guest:guest@127.0.0.1:1"],
        "",
    ));
    assert_eq!(code, Some(64));
    assert!(err.contains("--login"), "{err}");
    // The file is invalid, but must not be read.
    let environment = [("GATEPOST__NONSENSE", "1")];
    let arguments = ["user", "list", "--url", &url, "--login", "guest", "--login-file"];
    fs::write(&password, "guest").expect("written");
    let output = run(
        &[&arguments[..], &[password.to_str().expect("Unicode")]].concat(),
        &environment,
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// The bug: after an operator had broken the file and not restarted yet, the verbs failed.
#[test]
fn a_running_gateway_is_reached_although_its_configuration_became_invalid() {
    let gatepost = Gatepost::with(1, "");
    let text = fs::read_to_string(gatepost.config()).expect("the file");
    fs::write(gatepost.config(), text + "[limits]\nmax_conections = 5\n").expect("written");
    control(&gatepost, &["ping"], "");
    assert!(control(&gatepost, &["user", "list"], "").contains("guest"));
}

#[test]
fn a_message_comes_from_an_argument_a_file_or_standard_input() {
    let gatepost = Gatepost::with(1, "");
    control(&gatepost, &["queue", "declare", "in"], "");
    let publish = ["publish", "amq.default", "in"];
    let file = gatepost.dir.join("payload");
    fs::write(&file, b"\xff\x00bytes").expect("written");
    let file = file.to_str().expect("Unicode");
    control(&gatepost, &[&publish[..], &["-1"]].concat(), "");
    control(
        &gatepost,
        &[&publish[..], &["--property", "delivery_mode=2"]].concat(),
        "two\nlines\n",
    );
    control(&gatepost, &[&publish[..], &["--file", file]].concat(), "");
    control(&gatepost, &[&publish[..], &["--file", "-"]].concat(), "dash");
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.consume("in", 0, true).expect("a consumer");
    for expected in [&b"-1"[..], b"two\nlines\n", b"\xff\x00bytes", b"dash"] {
        let body = match amqp.next().expect("a message") {
            crate::support::amqp::Incoming::Deliver(delivery) => delivery.body,
            other => panic!("{other:?}"),
        };
        assert_eq!(body, expected);
    }
    let (code, said) = try_control(&gatepost, &[&publish[..], &["--file", "/nowhere/at/all"]].concat(), "");
    assert_eq!(code, Some(64), "{said}");
}

/// The bug: a truncated list looked complete.
#[test]
fn a_truncated_list_of_retained_messages_says_so() {
    let gatepost = Gatepost::with(1, "");
    let mut mqtt = Mqtt::open(gatepost.mqtt, "retainer", true);
    for n in 0..1_005 {
        mqtt.packet(0x31, &[&[0, 6][..], format!("r/{n:04}").as_bytes(), b"x"].concat());
    }
    mqtt.flush().expect("sent");
    mqtt.ping().expect("served");
    let list = |more: &[&str]| {
        ctl(
            &gatepost,
            &[&["list", "retained", "topic", "--no-headers"][..], more].concat(),
        )
    };
    eventually("all are there", || list(&[]).2.contains("only 1000 of 1005"));
    let (_, out, err) = list(&["--topic", "r/0001"]);
    assert_eq!((out.as_str(), err.as_str()), ("r/0001\n", ""));
}

/// The bug: `gatepost list queues | head` ended with a panic.
#[test]
fn a_closed_standard_output_is_no_failure() {
    let gatepost = Gatepost::with(1, "");
    let script = format!(
        "{} --config-reference | head -c 1 > /dev/null; echo ${{PIPESTATUS[0]}}",
        env!("CARGO_BIN_EXE_gatepost")
    );
    let output = std::process::Command::new("bash")
        .args(["-c", &script])
        .output()
        .expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\n", "{output:?}");
    drop(gatepost);
}

#[test]
fn bash_accepts_the_completions() {
    let output = run(&["completions", "bash"], &[]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("'list'") && text.contains("queues"), "{text}");
    let parsed = std::process::Command::new("bash").args(["-n", "-c", &text]).status();
    assert!(parsed.expect("bash runs").success());
}
