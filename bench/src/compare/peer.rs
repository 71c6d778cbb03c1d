//! The brokers that are compared: where their programs are, their configuration, and how they start and stop. Each gets
//! its own directory and ports on the loopback, and the settings of a fair comparison: no limit that another does not
//! have, no plug-in that is not measured.

use crate::connect;
use crate::meter;
use crate::plan::{Endpoint, Protocol};
use crate::transport::Carrier;
use anyhow::{Context, bail, ensure};
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A broker to compare.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) kind: Kind,
    /// `None` if it is not installed.
    pub(crate) program: Option<PathBuf>,
    pub(crate) settings: Settings,
}

/// Settings of a broker besides its defaults and those that all comparisons need.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// Keep queues on disk first, if the broker offers it: lazy queues in RabbitMQ, a snapshot every ten seconds in
    /// Mosquitto.
    pub(crate) disk_first: bool,
    /// Gatepost's `store.durability`; `None`: its default.
    pub(crate) durability: Option<&'static str>,
    /// Whether Gatepost opens a port for metrics.
    pub(crate) metrics: bool,
    /// Run under strace, and write the broker's syncs to this file.
    pub(crate) syncs_to: Option<PathBuf>,
    /// The transport of Gatepost's protocols.
    pub(crate) carrier: Carrier,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Gatepost { io_threads: usize },
    RabbitMq,
    Mosquitto,
    Rumqttd,
    Nats,
}

/// A running broker. Dropping this stops it.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// The broker's own process, not its start scripts.
    pub(crate) pid: u32,
    /// The port of each protocol it speaks.
    ports: Vec<(Protocol, u16)>,
    carrier: Carrier,
    /// The port of Gatepost's metrics.
    pub(crate) metrics: Option<u16>,
    /// RabbitMQ's port mapper, which keeps running after it.
    port_mapper: Option<(u16, PathBuf)>,
    /// Time from the start of the program until every port answered.
    pub(crate) ready_in: Duration,
}

