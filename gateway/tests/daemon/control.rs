//! `gatepost user` and similar verbs, with a running gateway and a stopped one, and the API that they use.

use crate::support::Gatepost;
use crate::support::daemon::run;
use crate::support::mqtt::Mqtt;
use crate::support::raw::{eventually, read_to_end};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Exit codes of `sysexits.h`.
const BAD: i32 = 65;
const NO_USER: i32 = 67;
const UNAVAILABLE: i32 = 69;

/// Runs the command line for this gateway, with `input` on its standard input. Returns the exit code and the output.
pub(crate) fn try_control(gatepost: &Gatepost, arguments: &[&str], input: &str) -> (Option<i32>, String) {
    let config = gatepost.config();
    let at = ["--config", config.to_str().expect("a path in Unicode")];
    let output = command_line("gatepost", &[arguments, &at].concat(), input);
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).expect("text"))
}

/// Runs the program under this name.
pub(crate) fn command_line(name: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gatepost"))
        .arg0(name)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the command starts");
    // The command may not read it.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("output")
}

#[track_caller]
pub(crate) fn control(gatepost: &Gatepost, arguments: &[&str], input: &str) -> String {
    let (code, text) = try_control(gatepost, arguments, input);
    assert_eq!(code, Some(0), "{arguments:?}: {text}");
    text
}

