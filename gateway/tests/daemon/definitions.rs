//! Policies and definitions: by the command line, at the start, and after a kill.

use crate::control::{control, open, try_control};
use crate::support::daemon::{Gatepost, run};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

#[track_caller]
fn done(gatepost: &Gatepost, arguments: &[&str]) -> String {
    control(gatepost, arguments, "")
}

/// A request on the control socket. Returns its status and its answer's body.
fn ask(gatepost: &Gatepost, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(gatepost.data().join("control.sock")).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(body.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.expect("a status"), body.to_owned())
}

/// Number of messages in the queue, which are requeued.
fn waiting(gatepost: &Gatepost, queue: &str) -> usize {
    let body = r#"{"count": 100, "ackmode": "ack_requeue_true", "encoding": "auto"}"#;
    let (status, text) = ask(gatepost, "POST", &format!("/api/queues/%2F/{queue}/get"), body);
    assert_eq!(status, 200, "{text}");
    text.matches("\"payload\":").count()
}

fn publish(gatepost: &Gatepost, queue: &str, count: usize) {
    let body = format!(
        r#"{{"properties": {{"delivery_mode": 2}}, "routing_key": "{queue}", "payload": "m", "payload_encoding": "string"}}"#
    );
    for _ in 0..count {
        let path = "/api/exchanges/%2F/amq.default/publish";
        assert_eq!(
            ask(gatepost, "POST", path, &body),
            (200, "{\"routed\":true}".to_owned())
        );
    }
}

#[test]
fn the_command_line_sets_policies_and_makes_queues() {
    let mut gatepost = Gatepost::with(1, "");
    done(
        &gatepost,
        &["queue", "declare", "ops.q", "--argument", "x-max-length=5"],
    );
    publish(&gatepost, "ops.q", 4);
    assert!(done(&gatepost, &["queue", "list"]).contains("ops.q"));
    assert!(done(&gatepost, &["exchange", "list", "--vhost", "/"]).contains("amq.topic"));
    let (name, pattern, sets) = ("cap", "^ops\\.", "{\"max-length\": 2}");
    done(
        &gatepost,
        &[
            "policy",
            "set",
            name,
            pattern,
            sets,
            "--apply-to",
            "queues",
            "--priority",
            "-1",
        ],
    );
    let listed = done(&gatepost, &["policy", "list"]);
    assert!(listed.contains("max-length=2") && listed.contains("^ops"), "{listed}");
    let (code, text) = try_control(&gatepost, &["policy", "set", "bad", ".", "{\"nonsense\": 1}"], "");
    assert_eq!(code, Some(65), "{text}");
    assert!(text.contains("not recognised policy settings"), "{text}");
    // Acknowledged settings are there after a kill, and apply.
    gatepost.kill();
    gatepost.start_again();
    publish(&gatepost, "ops.q", 4);
    assert_eq!(waiting(&gatepost, "ops.q"), 2);
    done(&gatepost, &["policy", "clear", "cap"]);
    publish(&gatepost, "ops.q", 5);
    assert_eq!(waiting(&gatepost, "ops.q"), 5, "its own limit");
    let (code, text) = try_control(&gatepost, &["queue", "delete", "ops.q", "--if-empty"], "");
    assert_eq!(code, Some(65), "{text}");
    done(&gatepost, &["queue", "purge", "ops.q"]);
    done(&gatepost, &["queue", "delete", "ops.q", "--if-empty"]);
    // Also on the data directory of a stopped gateway.
    gatepost.terminate();
    done(&gatepost, &["exchange", "declare", "audit", "fanout"]);
    done(&gatepost, &["queue", "declare", "log"]);
    done(&gatepost, &["binding", "add", "audit", "log"]);
    gatepost.start_again();
    let (status, text) = ask(&gatepost, "DELETE", "/api/bindings/%2F/e/audit/q/log/~", "");
    assert_eq!(status, 204, "{text}");
}

/// Without this check, a publish over HTTP would bypass the pressure that all other publishers obey.
#[test]
fn a_publish_while_publishers_wait_is_refused() {
    let mut gatepost = Gatepost::with(1, "");
    done(&gatepost, &["queue", "declare", "q"]);
    publish(&gatepost, "q", 1);
    gatepost.terminate();
    // More than any disk has.
    gatepost.start_with_environment(&[("GATEPOST__DISK__FREE_LIMIT", "100000000GiB")]);
    let body = r#"{"properties": {}, "routing_key": "q", "payload": "m", "payload_encoding": "string"}"#;
    let (status, text) = ask(&gatepost, "POST", "/api/exchanges/%2F/amq.default/publish", body);
    assert_eq!(status, 503, "{text}");
    assert!(text.contains("publishers have to wait: low on disk"), "{text}");
    assert_eq!(waiting(&gatepost, "q"), 1);
    // Commands that free space are not delayed.
    done(&gatepost, &["queue", "purge", "q"]);
}