/// A broker that is not ready by then counts as failed.
const START_TIMEOUT: Duration = Duration::from_secs(300);
/// A broker that has not stopped by then is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(180);
/// Maximum unacknowledged deliveries of a client, where a broker has such a limit for MQTT.
const MQTT_INFLIGHT: u16 = 500;
/// How long the start scripts of a killed broker may take to end.
const SCRIPTS_TIMEOUT: Duration = Duration::from_secs(10);
/// How often RabbitMQ's port mapper is asked to stop.
const PORT_MAPPER_TRIES: usize = 40;
/// Mosquitto writes all its data in one go, by default twice an hour, so a crash would lose most of an hour.
const MOSQUITTO_AUTOSAVE: &str = "autosave_interval 10\n";
/// Makes all queues lazy, those of MQTT sessions too. If definitions are loaded there is no default user, so this
/// defines one.
const RABBITMQ_LAZY: &str = r#"{
  "vhosts": [{"name": "/"}],
  "users": [{"name": "guest", "password": "guest", "tags": "administrator"}],
  "permissions": [{"user": "guest", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
  "policies": [{"vhost": "/", "name": "lazy", "pattern": ".*", "apply-to": "queues", "priority": 0,
                "definition": {"queue-mode": "lazy"}}]
}
"#;
/// The system calls that wait for storage, for strace.
const SYNC_CALLS: &str = "trace=fsync,fdatasync,syncfs,msync,sync_file_range";

impl Peer {
    pub(crate) fn name(&self) -> String {
        match self.kind {
            Kind::Gatepost { io_threads: 1 } => "Gatepost, 1 I/O thread".into(),
            Kind::Gatepost { io_threads } => format!("Gatepost, {io_threads} I/O threads"),
            Kind::RabbitMq => "RabbitMQ".into(),
            Kind::Mosquitto => "Mosquitto".into(),
            Kind::Rumqttd => "rumqttd".into(),
            Kind::Nats => "NATS JetStream".into(),
        }
    }

    pub(crate) fn speaks(&self, protocol: Protocol) -> bool {
        match self.kind {
            Kind::Gatepost { .. } => protocol != Protocol::Nats,
            Kind::RabbitMq => !matches!(protocol, Protocol::Mqtt5 | Protocol::Nats),
            Kind::Mosquitto | Kind::Rumqttd => protocol.is_mqtt(),
            Kind::Nats => protocol == Protocol::Nats,
        }
    }

    /// The version that the program reports.
    pub(crate) fn version(&self) -> Option<String> {
        let program = self.program.as_ref()?;
        if self.kind == Kind::RabbitMq {
            // Asking would start an Erlang machine; the directory of its libraries contains the version.
            let entries = fs::read_dir(rabbitmq_home(program)?.join("lib")).ok()?;
            return entries
                .flatten()
                .find_map(|entry| Some(entry.file_name().to_str()?.strip_prefix("rabbitmq_server-")?.to_owned()));
        }
        let flag = if self.kind == Kind::Mosquitto {
            "-h"
        } else {
            "--version"
        };
        let output = Command::new(program).arg(flag).stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let words = text.lines().next()?.split_ascii_whitespace();
        words.last().map(str::to_owned)
    }

    /// Installed size in bytes: one file, or for RabbitMQ its own directory and Erlang's.
    pub(crate) fn program_bytes(&self) -> Option<u64> {
        let program = self.program.as_ref()?;
        if self.kind != Kind::RabbitMq {
            return Some(fs::metadata(program).ok()?.len());
        }
        let home = rabbitmq_home(program)?;
        Some(tree_bytes(&home) + tree_bytes(&home.with_file_name("erlang")))
    }

    /// Starts the broker with its data in `directory`, which may hold data of an earlier start.
    pub(crate) fn start(&self, directory: &Path) -> anyhow::Result<Running> {
        let program = self.program.as_ref().context("not installed")?;
        fs::create_dir_all(directory)?;
        let [amqp, mqtt, stomp, extra, mapper] = free_ports()?;
        let mut command = self.command(program);
        let mut port_mapper = None;
        match self.kind {
            Kind::Gatepost { io_threads } => {
                self.make_certificates(program, directory)?;
                let config = directory.join("gatepost.toml");
                fs::write(
                    &config,
                    self.gatepost_config(program, directory, io_threads, [amqp, mqtt, stomp, extra]),
                )?;
                command.arg("--config").arg(config);
            }
            Kind::RabbitMq => {
                self.rabbitmq_config(&mut command, directory, [amqp, mqtt, stomp, extra, mapper])?;
                port_mapper = Some((mapper, directory.to_owned()));
            }
            Kind::Mosquitto => {
                let config = directory.join("mosquitto.conf");
                fs::write(&config, self.mosquitto_config(directory, mqtt))?;
                command.arg("-c").arg(config);
            }
            Kind::Rumqttd => {
                let config = directory.join("rumqttd.toml");
                fs::write(&config, rumqttd_config(mqtt, stomp, extra))?;
                command.arg("-q").arg("-c").arg(config);
            }
            Kind::Nats => {
                let config = directory.join("nats.conf");
                fs::write(&config, nats_config(directory, extra))?;
                command.arg("-c").arg(config);
            }
        }
        let log = File::create(directory.join("output.log"))?;
        command
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        let begun = Instant::now();
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut running = Running {
            pid: child.id(),
            child,
            ports: [
                (Protocol::Amqp, amqp),
                (Protocol::Mqtt, mqtt),
                (Protocol::Stomp, stomp),
                (Protocol::Nats, extra),
            ]
            .into_iter()
            .filter(|(protocol, _)| self.speaks(*protocol))
            .collect(),
            carrier: self.settings.carrier,
            metrics: self.settings.metrics.then_some(extra),
            port_mapper,
            ready_in: Duration::ZERO,
        };
        running.await_ready(begun).with_context(|| {
            let text = fs::read_to_string(directory.join("output.log")).unwrap_or_default();
            let tail = text
                .lines()
                .rev()
                .take(5)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect::<Vec<_>>()
                .join("\n");
            format!("{} does not start; it says:\n{tail}\n", self.name())
        })?;
        running.ready_in = begun.elapsed();
        let own = running.child.id();
        let tracer = self.settings.syncs_to.as_ref().and_then(|_| meter::first_child(own));
        running.pid = meter::largest_of_family(tracer.unwrap_or(own));
        Ok(running)
    }

    /// The program, or strace around it. strace stops the program only at syncs.
    fn command(&self, program: &Path) -> Command {
        let Some(log) = &self.settings.syncs_to else {
            return Command::new(program);
        };
        let mut command = Command::new("strace");
        command.args(["-f", "-ttt", "--seccomp-bpf", "-e", SYNC_CALLS, "-o"]);
        command.arg(log).arg(program);
        command
    }

    /// Makes Gatepost's certificates, if TLS is used.
    fn make_certificates(&self, program: &Path, directory: &Path) -> anyhow::Result<()> {
        if self.settings.carrier.tls {
            let mut command = Command::new(program);
            command
                .args(["cert", "dev"])
                .current_dir(directory)
                .stdout(Stdio::null());
            ensure!(command.status()?.success(), "gatepost cert dev makes no certificates");
        }
        Ok(())
    }

    /// Only settings that differ from the defaults: ports, directory, threads. Listeners that are not measured are off,
    /// under the name that this version has for them.
    fn gatepost_config(&self, program: &Path, directory: &Path, io_threads: usize, ports: [u16; 4]) -> String {
        let [amqp, mqtt, stomp, metrics] = ports;
        let data = directory.join("data");
        let mut config = format!(
            "[node]\ndata_dir = {:?}\nio_threads = {io_threads}\n",
            data.display().to_string()
        );
        config += &format!("[log]\nlevel = \"warn\"\n[mqtt]\nmax_inflight = {MQTT_INFLIGHT}\n");
        if let Some(durability) = self.settings.durability {
            config += &format!("[store]\n{durability}\n");
        }
        if self.settings.carrier.tls {
            let file = |name| directory.join("gatepost-tls").join(name).display().to_string();
            config += &format!(
                "[tls]\ncert = {:?}\nkey = {:?}\n",
                file("server.pem"),
                file("server.key")
            );
        }
        let mut listeners = vec![("amqp", amqp), ("mqtt", mqtt), ("stomp", stomp)];
        if self.settings.metrics {
            listeners.push(("metrics", metrics));
        }
        for (name, port) in &listeners {
            let Carrier { tls, websocket, quic } = self.settings.carrier;
            config += &match (*name, tls) {
                // QUIC carries only MQTT.
                ("mqtt", _) if quic => {
                    format!("[listeners.{name}]\nbind = []\ntls_bind = []\nquic_bind = [\"127.0.0.1:{port}\"]\n")
                }
                _ if quic => format!("[listeners.{name}]\nbind = [\"127.0.0.1:{port}\"]\ntls_bind = []\n"),
                (_, false) | ("metrics", _) => format!("[listeners.{name}]\nbind = [\"127.0.0.1:{port}\"]\n"),
                _ => format!("[listeners.{name}]\nbind = []\ntls_bind = [\"127.0.0.1:{port}\"]\n"),
            };
            if websocket && *name != "metrics" {
                config += "websocket = true\n";
            }
        }
        let known = Command::new(program)
            .arg("--print-config")
            .stdin(Stdio::null())
            .output();
        let known = known
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        let unused = known
            .lines()
            .filter_map(|line| line.strip_prefix("[listeners.")?.strip_suffix(']'))
            .filter(|name| !name.contains('.') && listeners.iter().all(|(used, _)| used != name));
        for name in unused {
            config += &format!("[listeners.{name}]\nbind = []\n");
            if self.settings.carrier.tls && name != "metrics" && name != "management" {
                config += "tls_bind = []\n";
            }
        }
        config
    }

    fn rabbitmq_config(&self, command: &mut Command, directory: &Path, ports: [u16; 5]) -> anyhow::Result<()> {
        let [amqp, mqtt, stomp, distribution, mapper] = ports;
        fs::write(directory.join("enabled_plugins"), "[rabbitmq_mqtt,rabbitmq_stomp].\n")?;
        fs::write(
            directory.join("rabbitmq.conf"),
            format!(
                "listeners.tcp.default = 127.0.0.1:{amqp}\nmqtt.listeners.tcp.default = 127.0.0.1:{mqtt}\n\
                 stomp.listeners.tcp.default = 127.0.0.1:{stomp}\nmqtt.allow_anonymous = true\n\
                 mqtt.prefetch = {MQTT_INFLIGHT}\n"
            ),
        )?;
        if self.settings.disk_first {
            let definitions = directory.join("definitions.json");
            fs::write(&definitions, RABBITMQ_LAZY)?;
            let config = directory.join("rabbitmq.conf");
            let text = fs::read_to_string(&config)? + &format!("load_definitions = {}\n", definitions.display());
            fs::write(config, text)?;
        }
        for name in ["db", "log"] {
            fs::create_dir_all(directory.join(name))?;
        }
        command
            .env("HOME", directory)
            .env("RABBITMQ_NODENAME", format!("bench{}@localhost", std::process::id()))
            .env("RABBITMQ_MNESIA_BASE", directory.join("db"))
            .env("RABBITMQ_LOG_BASE", directory.join("log"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", directory.join("enabled_plugins"))
            .env("RABBITMQ_CONFIG_FILE", directory.join("rabbitmq"))
            .env("RABBITMQ_PID_FILE", directory.join("pid"))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}",
            )
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", mapper.to_string());
        Ok(())
    }

    fn mosquitto_config(&self, directory: &Path, mqtt: u16) -> String {
        let autosave = if self.settings.disk_first {
            MOSQUITTO_AUTOSAVE
        } else {
            ""
        };
        format!(
            "listener {mqtt} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 0\n\
             set_tcp_nodelay true\npersistence true\npersistence_location {}/\nuser root\n{autosave}",
            directory.display()
        )
    }
}

impl Kind {
    /// The program's name in the search path, and other known paths.
    pub(crate) fn program(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Gatepost { .. } => ("gatepost", &[]),
            // The one in a Debian system's search path changes the user, who then cannot write into our directory.
            Self::RabbitMq => ("rabbitmq-server", &["/usr/lib/rabbitmq/bin/rabbitmq-server"]),
            Self::Mosquitto => ("mosquitto", &["/usr/sbin/mosquitto"]),
            Self::Rumqttd => ("rumqttd", &[]),
            Self::Nats => ("nats-server", &["/usr/sbin/nats-server"]),
        }
    }

    /// Finds the program: the path given, a known path, the search path, or beside this program.
    pub(crate) fn find(self, asked: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
        if let Some(path) = asked {
            ensure!(path.is_file(), "{} is not there", path.display());
            return Ok(Some(fs::canonicalize(path)?));
        }
        let (name, places) = self.program();
        let known = places.iter().map(PathBuf::from);
        let searched = std::env::var_os("PATH").unwrap_or_default();
        let searched = std::env::split_paths(&searched)
            .map(|directory| directory.join(name))
            .collect::<Vec<_>>();
        let beside = std::env::current_exe().ok().map(|own| own.with_file_name(name));
        Ok(known.chain(searched).chain(beside).find(|path| path.is_file()))
    }
}

