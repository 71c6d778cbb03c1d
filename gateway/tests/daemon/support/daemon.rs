//! The daemon of one test: the built binary, a directory under the target directory, ports of its own.
//!
//! A failing test keeps the directory and prints the daemon's log. If the daemon panicked, the test fails.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A running daemon and its ports. Ports and data stay the same over restarts.
pub(crate) struct Gatepost {
    pub(crate) amqp: u16,
    pub(crate) mqtt: u16,
    pub(crate) stomp: u16,
    /// MQTT and STOMP over WebSocket.
    pub(crate) web_mqtt: u16,
    pub(crate) web_stomp: u16,
    pub(crate) metrics: u16,
    pub(crate) management: u16,
    /// Holds `gatepost.toml`, `data/`, and `log`, which collects the standard error of every run.
    pub(crate) dir: PathBuf,
    /// From spawn to a positive `/readyz`, in the last start.
    pub(crate) ready_after: Duration,
    process: Option<Child>,
}

impl Gatepost {
    /// Starts with two I/O threads and the default settings.
    pub(crate) fn start() -> Self {
        Gatepost::with(2, "")
    }

    /// Starts with `io_threads` and further tables of configuration.
    pub(crate) fn with(io_threads: u32, settings: &str) -> Self {
        let mut gatepost = Gatepost::prepare(io_threads, settings);
        gatepost.start_again();
        gatepost
    }

    /// Creates directory, ports and configuration, and starts nothing.
    pub(crate) fn prepare(io_threads: u32, settings: &str) -> Self {
        let [amqp, mqtt, stomp, web_mqtt, web_stomp, metrics, management] = std::array::from_fn(|_| free_port());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("gatepost-{}-{amqp}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory for the test");
        let data = dir.join("data");
        let mut toml = format!("[node]\ndata_dir = {data:?}\nio_threads = {io_threads}\n");
        for (listener, port) in [
            ("amqp", amqp),
            ("mqtt", mqtt),
            ("stomp", stomp),
            ("web_mqtt", web_mqtt),
            ("web_stomp", web_stomp),
            ("metrics", metrics),
            ("management", management),
        ] {
            let _ = write!(toml, "[listeners.{listener}]\nbind = [\"127.0.0.1:{port}\"]\n");
        }
        toml.push_str(settings);
        fs::write(dir.join("gatepost.toml"), toml).expect("a configuration file");
        Gatepost {
            amqp,
            mqtt,
            stomp,
            web_mqtt,
            web_stomp,
            metrics,
            management,
            dir,
            ready_after: Duration::ZERO,
            process: None,
        }
    }

    /// Starts on the existing data. Returns once it is ready.
    pub(crate) fn start_again(&mut self) {
        self.start_with_environment(&[]);
    }

    /// The same, with environment variables.
    pub(crate) fn start_with_environment(&mut self, environment: &[(&str, &str)]) {
        self.start_command(Command::new(program()).envs(environment.iter().copied()));
    }

    /// The same, through a command that gets the binary and its arguments and executes it.
    pub(crate) fn start_under(&mut self, wrapper: &[&str]) {
        let (program, arguments) = wrapper.split_first().expect("a command");
        self.start_command(Command::new(program).args(arguments).arg(BINARY));
    }

