//! Verbs about the process of a gateway: `gatepost reload`, `rotate-logs`, `set-log-level`, `environment`, `report`,
//! `stop` and `await-startup`, and rabbitmqctl's names for them.

use crate::control::{command_line, control, try_control};
use crate::support::Gatepost;
use crate::support::amqp::Amqp;
use crate::support::daemon::http_status;
use crate::support::mqtt::Mqtt;
use crate::support::raw::eventually;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const URL_NEEDS_LOGIN: i32 = 69;

fn configure(gatepost: &Gatepost, more: &str) {
    let text = fs::read_to_string(gatepost.config()).expect("the file");
    let text = text.split("# more").next().expect("a beginning").to_owned();
    fs::write(gatepost.config(), format!("{text}# more\n{more}")).expect("written");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_reload_prints_applied_keys_and_those_that_need_a_restart() {
    let gatepost = Gatepost::with(1, "# more\n[mqtt]\nanonymous = \"loopback\"\n");
    drop(Mqtt::open(gatepost.mqtt, "m", true));
    configure(
        &gatepost,
        "[mqtt]\nanonymous = \"deny\"\n[store]\nopen_files = 200\n[limits]\nheartbeat = \"30s\"\n",
    );
    let changes = json(&control(&gatepost, &["reload", "--json"], ""));
    let mut told: Vec<(&str, &str)> = changes
        .as_array()
        .expect("an array")
        .iter()
        .map(|change| {
            let text = |key: &str| change[key].as_str().expect("a text");
            (text("key"), text("applies"))
        })
        .collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            ("limits.heartbeat", "to new connections"),
            ("mqtt.anonymous", "now"),
            ("store.open_files", "after a restart"),
        ]
    );
    assert!(Mqtt::try_open(gatepost.mqtt, "m", true).is_err(), "the new rule holds");
    // Errors are printed, and nothing changes, even if the command line itself cannot use the file.
    configure(
        &gatepost,
        "[mqtt]\nanonymous = \"loopback\"\n[limits]\nmax_conections = 5\nmax_queues = -1\n",
    );
    let (code, said) = try_control(&gatepost, &["reload"], "");
    assert_eq!(code, Some(78), "{said}");
    assert!(
        said.contains("max_conections: unknown key, did you mean max_connections?")
            && said.contains("max_queues: expected"),
        "{said}"
    );
    assert!(
        Mqtt::try_open(gatepost.mqtt, "m", true).is_err(),
        "the rule still holds"
    );
    // `environment` prints what is in effect.
    let keys = control(&gatepost, &["environment", "--changed", "--format", "table"], "");
    assert!(keys.contains("mqtt.anonymous\t\"deny\"\t\"loopback\""), "{keys}");
    assert!(!keys.contains("max_queues"), "{keys}");
    let all = json(&control(&gatepost, &["environment", "--json"], ""));
    assert!(all.as_array().is_some_and(|keys| keys.len() > 100));
    // Over the network only administrators may reload, and nobody can stop the gateway.
    let url = format!("http://127.0.0.1:{}", gatepost.management);
    let output = command_line("gatepost", &["reload", "--url", &url], "");
    assert_eq!(output.status.code(), Some(URL_NEEDS_LOGIN), "{output:?}");
    let output = command_line("gatepost", &["stop", "--url", &url], "");
    assert_eq!(output.status.code(), Some(64), "{output:?}");
}

#[test]
fn the_log_s_level_and_file_change_while_the_gateway_runs() {
    let mut gatepost = Gatepost::prepare(1, "");
    let path = gatepost.dir.join("people.log");
    configure(&gatepost, &format!("[log]\ntarget = {path:?}\n"));
    gatepost.start_again();
    let text = || fs::read_to_string(&path).unwrap_or_default();
    eventually("the first lines", || text().contains("ready"));
    let moved = gatepost.dir.join("people.log.1");
    fs::rename(&path, &moved).expect("moved");
    control(&gatepost, &["rotate-logs"], "");
    eventually("a new file", || text().contains("opened anew"));
    control(&gatepost, &["set-log-level", "warn"], "");
    eventually("the last line at info", || {
        text().contains("until the next reload or start")
    });
    drop(Mqtt::open(gatepost.mqtt, "quiet", true));
    // A refused login is a warning. It comes later than the lines that are not logged any more.
    assert!(crate::control::open(&gatepost, "loud", "guest", "wrong").is_err());
    eventually("the warning", || text().contains("login refused"));
    assert!(!text().contains("client connected"), "{}", text());
    // After a reload the configuration's level applies again.
    control(&gatepost, &["reload"], "");
    drop(Mqtt::open(gatepost.mqtt, "heard", true));
    eventually("lines at info", || text().contains("client connected"));
    let (code, said) = try_control(&gatepost, &["set-log-level", "loud"], "");
    assert_eq!(code, Some(65), "{said}");
    assert!(said.contains("expected error, warn"), "{said}");
}

#[test]
fn a_report_has_the_data_for_diagnosis_and_no_messages() {
    let gatepost = Gatepost::with(1, "[limits]\nmax_queues = 77\n");
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("q", true).expect("a queue");
    control(&gatepost, &["publish", "amq.default", "q", "s3cret-body"], "");
    let report = control(&gatepost, &["report"], "");
    for part in ["== status", "Gatepost", "limits.max_queues", "77", "== log", "ready"] {
        assert!(report.contains(part), "{part} in {report}");
    }
    assert!(!report.contains("s3cret-body"));
    let report = json(&control(&gatepost, &["report", "--json"], ""));
    assert_eq!(report["status"]["product"], "Gatepost");
    assert!(report["log"].as_array().is_some_and(|lines| !lines.is_empty()));
}