impl Running {
    pub(crate) fn endpoint(&self, protocol: Protocol) -> anyhow::Result<Endpoint> {
        let listener = if protocol.is_mqtt() { Protocol::Mqtt } else { protocol };
        let port = self.ports.iter().find(|(spoken, _)| *spoken == listener);
        let (_, port) = port.context("it does not speak that protocol")?;
        let carrier = match self.carrier {
            quic if quic.quic && !protocol.is_mqtt() => Carrier::default(),
            carrier => carrier,
        };
        Ok(Endpoint {
            carrier,
            ..Endpoint::local(protocol, *port)
        })
    }

    /// Stops the broker and waits for it. Returns the bytes it sent to storage since its start.
    pub(crate) fn stop(mut self) -> anyhow::Result<u64> {
        self.end()
    }

    /// Ends the broker with SIGKILL, as in a crash.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        signal(self.pid, rustix::process::Signal::KILL);
        let asked = Instant::now();
        // The start scripts notice and end by themselves.
        while self.child.try_wait()?.is_none() {
            if asked.elapsed() > SCRIPTS_TIMEOUT {
                self.child.kill()?;
                self.child.wait()?;
            }
            thread::sleep(Duration::from_millis(5));
        }
        self.stop_port_mapper();
        Ok(())
    }

    fn stop_port_mapper(&mut self) {
        let Some((port, home)) = self.port_mapper.take() else {
            return;
        };
        for _ in 0..PORT_MAPPER_TRIES {
            let epmd = Command::new("epmd")
                .arg("-kill")
                .env("ERL_EPMD_PORT", port.to_string())
                .env("HOME", &home)
                .output();
            // It refuses as long as it knows of a node that was just killed. If the tool is not in the search path, a
            // small process of Erlang's keeps running.
            if !epmd.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("not allowed")) {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn end(&mut self) -> anyhow::Result<u64> {
        let mut written = 0;
        if self.child.try_wait()?.is_some() {
            return Ok(written);
        }
        signal(self.pid, rustix::process::Signal::TERM);
        let asked = Instant::now();
        while self.child.try_wait()?.is_none() {
            // Some brokers write all their data at the end. A process that is gone cannot be read any more.
            written = meter::disk_bytes(self.pid).max(written);
            if !Path::new("/proc").join(self.pid.to_string()).exists() {
                // strace waits for everything that was started under it.
                self.stop_port_mapper();
            }
            if asked.elapsed() > STOP_TIMEOUT {
                signal(self.pid, rustix::process::Signal::KILL);
                self.child.kill()?;
                self.child.wait()?;
                self.stop_port_mapper();
                bail!("it did not stop when asked and was killed");
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.stop_port_mapper();
        Ok(written)
    }

    fn await_ready(&mut self, begun: Instant) -> anyhow::Result<()> {
        let mut waited_for: Vec<_> = self
            .ports
            .iter()
            .map(|(protocol, _)| self.endpoint(*protocol))
            .collect::<anyhow::Result<_>>()?;
        while let Some(endpoint) = waited_for.last() {
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {status}");
            }
            match connect::idle(endpoint, usize::MAX) {
                Ok(connected) => {
                    connected.close();
                    waited_for.pop();
                }
                Err(error) if begun.elapsed() > START_TIMEOUT => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The result is dropped: callers that need it call `stop`.
        let _ = self.end();
    }
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        // An error means that the process is gone already.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Ports that were free a moment ago.
fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut held = Vec::new();
    let mut ports = [0; N];
    for port in &mut ports {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

/// The directory of JetStream's files. Their size is not limited, as with the other brokers.
fn nats_config(directory: &Path, port: u16) -> String {
    format!(
        "listen: \"127.0.0.1:{port}\"\njetstream {{\n  store_dir: {:?}\n  max_file_store: 1TB\n}}\n",
        directory.join("data").display().to_string()
    )
}

fn rumqttd_config(mqtt: u16, mqtt5: u16, console: u16) -> String {
    let mut config = "id = 0\n[router]\nid = 0\nmax_connections = 20010\nmax_outgoing_packet_count = 200\n\
                      max_segment_size = 104857600\nmax_segment_count = 10\n"
        .to_owned();
    for (version, port) in [("v4", mqtt), ("v5", mqtt5)] {
        config += &format!(
            "[{version}.1]\nname = \"{version}-1\"\nlisten = \"127.0.0.1:{port}\"\nnext_connection_delay_ms = 0\n\
             [{version}.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 204800\n\
             max_inflight_count = {MQTT_INFLIGHT}\ndynamic_filters = true\n"
        );
    }
    config + &format!("[console]\nlisten = \"127.0.0.1:{console}\"\n")
}

/// `/usr/lib/rabbitmq` for `/usr/lib/rabbitmq/bin/rabbitmq-server`.
fn rabbitmq_home(program: &Path) -> Option<PathBuf> {
    let real = fs::canonicalize(program).ok()?;
    real.ancestors()
        .find(|directory| directory.file_name().is_some_and(|name| name == "rabbitmq"))
        .map(Path::to_owned)
}

/// Total length of all files in a directory and below, in bytes.
fn tree_bytes(directory: &Path) -> u64 {
    tree_sum(directory, &|metadata| metadata.len())
}

/// Disk space that they occupy, in bytes.
pub(crate) fn tree_disk_bytes(directory: &Path) -> u64 {
    tree_sum(directory, &|metadata| 512 * metadata.blocks())
}

fn tree_sum(directory: &Path, bytes: &dyn Fn(&fs::Metadata) -> u64) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let kind = entry.file_type().ok()?;
            if kind.is_dir() {
                Some(tree_sum(&entry.path(), bytes))
            } else {
                kind.is_file()
                    .then(|| entry.metadata().map_or(0, |metadata| bytes(&metadata)))
            }
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ() {
        let mut ports: [u16; 5] = free_ports().unwrap();
        ports.sort_unstable();
        assert!(
            ports.windows(2).all(|pair| pair[0] < pair[1]) && ports[0] > 0,
            "{ports:?}"
        );
    }

    #[test]
    fn a_program_that_was_asked_for_must_be_there() {
        assert!(Kind::Rumqttd.find(Some(Path::new("/nowhere/rumqttd"))).is_err());
    }
}