    fn start_command(&mut self, command: &mut Command) {
        assert!(self.process.is_none(), "it is running already");
        let log = self.log_file();
        let began = Instant::now();
        let child = command
            .env_remove(PROGRAM)
            .arg("--config")
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle to the log"))
            .stderr(log)
            .spawn()
            .expect("the daemon starts");
        self.process = Some(child);
        while !serves(self.metrics) {
            if let Some(status) = self
                .process
                .as_mut()
                .expect("just started")
                .try_wait()
                .expect("a child to ask")
            {
                panic!(
                    "the daemon ended with {status} before it was ready; its log:\n{}",
                    self.log()
                );
            }
            assert!(
                began.elapsed() < READY_WITHIN,
                "not ready after {READY_WITHIN:?}; its log:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(3));
        }
        self.ready_after = began.elapsed();
    }

    /// `kill -9`: the process cannot write anything more.
    pub(crate) fn kill(&mut self) {
        let mut child = self.process.take().expect("it runs");
        child.kill().expect("a child to kill");
        child.wait().expect("a child to bury");
    }

    /// SIGTERM, as an init system sends it. Returns the exit status, and how long the stop took.
    pub(crate) fn terminate(&mut self) -> (ExitStatus, Duration) {
        self.signal("TERM");
        self.wait_for_end(Duration::from_secs(30))
    }

    /// Sends a signal by name, without waiting for anything.
    pub(crate) fn signal(&self, name: &str) {
        let script = format!("kill -{name} {}", self.pid());
        assert!(
            Command::new("sh")
                .args(["-c", &script])
                .status()
                .expect("a shell")
                .success(),
            "{script}"
        );
    }

    /// Waits for the process to end by itself.
    pub(crate) fn wait_for_end(&mut self, limit: Duration) -> (ExitStatus, Duration) {
        let began = Instant::now();
        let mut child = self.process.take().expect("it runs");
        loop {
            if let Some(status) = child.try_wait().expect("a child to ask") {
                return (status, began.elapsed());
            }
            if began.elapsed() > limit {
                self.process = Some(child);
                panic!("still running after {limit:?}; its log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// Whether the process is there (and not a zombie).
    pub(crate) fn is_running(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|child| child.try_wait().expect("a child to ask").is_none())
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident(&self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("a VmRSS line");
        1024 * line.trim().trim_end_matches(" kB").parse::<u64>().expect("kilobytes")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("gatepost.toml")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The output of all runs.
    pub(crate) fn log(&self) -> String {
        fs::read(self.dir.join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn log_file(&self) -> File {
        let path = self.dir.join("log");
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }
}

impl Drop for Gatepost {
    fn drop(&mut self) {
        let gone_already = self.process.is_some() && !self.is_running();
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let log = self.log();
        let panicked = log.contains("panicked at");
        if std::thread::panicking() {
            let tail = log.len().saturating_sub(8_000);
            let tail = log.ceil_char_boundary(tail);
            println!(
                "the daemon's directory is {}, its log ends:\n{}",
                self.dir.display(),
                &log[tail..]
            );
            return;
        }
        assert!(!panicked, "the daemon panicked; {}:\n{log}", self.dir.display());
        assert!(
            !gone_already,
            "the daemon ended while the test ran; {}:\n{log}",
            self.dir.display()
        );
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Runs the binary to its end with `arguments`, for tests of its command line.
pub(crate) fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let child = Command::new(BINARY)
        .args(arguments)
        .env_remove(PROGRAM)
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the daemon starts");
    // A binary that should refuse to start and serves instead must not block the suite.
    let pid = child.id();
    let (ended, watch) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if watch.recv_timeout(READY_WITHIN).is_err() {
            let _ = Command::new("sh").args(["-c", &format!("kill -9 {pid}")]).status();
        }
    });
    let output = child.wait_with_output().expect("output");
    let _ = ended.send(());
    let _ = watchdog.join();
    output
}

/// The status of a plain HTTP GET, if anything answers.
pub(crate) fn http_status(port: u16, path: &str) -> Option<u16> {
    http(port, path)?.split_whitespace().nth(1)?.parse().ok()
}

/// Whether the daemon is up: ready, or not ready because its disk is full, since consumers are served then.
fn serves(port: u16) -> bool {
    http(port, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200") || answer.contains("disk is full"))
}

/// The whole answer to a plain HTTP GET, head and body.
pub(crate) fn http(port: u16, path: &str) -> Option<String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// A free port below the range from which the kernel assigns clients' ports. So no client of another test can have it
/// when the daemon restarts.
pub(crate) fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(193);
    loop {
        let n = start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + n % COUNT).expect("a port");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// The program of [`Gatepost`]: the one just built, or the one that [`PROGRAM`] names.
fn program() -> OsString {
    std::env::var_os(PROGRAM).unwrap_or_else(|| BINARY.into())
}

/// Set by `.ci/arm`, which runs a test with a program for another machine. The name does not begin with `GATEPOST__`,
/// since the daemon would take it for a setting.
const PROGRAM: &str = "GATEPOST_TEST_PROGRAM";

const BINARY: &str = env!("CARGO_BIN_EXE_gatepost");
const READY_WITHIN: Duration = Duration::from_secs(60);