#[test]
fn a_gateway_is_waited_for_and_stopped() {
    let mut gatepost = Gatepost::prepare(1, "");
    let config = gatepost.config();
    let at = ["--config", config.to_str().expect("Unicode")];
    let (code, said) = try_control(&gatepost, &["await-startup", "--timeout", "1"], "");
    assert_eq!(code, Some(75), "{said}");
    assert!(said.contains("no gateway runs"), "{said}");
    let mut waiting = Command::new(env!("CARGO_BIN_EXE_gatepost"))
        .args(["await-startup", "--timeout", "600"])
        .args(at)
        .stdout(Stdio::null())
        .spawn()
        .expect("the command starts");
    gatepost.start_again();
    assert!(waiting.wait().expect("it ends").success());
    assert_eq!(http_status(gatepost.metrics, "/readyz"), Some(200));
    let output = command_line("gatepostctl", &[&["stop"][..], &at].concat(), "");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // The gateway had ended when the command returned: the directory can be used.
    assert!(control(&gatepost, &["user", "list"], "").contains("guest"));
    assert!(gatepost.wait_for_end(Duration::from_secs(60)).0.success());
    assert!(
        gatepost.log().contains("asked to by the control socket"),
        "{}",
        gatepost.log()
    );
    let (code, said) = try_control(&gatepost, &["stop"], "");
    assert_eq!(code, Some(69), "{said}");
}

#[test]
fn a_configuration_is_checked_by_a_verb_too() {
    let gatepost = Gatepost::prepare(1, "");
    let config = gatepost.config();
    let check = |name: &str, verb: &str| {
        let output = command_line(name, &[verb, "--config", config.to_str().expect("Unicode")], "");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).expect("text"))
    };
    assert_eq!(
        check("gatepost", "check-config"),
        (Some(0), "the configuration is good\n".to_owned())
    );
    configure(&gatepost, "[limits]\nmax_queues = \"many\"\n");
    let (code, said) = check("gatepostctl", "check_config");
    assert_eq!(code, Some(78));
    assert!(said.contains("limits.max_queues: expected"), "{said}");
    let output = command_line("rabbitmqctl", &["version"], "");
    assert!(output.stdout.starts_with(b"gatepost "), "{output:?}");
}

#[test]
fn top_draws_frames_and_restores_the_terminal() {
    let gatepost = Gatepost::with(1, "");
    let mut amqp = Amqp::open(gatepost.amqp);
    amqp.declare_queue("watched", true).expect("a queue");
    control(&gatepost, &["publish", "amq.default", "watched", "x"], "");
    let frame = control(&gatepost, &["top", "--once", "--interval", "1"], "");
    let line = |start: &str| {
        let line = frame.lines().find(|line| line.starts_with(start));
        line.unwrap_or_else(|| panic!("{start} in {frame}")).to_owned()
    };
    assert!(line("gatepost@").contains("alarms: "), "{frame}");
    assert_eq!(
        line("watched").split_whitespace().collect::<Vec<_>>(),
        ["watched", "1", "0", "0", "0.0", "0.0"],
        "{frame}"
    );
    assert!(line("127.0.0.1:").contains("guest"), "{frame}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/terminal.py");
    let output = Command::new("python3")
        .arg(script)
        .args([
            env!("CARGO_BIN_EXE_gatepost"),
            gatepost.config().to_str().expect("Unicode"),
            "watched",
        ])
        .output()
        .expect("python3 runs");
    assert!(output.status.success(), "{output:?}");
}

/// Each file of the package exists, or is made by the script.
#[test]
fn the_package_has_its_pages_and_completions() {
    let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    let to = tempfile::tempdir().expect("a directory");
    let status = Command::new(crate_dir.join("../deploy/debian/pages"))
        .args([Path::new(env!("CARGO_BIN_EXE_gatepost")), to.path()])
        .status();
    assert!(status.expect("bash runs").success());
    let manifest = fs::read_to_string(crate_dir.join("Cargo.toml")).expect("the manifest");
    let assets = manifest.lines().filter_map(|line| line.trim().strip_prefix("[\"../"));
    let mut made = 0;
    for asset in assets.filter_map(|line| line.split('"').next()) {
        let path = match asset.strip_prefix("target/pages/") {
            Some(name) => {
                made += 1;
                to.path().join(name)
            }
            // `*.md` is whatever pages the directory has.
            None => crate_dir.join("..").join(asset.strip_suffix("/*.md").unwrap_or(asset)),
        };
        assert!(
            fs::symlink_metadata(&path).is_ok_and(|file| file.len() > 0),
            "{}",
            path.display()
        );
    }
    assert!(made > 6, "{made}");
    let completions = to.path().join("gatepost.bash");
    let words = Command::new("bash")
        .arg("-c")
        .arg("source \"$0\"; COMP_WORDS=(gatepostctl list_q); COMP_CWORD=1; _gatepost; echo \"${COMPREPLY[*]}\"")
        .arg(completions)
        .output()
        .expect("bash runs");
    assert_eq!(String::from_utf8_lossy(&words.stdout), "list_queues\n", "{words:?}");
}
