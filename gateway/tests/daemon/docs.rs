//! Types what the README and the pages of docs/ tell a reader to type.
//!
//! Each page has a reader of its own: an empty directory, and a gateway that runs there with `gatepost`. The reader
//! types the lines of the page's `console` blocks one after the other, unchanged except for ports, the name of the
//! machine and files in `/etc`. Every line must succeed. A block that no test can run is marked `console by-hand`, and
//! a comment above it gives the reason: `<!-- by hand: the reason -->`.

use crate::support::daemon::{free_port, http_status};
use crate::support::raw::eventually;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The listeners with their ports, plain and with TLS, as in the pages.
const LISTENERS: [(&str, u16, Option<u16>); 7] = [
    ("amqp", 5672, Some(5671)),
    ("mqtt", 1883, Some(8883)),
    ("stomp", 61613, Some(61614)),
    ("web_mqtt", 15675, Some(15676)),
    ("web_stomp", 15674, Some(15673)),
    ("management", 15672, Some(15671)),
    ("metrics", 15692, None),
];

/// The reader's answer where a password is asked for. The pages name it.
const PASSWORD: &str = "the-password";

/// Far more than a line needs. It ends a line that would wait for ever.
const LINE_LIMIT_SECONDS: &str = "120";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The README and the pages of the book, by their paths in the repository.
fn pages() -> Vec<String> {
    let mut pages = vec!["README.md".to_owned()];
    for entry in fs::read_dir(repository().join("docs")).expect("a directory") {
        let name = entry
            .expect("an entry")
            .file_name()
            .into_string()
            .expect("a name in UTF-8");
        if name.ends_with(".md") {
            pages.push(format!("docs/{name}"));
        }
    }
    pages.sort();
    pages
}

/// A block of code of a page.
struct Block {
    /// Line number of its first line.
    line: usize,
    /// The text after the three backticks.
    info: String,
    lines: Vec<String>,
    /// Whether the comment above it gives the reason why it is by hand.
    says_why: bool,
}

fn blocks(page: &str) -> Vec<Block> {
    let text = fs::read_to_string(repository().join(page)).expect("a page");
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    let mut above = "";
    for (n, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(info), None) => {
                open = Some(Block {
                    line: n + 2,
                    info: info.to_owned(),
                    lines: Vec::new(),
                    says_why: above.starts_with("<!-- by hand: ") && above.ends_with(" -->"),
                });
            }
            (None, Some(block)) => block.lines.push(line.to_owned()),
            (None, None) if !line.is_empty() => above = line,
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{page}: a block of code does not end");
    blocks
}

/// A line without the comment at its end, if it is a command.
fn command(line: &str) -> Option<&str> {
    let command = if line.starts_with('#') {
        ""
    } else {
        line.split(" #").next().unwrap_or(line)
    }
    .trim();
    Some(command).filter(|command| !command.is_empty())
}

/// Whether a command is the gateway itself, which runs until it is stopped.
fn is_gateway(command: &str) -> bool {
    let mut words = command.split(' ');
    if words.next() != Some("gatepost") {
        return false;
    }
    let words: Vec<&str> = words.collect();
    words.chunks(2).all(|pair| matches!(pair, ["--config" | "--data", _]))
}

/// A reader with a page and a terminal.
struct Reader {
    page: String,
    directory: PathBuf,
    /// Ports of the pages, and the free ports to use instead.
    ports: Vec<(u16, u16)>,
    environment: Vec<(String, String)>,
    /// Addresses of the listeners with TLS. Without a certificate they would be refused.
    tls_environment: Vec<(String, String)>,
    gateway: Option<Child>,
}

