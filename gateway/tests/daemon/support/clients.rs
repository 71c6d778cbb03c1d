//! Third-party clients: pinned, installed once under the target directory, and run as scripts.
//!
//! A script finds the daemon in environment variables, runs its cases, and exits with 0 if all passed. A line of its
//! output that begins with `@` asks this side to do something with the daemon (`@kill`, `@start`, …), and is answered
//! by one line on its standard input.

use super::Gatepost;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Runs `gateway/tests/clients/<script>` with Python.
pub(crate) fn python(gatepost: &mut Gatepost, script: &str) {
    run(gatepost, Command::new(&installed().python), script);
}

/// Runs `gateway/tests/clients/<script>` with Node.
pub(crate) fn node(gatepost: &mut Gatepost, script: &str) {
    let mut command = Command::new("node");
    command.env("GATEPOST_NODE_MODULES", installed().node.join("node_modules"));
    run(gatepost, command, script);
}

/// The same over WebSocket.
pub(crate) fn python_over_websocket(gatepost: &mut Gatepost, script: &str) {
    let mut command = Command::new(&installed().python);
    command.env("GATEPOST_TRANSPORT", "websockets");
    run(gatepost, command, script);
}

/// The same over QUIC.
pub(crate) fn python_over_quic(gatepost: &mut Gatepost, script: &str) {
    let mut command = Command::new(&installed().python);
    command.env("GATEPOST_TRANSPORT", "quic");
    run(gatepost, command, script);
}

/// The same over WebSocket.
pub(crate) fn node_over_websocket(gatepost: &mut Gatepost, script: &str) {
    let mut command = Command::new("node");
    command
        .env("GATEPOST_TRANSPORT", "websockets")
        .env("GATEPOST_NODE_MODULES", installed().node.join("node_modules"));
    run(gatepost, command, script);
}

/// Installs the clients if necessary: for a test whose preparations would expire meanwhile.
pub(crate) fn have_installed() {
    installed();
}

fn run(gatepost: &mut Gatepost, mut command: Command, script: &str) {
    let mut child = command
        .arg(sources().join(script))
        .current_dir(&gatepost.dir)
        .env("GATEPOST_AMQP", gatepost.amqp.to_string())
        .env("GATEPOST_MQTT", gatepost.mqtt.to_string())
        .env("GATEPOST_STOMP", gatepost.stomp.to_string())
        .env("GATEPOST_WEB_MQTT", gatepost.web_mqtt.to_string())
        .env("GATEPOST_WEB_STOMP", gatepost.web_stomp.to_string())
        .env("GATEPOST_MANAGEMENT", gatepost.management.to_string())
        .env("GATEPOST_METRICS", gatepost.metrics.to_string())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{script}: {e}; {REQUIRED}"));
    let mut input = child.stdin.take().expect("a pipe");
    let (lines, received) = channel();
    forward(child.stdout.take().expect("a pipe"), lines.clone());
    forward(child.stderr.take().expect("a pipe"), lines);

    let began = Instant::now();
    let mut output = String::new();
    let in_time = loop {
        match next(&received, began) {
            Ok(line) => match line.strip_prefix('@') {
                Some(request) => {
                    let answer = obey(gatepost, request);
                    if writeln!(input, "{answer}").is_err() {
                        break true;
                    }
                }
                None => {
                    output.push_str(&line);
                    output.push('\n');
                }
            },
            Err(RecvTimeoutError::Disconnected) => break true,
            Err(RecvTimeoutError::Timeout) => break false,
        }
    };
    if !in_time {
        let _ = child.kill();
    }
    let status = child.wait().expect("a child to bury");
    assert!(in_time, "{script} took more than {SCRIPT_LIMIT:?}; it wrote:\n{output}");
    assert!(status.success(), "{script} ended with {status}; it wrote:\n{output}");
    println!("{script}:\n{output}");
}

fn next(received: &Receiver<String>, began: Instant) -> Result<String, RecvTimeoutError> {
    received.recv_timeout(SCRIPT_LIMIT.saturating_sub(began.elapsed()))
}

fn obey(gatepost: &mut Gatepost, request: &str) -> String {
    match request {
        "kill" => gatepost.kill(),
        "terminate" => drop(gatepost.terminate()),
        "start" => gatepost.start_again(),
        "hangup" => gatepost.signal("HUP"),
        "resident" => return gatepost.resident().to_string(),
        other => panic!("a script asks for {other:?}"),
    }
    "done".to_owned()
}

fn forward(from: impl Read + Send + 'static, lines: Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
}

struct Installed {
    python: PathBuf,
    node: PathBuf,
}

/// Installs what is missing. Tests of one process wait for the cell, other processes for the lock file.
fn installed() -> &'static Installed {
    static INSTALLED: OnceLock<Installed> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let home = tmp.parent().unwrap_or(tmp).join("clients");
        fs::create_dir_all(&home).expect("a directory for the clients");
        let lock = File::create(home.join("lock")).expect("a lock file");
        lock.lock().expect("the lock of the clients");
        let venv = home.join("venv");
        let node = home.join("node");
        install(&venv, "python", &["requirements.txt"], |python| {
            step(Command::new("python3").args(["-m", "venv", "--clear"]).arg(python));
            step(
                Command::new(python.join("bin/python"))
                    .args([
                        "-m",
                        "pip",
                        "install",
                        "--quiet",
                        "--disable-pip-version-check",
                        "--requirement",
                    ])
                    .arg(sources().join("requirements.txt")),
            );
        });
        install(&node, "node", &["package.json", "package-lock.json"], |node| {
            for file in ["package.json", "package-lock.json"] {
                fs::copy(sources().join(file), node.join(file)).expect("a copy of the package file");
            }
            step(
                Command::new("npm")
                    .args(["ci", "--silent", "--no-audit", "--no-fund"])
                    .current_dir(node),
            );
        });
        Installed {
            python: venv.join("bin/python"),
            node,
        }
    })
}

/// Runs `steps` unless they were run for these `files` before; the stamp is written last.
fn install(directory: &Path, what: &str, files: &[&str], steps: impl Fn(&Path)) {
    let wanted: String = files
        .iter()
        .map(|f| fs::read_to_string(sources().join(f)).expect("a list of clients"))
        .collect();
    let stamp = directory.join("installed");
    if fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return;
    }
    println!("installing the {what} clients into {}", directory.display());
    let _ = fs::remove_dir_all(directory);
    fs::create_dir_all(directory).expect("a directory for the clients");
    steps(directory);
    fs::write(stamp, wanted).expect("a stamp");
}

fn step(command: &mut Command) {
    let output = command
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; {REQUIRED}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}; {REQUIRED}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

const REQUIRED: &str = "these tests need python3 (3.9 or newer, with venv and pip), node (18 or newer), npm, mosquitto and chromium, \
                        and reach PyPI and npm once; on Debian: apt install python3-venv python3-pip nodejs npm mosquitto chromium";
const SCRIPT_LIMIT: Duration = Duration::from_secs(120);