#[test]
fn an_export_makes_the_same_gateway_elsewhere() {
    let first = Gatepost::with(1, "");
    done(
        &first,
        &["queue", "declare", "orders", "--argument", "x-queue-type=quorum"],
    );
    done(&first, &["binding", "add", "amq.topic", "orders", "orders.#"]);
    done(
        &first,
        &["policy", "set", "cap", "^o", "{\"max-length\": 9}", "--operator"],
    );
    let (code, text) = try_control(&first, &["user", "add", "eve", "--tag", "monitoring"], "s3cret\n");
    assert_eq!(code, Some(0), "{text}");
    let file = first.data().with_file_name("definitions.json");
    let file = file.to_str().expect("text");
    done(&first, &["definitions", "export", file]);
    let second = Gatepost::with(1, "");
    done(&second, &["definitions", "import", file]);
    done(&second, &["definitions", "import", file]);
    let again = done(&second, &["definitions", "export", "-"]);
    assert_eq!(again, fs::read_to_string(file).expect("the export"));
    assert!(
        again.contains("\"orders.#\"") && again.contains("\"operator_policy\""),
        "{again}"
    );
    let (code, text) = try_control(
        &second,
        &["definitions", "import", "-"],
        "{\"queues\": [{\"name\": \"q\"}]}",
    );
    assert_eq!(code, Some(65), "{text}");
    assert!(text.contains("queues[0]: key_missing: vhost"), "{text}");
}

#[test]
fn definitions_are_imported_at_the_start_and_a_wrong_file_stops_it() {
    let mut gatepost = Gatepost::prepare(1, "");
    let file = gatepost.data().with_file_name("definitions.json");
    let settings = format!("[definitions]\nfile = {file:?}\n");
    let mut toml = fs::read_to_string(gatepost.config()).expect("a configuration");
    toml.push_str(&settings);
    fs::write(gatepost.config(), toml).expect("a configuration");
    fs::write(
        &file,
        r#"{"users": [{"name": "eve", "password": "x", "tags": "administrator"}],
            "permissions": [{"user": "eve", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
            "queues": [{"name": "q", "vhost": "/", "durable": true, "auto_delete": false, "arguments": {}}]}"#,
    )
    .expect("definitions");
    gatepost.start_again();
    publish(&gatepost, "q", 1);
    let users = done(&gatepost, &["user", "list"]);
    assert!(users.contains("eve") && !users.contains("guest"), "{users}");
    // A second start finds all of it there.
    gatepost.terminate();
    gatepost.start_again();
    assert_eq!(waiting(&gatepost, "q"), 1);
    // What was deleted since stays deleted, until the file changes.
    done(&gatepost, &["queue", "delete", "q"]);
    gatepost.terminate();
    gatepost.start_again();
    let there = |gatepost: &Gatepost| ask(gatepost, "GET", "/api/queues/%2F/q", "").0;
    assert_eq!(there(&gatepost), 404);
    let exported = done(&gatepost, &["definitions", "export", "-"]);
    assert!(!exported.contains("imported_definition_hash_value"), "{exported}");
    gatepost.terminate();
    let text = fs::read_to_string(&file).expect("definitions");
    fs::write(&file, text + "\n").expect("definitions");
    gatepost.start_again();
    assert_eq!(there(&gatepost), 200);
    done(&gatepost, &["queue", "delete", "q"]);
    gatepost.terminate();
    gatepost.start_with_environment(&[("GATEPOST__DEFINITIONS__SKIP_IF_UNCHANGED", "false")]);
    assert_eq!(there(&gatepost), 200);
    gatepost.terminate();
    for (wrong, why) in [
        ("{", "failed_to_parse_json"),
        (
            r#"{"queues": [{"name": "q", "vhost": "nowhere"}]}"#,
            "no_such_vhost: nowhere",
        ),
    ] {
        fs::write(&file, wrong).expect("definitions");
        let output = run(&["--config", gatepost.config().to_str().expect("text")], &[]);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(told.contains("definitions.file:") && told.contains(why), "{told}");
    }
}

/// Tools that write definitions list the default exchange and its bindings, too, and name a queue's type beside its arguments. Such
/// a file was refused, or its queue became a classic one.
#[test]
fn a_file_that_lists_what_every_vhost_has_is_imported() {
    let gatepost = Gatepost::start();
    let file = gatepost.data().with_file_name("listed.json");
    fs::write(
        &file,
        r#"{"exchanges": [{"name": "", "vhost": "/", "type": "direct", "durable": true, "arguments": {}},
                          {"name": "amq.direct", "vhost": "/", "type": "direct", "durable": true}],
            "queues": [{"name": "jobs", "vhost": "/", "durable": true, "arguments": {}, "type": "quorum"},
                       {"name": "logs", "vhost": "/", "durable": true, "arguments": {}, "type": "classic"}],
            "bindings": [{"source": "", "vhost": "/", "destination": "jobs", "destination_type": "queue", "routing_key": "jobs"},
                         {"source": "amq.direct", "vhost": "/", "destination": "jobs", "destination_type": "queue", "routing_key": "j"}]}"#,
    )
    .expect("definitions");
    let file = file.to_str().expect("text");
    done(&gatepost, &["definitions", "import", file]);
    done(&gatepost, &["definitions", "import", file]);
    let kind = |queue: &str| {
        let (_, body) = ask(&gatepost, "GET", &format!("/api/queues/%2F/{queue}?columns=type"), "");
        serde_json::from_str::<Value>(&body).expect("JSON")["type"].clone()
    };
    assert_eq!((kind("jobs"), kind("logs")), ("quorum".into(), "classic".into()));
    let (_, bindings) = ask(&gatepost, "GET", "/api/queues/%2F/jobs/bindings?columns=source", "");
    let bindings: Value = serde_json::from_str(&bindings).expect("JSON");
    assert_eq!(bindings.as_array().map(Vec::len), Some(2), "{bindings}");
    // What a binding of the default exchange to another name would mean, nobody says.
    fs::write(
        file,
        r#"{"bindings": [{"source": "", "vhost": "/", "destination": "jobs", "destination_type": "queue", "routing_key": "other"}]}"#,
    )
    .expect("definitions");
    let (code, text) = try_control(&gatepost, &["definitions", "import", file], "");
    assert!(code != Some(0), "{text}");
}