impl Reader {
    fn new(page: &str) -> Self {
        let name = page.replace(['/', ':'], "-");
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("docs-{}-{name}", std::process::id()));
        fs::create_dir_all(directory.join("bin")).expect("a directory for the reader");
        symlink(env!("CARGO_BIN_EXE_gatepost"), directory.join("bin/gatepost")).expect("a link to the program");
        let mut path = std::ffi::OsString::from(directory.join("bin"));
        path.push(":");
        path.push(std::env::var_os("PATH").expect("a PATH"));
        let mut environment = vec![("PATH".to_owned(), path.into_string().expect("a PATH in UTF-8"))];
        let (mut tls_environment, mut ports) = (Vec::new(), Vec::new());
        for (listener, plain, tls) in LISTENERS {
            let mut listens = |port, key: &str| {
                let ours = free_port();
                ports.push((port, ours));
                let name = format!("GATEPOST__LISTENERS__{}__{key}", listener.to_uppercase());
                (name, format!("[\"127.0.0.1:{ours}\"]"))
            };
            environment.push(listens(plain, "BIND"));
            tls_environment.extend(tls.map(|tls| listens(tls, "TLS_BIND")));
        }
        let reader = Reader {
            page: page.to_owned(),
            directory,
            ports,
            environment,
            tls_environment,
            gateway: None,
        };
        reader.prepare_files();
        reader
    }

    /// Creates the files that the pages expect.
    fn prepare_files(&self) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients");
        fs::copy(
            source.join("rabbitmq-3.10-definitions.json"),
            self.directory.join("definitions.json"),
        )
        .expect("definitions");
        for directory in ["etc/mosquitto/conf.d", "etc/gatepost"] {
            fs::create_dir_all(self.directory.join(directory)).expect("a directory");
        }
        let write = |path: &str, text: &str| fs::write(self.directory.join(path), text).expect("a file");
        write(
            "etc/mosquitto/mosquitto.conf",
            &self.here(
                "persistence true\nlistener 1883\nallow_anonymous false\npassword_file /etc/mosquitto/passwords\n\
                 acl_file /etc/mosquitto/acl\ninclude_dir /etc/mosquitto/conf.d\n",
            ),
        );
        // `s3cret`, hashed by mosquitto_passwd.
        write("etc/mosquitto/passwords", &format!("ann:{}\n", crate::access::HASH));
        write("etc/mosquitto/acl", "user ann\ntopic readwrite plant/#\n");
        write("etc/gatepost/jwks.json", "{\"keys\": []}");
        self.run("gatepost cert dev --name localhost --dir etc/gatepost");
        fs::copy(
            self.directory.join("definitions.json"),
            self.directory.join("etc/gatepost/definitions.json"),
        )
        .expect("definitions");
    }

    /// Adapts a text of a page to other ports, this directory and this machine.
    fn here(&self, text: &str) -> String {
        let text = text
            .replace("edge.plant.example", "localhost")
            .replace("/etc/", &format!("{}/etc/", self.directory.display()));
        let mut changed = String::new();
        let mut digits = String::new();
        for c in text.chars().chain(['\n']) {
            if c.is_ascii_digit() {
                digits.push(c);
                continue;
            }
            match self.ports.iter().find(|(port, _)| port.to_string() == digits) {
                Some((_, ours)) => changed.push_str(&ours.to_string()),
                None => changed.push_str(&digits),
            }
            digits.clear();
            changed.push(c);
        }
        changed.pop();
        changed
    }

    fn shell(&self, line: &str, limit: &[&str]) -> Command {
        let mut command = Command::new("env");
        command
            .args(limit)
            .args(["bash", "-euo", "pipefail", "-c", line])
            .current_dir(&self.directory)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Types a line unchanged, and the password if it is asked for. Returns the result.
    fn try_run(&self, line: &str) -> (bool, String) {
        let mut child = self
            .shell(line, &["timeout", LINE_LIMIT_SECONDS])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a shell");
        // The line may not read it.
        let _ = writeln!(child.stdin.take().expect("a pipe"), "{PASSWORD}");
        let output = child.wait_with_output().expect("output");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    #[track_caller]
    fn run(&self, line: &str) -> String {
        let (success, text) = self.try_run(line);
        assert!(success, "{}: {line}\n{text}\n{}", self.page, self.log());
        text
    }

    /// Starts a gateway. A running one is stopped first, as by Ctrl-C.
    fn start(&mut self, line: &str) {
        self.stop();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join("log"))
            .expect("a log");
        let mut command = self.shell(&format!("exec {line}"), &[]);
        let config = line.split_once("--config ").map(|(_, file)| self.directory.join(file));
        if config.is_some_and(|file| fs::read_to_string(file).expect("a configuration").contains("cert =")) {
            command.envs(self.tls_environment.iter().map(|(name, value)| (name, value)));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(File::try_clone(&log).expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("a shell");
        let gateway = self.gateway.insert(child);
        let metrics = self.ports.iter().find(|(port, _)| *port == 15692).expect("a port").1;
        let (page, log) = (&self.page, self.directory.join("log"));
        eventually(&format!("{page}: {line} is ready"), || {
            let ended = gateway.try_wait().expect("a child to ask");
            assert!(
                ended.is_none(),
                "{page}: {line} ended\n{}",
                fs::read_to_string(&log).unwrap_or_default()
            );
            http_status(metrics, "/readyz") == Some(200)
        });
    }

    fn stop(&mut self) {
        let Some(mut gateway) = self.gateway.take() else { return };
        let id = gateway.id();
        let _ = Command::new("sh").args(["-c", &format!("kill -INT {id}")]).status();
        eventually("a gateway ends after Ctrl-C", || {
            gateway.try_wait().expect("a child to ask").is_some()
        });
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// Types everything that the page says.
    fn follow(&mut self) {
        self.start("gatepost");
        for block in blocks(&self.page.clone()) {
            if block.info != "console" {
                continue;
            }
            for (n, line) in block.lines.iter().enumerate() {
                let Some(command) = command(line) else { continue };
                println!("{}:{}: {line}", self.page, block.line + n);
                let line = self.here(command);
                if is_gateway(command) {
                    self.start(&line);
                } else if command.starts_with("mosquitto_sub ") {
                    // It would wait for messages. With -E it ends when the subscription is answered.
                    let text = self.run(&format!("{line} -E"));
                    assert!(!text.contains("denied"), "{}: {line}\n{text}", self.page);
                } else {
                    // With these options, curl fails if the answer is an error.
                    self.run(&line.replace("curl ", "curl --fail --silent --show-error "));
                }
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(mut gateway) = self.gateway.take() {
            let _ = gateway.kill();
            let _ = gateway.wait();
        }
        if std::thread::panicking() {
            println!("the reader's directory is {}", self.directory.display());
            return;
        }
        assert!(
            !self.log().contains("panicked at"),
            "the gateway panicked:\n{}",
            self.log()
        );
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Checks that the lines did what the page says, and did not only succeed.
fn check(reader: &Reader) {
    match reader.page.as_str() {
        "docs/operating.md" => assert!(reader.run("gatepost permission list").contains("plant")),
        "docs/from-mosquitto.md" => {
            let publish = |password| format!("mosquitto_pub -p 1883 -u ann -P {password} -q 1 -t plant/a -m 1");
            reader.run(&reader.here(&publish("s3cret")));
            let (success, text) = reader.try_run(&reader.here(&publish("wrong")));
            assert!(!success, "{text}");
        }
        "docs/security.md" => {
            let device = format!("-p 1883 -u plant-1 -P {PASSWORD}");
            // Both clients exit with 0 anyway.
            let told = |command: String| reader.run(&reader.here(&command));
            let publish = |topic| told(format!("mosquitto_pub {device} -V 5 -q 1 -t {topic} -m 1"));
            let subscribe = |topic| told(format!("mosquitto_sub {device} -i one -E -t {topic}"));
            assert_eq!(publish("plant/plant-1/readings/temp"), "");
            assert!(publish("plant/plant-2/readings/temp").contains("Not authorized"));
            assert_eq!(subscribe("plant/plant-1/commands/valve"), "");
            assert!(subscribe("'plant/#'").contains("denied"));
            assert!(!reader.run("gatepost user list").contains("guest"));
        }
        "docs/from-rabbitmq.md" => assert!(reader.run("gatepost user list").contains("operator")),
        _ => {}
    }
}

#[test]
fn the_commands_in_the_pages_work() {
    std::thread::scope(|scope| {
        for page in pages() {
            if !blocks(&page).iter().any(|block| block.info == "console") {
                continue;
            }
            std::thread::Builder::new()
                .name(page.clone())
                .spawn_scoped(scope, move || {
                    let mut reader = Reader::new(&page);
                    reader.follow();
                    check(&reader);
                    reader.stop();
                })
                .expect("a thread");
        }
    });
}

#[test]
fn blocks_that_are_not_run_have_a_reason() {
    for page in pages() {
        for block in blocks(&page) {
            let place = format!("{page}:{}", block.line);
            match block.info.as_str() {
                "console by-hand" => assert!(block.says_why, "{place}: no line <!-- by hand: the reason --> above it"),
                "console" | "toml" | "text" | "python" | "json" => {}
                other => panic!("{place}: {other:?} is no kind of block that docs.rs knows"),
            }
        }
    }
}

#[test]
fn configurations_in_the_pages_are_valid() {
    let mut checked = 0;
    for page in pages() {
        for block in blocks(&page).iter().filter(|block| block.info == "toml") {
            let reader = Reader::new(&format!("{page}:{}", block.line));
            let text = reader.here(&block.lines.join("\n"));
            fs::write(reader.directory.join("gatepost.toml"), text).expect("a configuration");
            reader.run("gatepost --config gatepost.toml --check-config");
            checked += 1;
        }
    }
    assert!(checked > 0, "no page has a configuration");
}