/// An MQTT client that logs in with a password.
pub(crate) fn open(gatepost: &Gatepost, client: &str, user: &str, password: &str) -> std::io::Result<Mqtt> {
    let text = |text: &str| [&[0, u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    let body = [
        text("MQTT"),
        vec![4, 0xC2, 0, 0],
        text(client),
        text(user),
        text(password),
    ]
    .concat();
    Mqtt::try_speak(gatepost.mqtt, &body)
}

/// A request on the control socket. Returns its answer, head and body.
fn ask(gatepost: &Gatepost, method: &str, path: &str, body: &str) -> String {
    let mut stream = UnixStream::connect(gatepost.data().join("control.sock")).expect("connected");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    // A body that is too large is not read to its end.
    let _ = stream.write_all((head + body).as_bytes());
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // After the answer to a body that was not read to its end, a local socket reports a reset.
        Err(error) if error.kind() != ErrorKind::ConnectionReset || answer.is_empty() => panic!("no answer: {error}"),
        _ => String::from_utf8(answer).expect("text"),
    }
}

/// Everything that can happen to a user, to a vhost, and to the user's rights in it.
fn manage(gatepost: &Gatepost) {
    let control = |arguments: &[&str], input: &str| control(gatepost, arguments, input);
    let fails = |arguments: &[&str], input: &str| try_control(gatepost, arguments, input);
    control(&["vhost", "add", "plant/1", "--description", "the first"], "");
    assert_eq!(fails(&["vhost", "add", "plant/1"], "").0, Some(BAD));
    control(
        &["user", "add", "ann", "--tag", "management", "--tag", "ops"],
        "s3cret\n",
    );
    let (code, text) = fails(&["user", "add", "ann"], "other\n");
    assert_eq!((code, text.as_str()), (Some(BAD), "user 'ann' exists\n"));
    assert_eq!(fails(&["user", "add", "bob"], "").0, Some(64), "no password");
    assert_eq!(fails(&["user", "delete", "nobody"], "").0, Some(NO_USER));
    assert_eq!(fails(&["user", "passwd", "nobody"], "x\n").0, Some(NO_USER));

    control(&["permission", "set", "ann", "^a", ".*", "", "--vhost", "plant/1"], "");
    let (code, text) = fails(&["permission", "set", "ann", "(", ".*", ".*"], "");
    assert_eq!(code, Some(BAD), "{text}");
    assert_eq!(fails(&["permission", "set", "nobody", "", "", ""], "").0, Some(NO_USER));
    assert_eq!(
        fails(&["permission", "set", "ann", "", "", "", "--vhost", "x"], "").0,
        Some(BAD)
    );
    control(
        &[
            "topic-permission",
            "set",
            "ann",
            "amq.topic",
            "{username}/#",
            "#",
            "--vhost",
            "plant/1",
        ],
        "",
    );
    control(&["limit", "set", "--user", "ann", "max-connections", "5"], "");
    control(&["limit", "set", "--vhost", "plant/1", "max-queues", "-1"], "");
    assert_eq!(
        fails(&["limit", "set", "--user", "ann", "max-nonsense", "5"], "").0,
        Some(BAD)
    );

    let list = control(&["permission", "list", "--user", "ann"], "");
    let mut lines = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(
        lines.next(),
        Some(vec!["user", "vhost", "configure", "write", "read"]),
        "{list}"
    );
    assert_eq!(lines.next(), Some(vec!["ann", "plant/1", "^a", ".*"]), "{list}");
    assert_eq!(lines.next(), None, "{list}");
    let json = control(&["topic-permission", "list", "--json"], "");
    assert!(
        json.contains("\"exchange\": \"amq.topic\"") && json.contains("{username}/#"),
        "{json}"
    );
    let limits = control(&["limit", "list"], "");
    assert!(
        limits.contains("max-connections=5") && limits.contains("max-queues=-1"),
        "{limits}"
    );
    let users = control(&["user", "list"], "");
    assert!(
        users
            .lines()
            .any(|line| line.starts_with("ann") && line.ends_with("management,ops")),
        "{users}"
    );

    control(&["user", "tags", "ann"], "");
    control(&["user", "passwd", "ann"], "another\n");
    control(&["limit", "clear", "--user", "ann", "max-connections"], "");
    control(&["topic-permission", "clear", "ann", "--vhost", "plant/1"], "");
    assert_eq!(
        fails(&["topic-permission", "clear", "ann", "--vhost", "plant/1"], "").0,
        Some(BAD)
    );
    control(&["permission", "clear", "ann", "--vhost", "plant/1"], "");
    control(&["vhost", "delete", "plant/1"], "");
    let vhosts = control(&["vhost", "list"], "");
    assert!(!vhosts.contains("plant"), "{vhosts}");
    control(&["permission", "set", "ann", ".*", ".*", ".*"], "");
}

#[test]
fn users_are_managed_while_the_gateway_runs() {
    // Otherwise a client without a user would be anonymous here.
    let gatepost = Gatepost::with(1, "[mqtt]\nanonymous = \"deny\"\n");
    manage(&gatepost);
    assert!(open(&gatepost, "c", "ann", "s3cret").is_err());
    let mut ann = open(&gatepost, "c", "ann", "another").expect("the new password");
    ann.ping().expect("served");
    control(&gatepost, &["ping"], "");
    control(&gatepost, &["ban", "add", "client", "loud", "--seconds", "1000"], "");
    assert!(open(&gatepost, "loud", "ann", "another").is_err());
    let bans = control(&gatepost, &["ban", "list"], "");
    assert!(bans.contains("loud") && bans.contains("run time"), "{bans}");
    control(&gatepost, &["ban", "delete", "client", "loud"], "");
    open(&gatepost, "loud", "ann", "another").expect("lifted");
    // A ban of a user ends its connections, and so does its deletion.
    control(&gatepost, &["ban", "add", "user", "ann"], "");
    assert_eq!(read_to_end(ann.stream), b"");
    assert!(open(&gatepost, "c", "ann", "another").is_err());
    control(&gatepost, &["ban", "delete", "user", "ann"], "");
    let ann = open(&gatepost, "c", "ann", "another").expect("lifted");
    control(&gatepost, &["user", "delete", "ann"], "");
    assert_eq!(read_to_end(ann.stream), b"");
    assert!(open(&gatepost, "c", "ann", "another").is_err());
    let log = gatepost.log();
    assert!(!log.contains("s3cret") && !log.contains("another"), "{log}");
}

#[test]
fn users_managed_while_the_gateway_is_stopped_exist_at_its_start() {
    let mut gatepost = Gatepost::with(1, "");
    gatepost.terminate();
    assert!(!gatepost.data().join("control.sock").exists());
    manage(&gatepost);
    assert_eq!(try_control(&gatepost, &["ban", "list"], "").0, Some(UNAVAILABLE));
    assert_eq!(try_control(&gatepost, &["ping"], "").0, Some(UNAVAILABLE));
    gatepost.start_again();
    open(&gatepost, "c", "ann", "another")
        .expect("the new user")
        .ping()
        .expect("served");
    // After a kill the socket's file remains, and nobody listens.
    gatepost.kill();
    control(&gatepost, &["user", "add", "late"], "secret\n");
    control(&gatepost, &["permission", "set", "late", ".*", ".*", ".*"], "");
    gatepost.start_again();
    open(&gatepost, "c", "late", "secret").expect("the new user");
}

/// A script that lacked three members was told of one, mended, and told of the next.
#[test]
fn a_request_is_told_of_all_members_that_it_lacks() {
    let gatepost = Gatepost::with(1, "");
    for (method, path, body, missing) in [
        ("PUT", "/api/permissions/%2F/eve", r#"{"write": ""}"#, "configure, read"),
        ("PUT", "/api/topic-permissions/%2F/eve", "{}", "exchange, write, read"),
        ("PUT", "/api/policies/%2F/p", "", "pattern, definition"),
        (
            "POST",
            "/api/queues/%2F/q/get",
            r#"{"ackmode": null}"#,
            "count, ackmode, encoding",
        ),
        (
            "POST",
            "/api/exchanges/%2F/amq.default/publish",
            r#"{"payload": "x"}"#,
            "properties, routing_key, payload_encoding",
        ),
        (
            "POST",
            "/api/definitions",
            r#"{"permissions": [{"user": "eve"}]}"#,
            "vhost",
        ),
        (
            "POST",
            "/api/definitions",
            r#"{"bindings": [{"vhost": "/"}]}"#,
            "source, destination, destination_type",
        ),
    ] {
        let answer = ask(&gatepost, method, path, body);
        let named = answer.split_once("key_missing: ").map(|(_, named)| named);
        assert!(
            named.is_some_and(|named| named.starts_with(&format!("{missing}\""))),
            "{path}: {answer}"
        );
    }
}

#[test]
fn the_control_socket_speaks_the_management_api() {
    let gatepost = Gatepost::with(1, "");
    let socket = gatepost.data().join("control.sock");
    let mode = std::fs::metadata(&socket).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let status = |method: &str, path: &str, body: &str| {
        let answer = ask(&gatepost, method, path, body);
        answer
            .split_whitespace()
            .nth(1)
            .expect("a status")
            .parse::<u16>()
            .expect("a number")
    };
    assert_eq!(
        status("PUT", "/api/users/eve", r#"{"password": "x", "tags": "administrator"}"#),
        201
    );
    assert_eq!(
        status("PUT", "/api/users/eve", r#"{"password": "y", "tags": ["monitoring"]}"#),
        204
    );
    assert_eq!(status("PUT", "/api/vhosts/a%2Fb", ""), 201);
    assert_eq!(status("PUT", "/api/vhosts/a%2Fb", "null"), 204);
    let all = r#"{"configure": ".*", "write": ".*", "read": ".*"}"#;
    assert_eq!(status("PUT", "/api/permissions/a%2Fb/eve", all), 201);
    assert_eq!(status("PUT", "/api/permissions/a%2Fb/eve", all), 204);
    assert_eq!(status("PUT", "/api/permissions/nowhere/eve", all), 400);
    assert_eq!(
        status("PUT", "/api/permissions/a%2Fb/eve", r#"{"configure": ".*"}"#),
        400
    );
    assert_eq!(
        status("PUT", "/api/user-limits/eve/max-channels", r#"{"value": "7"}"#),
        204
    );
    assert_eq!(status("GET", "/api/users/nobody", ""), 404);
    assert_eq!(status("POST", "/api/users/eve", ""), 405);
    assert_eq!(status("GET", "/api/nonsense", ""), 404);
    for nonsense in ["[]", "{", "7", "\"x\"", r#"{"tags": 7}"#, r#"{"password": 7}"#] {
        assert_eq!(status("PUT", "/api/users/x", nonsense), 400, "{nonsense}");
    }
    assert_eq!(
        status(
            "PUT",
            "/api/users/x",
            &format!("{{\"password\": \"{}\"}}", "x".repeat(2 << 20))
        ),
        413
    );
    let eve = ask(&gatepost, "GET", "/api/users/eve", "");
    assert!(
        eve.contains("content-type: application/json") && eve.contains("cache-control: no-cache"),
        "{eve}"
    );
    assert!(
        eve.contains(r#""tags":["monitoring"]"#) && eve.contains(r#""max-channels":7"#),
        "{eve}"
    );
    let permissions = ask(&gatepost, "GET", "/api/vhosts/a%2Fb/permissions", "");
    assert!(permissions.contains(r#""user":"eve""#), "{permissions}");
    assert!(ask(&gatepost, "GET", "/api/whoami", "").contains("administrator"));
    assert!(ask(&gatepost, "GET", "/api/overview", "").contains(r#""product_name":"Gatepost""#));
    // More than there are places for: they wait, and none is refused.
    let idle: Vec<UnixStream> = (0..12)
        .map(|_| UnixStream::connect(&socket).expect("connected"))
        .collect();
    assert_eq!(status("GET", "/api/vhosts", ""), 200);
    drop(idle);
    assert_eq!(status("POST", "/api/users/bulk-delete", r#"{"users": ["eve"]}"#), 204);
    eventually("she is gone", || {
        !ask(&gatepost, "GET", "/api/permissions", "").contains("eve")
    });
}

#[test]
fn a_listener_has_a_vhost_of_its_own() {
    let port = crate::support::daemon::free_port();
    let floor = format!("[listeners.floor]\nprotocol = \"mqtt\"\nbind = [\"127.0.0.1:{port}\"]\nvhost = \"floor\"\n");
    let gatepost = Gatepost::with(1, &floor);
    // The vhost does not exist yet.
    assert!(Mqtt::try_open(port, "early", true).is_err());
    control(&gatepost, &["vhost", "add", "floor"], "");
    assert!(Mqtt::try_open(port, "stranger", true).is_err(), "nobody may use it yet");
    control(
        &gatepost,
        &["permission", "set", "anonymous", ".*", ".*", ".*", "--vhost", "floor"],
        "",
    );
    let mut here = Mqtt::open(port, "here", true);
    here.subscribe("t", 0).expect("subscribed");
    let mut there = Mqtt::open(gatepost.mqtt, "there", true);
    there.publish("t", 0, b"elsewhere");
    there.flush().expect("sent");
    there.ping().expect("served");
    here.publish("t", 0, b"here");
    here.flush().expect("sent");
    let message = here.next().expect("a message").into_publish().expect("a publish");
    assert_eq!(message.payload, b"here");
}

#[test]
fn without_a_data_directory_nothing_is_made() {
    let output = run(&["user", "list", "--data", "/nowhere/at/all"], &[]);
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("is no data directory"));
}

#[test]
fn a_data_directory_too_long_for_a_socket_is_named_as_that() {
    // The bug: the command line reported that another process uses the directory.
    let mut gatepost = Gatepost::prepare(2, "");
    let toml = std::fs::read_to_string(gatepost.config()).expect("a configuration");
    let data = gatepost.dir.join("d".repeat(120));
    let toml = toml.replace(&format!("{:?}", gatepost.data()), &format!("{data:?}"));
    std::fs::write(gatepost.config(), toml).expect("written");
    gatepost.start_again();
    let text = "and a Unix socket's has at most 107";
    assert!(gatepost.log().contains(text), "{}", gatepost.log());
    for arguments in [&["user", "list"][..], &["ban", "list"]] {
        let (code, said) = try_control(&gatepost, arguments, "");
        assert_eq!(code, Some(UNAVAILABLE), "{said}");
        assert!(said.contains("has no control socket") && said.contains(text), "{said}");
    }
    gatepost.terminate();
    assert!(
        control(&gatepost, &["user", "list"], "").contains("guest"),
        "stopped, it needs no socket"
    );
}

/// As [`ask`], for a gateway that may be killed meanwhile. Returns the first line.
fn try_ask(socket: &Path, method: &str, path: &str, body: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    String::from_utf8(answer).ok()?.lines().next().map(str::to_owned)
}

/// Creates users, each with a permission, and changes their tags, until the gateway is gone. Returns the acknowledged
/// ones.
fn make_users(socket: &Path, round: usize, made: &AtomicUsize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    loop {
        let name = format!("user-{round}-{}", acknowledged.len());
        let steps = [
            ("users", name.clone(), r#"{"password_hash":"","tags":""}"#, "201"),
            (
                "permissions",
                format!("%2F/{name}"),
                r#"{"configure":"","write":"x","read":""}"#,
                "201",
            ),
            (
                "users",
                name.clone(),
                r#"{"password_hash":"","tags":"monitoring"}"#,
                "204",
            ),
        ];
        for (what, id, body, code) in steps {
            let Some(line) = try_ask(socket, "PUT", &format!("/api/{what}/{id}"), body) else {
                return acknowledged;
            };
            assert!(line.contains(code), "{what} {id}: {line}");
        }
        acknowledged.push(name);
        made.fetch_add(1, Ordering::Relaxed);
    }
}

/// A user and a permission that were acknowledged exist after a kill at any moment.
#[test]
fn acknowledged_changes_of_users_survive_a_kill() {
    let mut gatepost = Gatepost::start();
    let socket = gatepost.data().join("control.sock");
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        let made = AtomicUsize::new(0);
        let new = std::thread::scope(|scope| {
            let maker = scope.spawn(|| make_users(&socket, round, &made));
            // In the middle of the next request.
            while made.load(Ordering::Relaxed) < 3 + 5 * round {
                assert!(!maker.is_finished(), "the gateway stopped answering");
                std::thread::yield_now();
            }
            gatepost.kill();
            maker.join().expect("no answer was wrong")
        });
        assert!(new.len() >= 3 + 5 * round);
        acknowledged.extend(new);
        gatepost.start_again();
        let users = ask(&gatepost, "GET", "/api/users", "");
        let permissions = ask(&gatepost, "GET", "/api/permissions", "");
        for name in &acknowledged {
            assert!(
                permissions.contains(&format!("\"{name}\"")),
                "the permission of {name} is lost"
            );
            let user = users.split('{').find(|user| user.contains(&format!("\"{name}\"")));
            assert!(
                user.is_some_and(|user| user.contains("monitoring")),
                "{name} is lost: {user:?}"
            );
        }
    }
}