/// RabbitMQ 3.10.8 exported this file (`GET /api/definitions`) after it was given users with and without passwords,
/// vhosts, rights, limits, policies of both kinds, parameters, queues and exchanges with arguments, and bindings, over
/// its own API.
#[test]
fn an_export_of_rabbitmq_3_10_is_imported_completely() {
    let gatepost = Gatepost::with(1, "");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/rabbitmq-3.10.8-export.json");
    done(&gatepost, &["definitions", "import", file]);
    let theirs: Value = serde_json::from_str(&fs::read_to_string(file).expect("the file")).expect("JSON");
    let ours: Value = serde_json::from_str(&done(&gatepost, &["definitions", "export", "-"])).expect("JSON");
    let listed = |document: &Value, part: &str| -> BTreeSet<String> {
        let entries = document[part].as_array().expect("a list").iter();
        // It exports only the names of vhosts.
        let entry = |entry: &Value| {
            if part == "vhosts" {
                entry["name"].clone()
            } else {
                entry.clone()
            }
        };
        entries.map(|one| entry(one).to_string()).collect()
    };
    let parts = theirs.as_object().expect("an object").iter();
    let parts: Vec<&str> = parts
        .filter(|(_, list)| list.is_array())
        .map(|(part, _)| &**part)
        .collect();
    assert_eq!(parts.len(), 10, "{parts:?}");
    for part in parts {
        let (theirs, ours) = (listed(&theirs, part), listed(&ours, part));
        assert!(!theirs.is_empty(), "{part}");
        let lost: Vec<&String> = theirs.difference(&ours).collect();
        assert!(lost.is_empty(), "{part}: {lost:?} of {ours:?}");
    }
    // The hashes are valid, and so are the rights.
    assert!(
        open(&gatepost, "console", "anna", "anna-s3cret").is_err(),
        "no rights in /"
    );
    let (code, text) = try_control(&gatepost, &["permission", "set", "anna", ".*", ".*", ".*"], "");
    assert_eq!(code, Some(0), "{text}");
    assert!(open(&gatepost, "console", "anna", "anna-s3cret").is_ok());
    assert!(open(&gatepost, "console", "anna", "wrong").is_err());
}
