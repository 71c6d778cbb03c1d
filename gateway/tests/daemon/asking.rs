//! `gatepost list`, `status`, `publish`, `get`, `close`, `health` and `completions`.

use crate::control::{control, try_control};
use crate::support::Gatepost;
use crate::support::daemon::run;
use crate::support::mqtt::Mqtt;
use crate::support::raw::read_to_end;

#[test]
fn a_gateway_that_runs_is_asked_and_one_that_is_stopped_lists_what_is_declared() {
    let mut gatepost = Gatepost::with(1, "");
    let say = |arguments: &[&str]| control(&gatepost, arguments, "");
    let said = say(&["status"]);
    assert!(said.contains("product") && said.contains("Gatepost"), "{said}");
    say(&["queue", "declare", "asked"]);
    say(&["publish", "amq.default", "asked", "hello"]);
    let nowhere = try_control(&gatepost, &["publish", "amq.default", "nobody", "x"], "");
    assert_eq!(nowhere.0, Some(65), "{}", nowhere.1);
    assert!(say(&["get", "asked"]).contains("hello"));
    assert!(say(&["get", "asked", "--remove"]).contains("hello"));
    assert!(!say(&["get", "asked"]).contains("hello"));
    let said = say(&["list", "queues", "name", "--where", "name=asked"]);
    assert_eq!(said, "name\nasked\n");
    let unknown = try_control(&gatepost, &["list", "queues", "nonsense"], "");
    assert_eq!(unknown.0, Some(64), "{}", unknown.1);
    let client = Mqtt::open(gatepost.mqtt, "asked-client", true);
    let said = say(&["list", "sessions", "client_id"]);
    assert!(said.contains("asked-client"), "{said}");
    let user = say(&["list", "connections", "user"]);
    let user = user.lines().nth(1).expect("a connection");
    say(&["close", "user", user, "--reason", "for the test"]);
    assert_eq!(read_to_end(client.stream), b"");
    let (code, said) = try_control(&gatepost, &["health", "--port", "1"], "");
    assert_eq!(code, Some(2), "{said}");
    assert!(said.starts_with("CRITICAL - port-listener 1"), "{said}");
    assert!(say(&["health"]).starts_with("OK"));
    gatepost.terminate();
    assert!(control(&gatepost, &["list", "queues", "name"], "").contains("asked"));
    for arguments in [&["status"][..], &["list", "connections"], &["get", "asked"]] {
        assert_eq!(try_control(&gatepost, arguments, "").0, Some(69));
    }
    assert_eq!(try_control(&gatepost, &["health"], "").0, Some(3));
}

#[test]
fn completions_are_what_bash_can_read() {
    let output = run(&["completions", "bash"], &[]);
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("'list'") && text.contains("queues"), "{text}");
    let parsed = std::process::Command::new("bash").args(["-n", "-c", &text]).status();
    assert!(parsed.expect("bash runs").success());
}
