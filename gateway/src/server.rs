//! Starts the parts of the node in the order of their dependencies, and stops them.

use crate::api::Entrance;
use crate::clock::Clock;
use crate::config::{Config, Layers, MANAGEMENT, Problems, Size};
use crate::directory::{self, Directory};
use crate::exit::Failure;
use crate::http::bounded::Bounds;
use crate::listener::{self, Acceptor, Bound, Carrier};
use crate::node::Node;
use crate::service_manager::ServiceManager;
use crate::shutdown::{self, Signals};
use crate::store::{self, Store};
use crate::threads::IoThreads;
use crate::transport::Door;
use crate::{
    accountant, api, banner, committer, http, logging, machine, protocols, reader, reload, sys_topics, tls, watch,
};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Instant;

/// Serves until a signal or a failure. SIGHUP reads `layers` again.
///
/// # Errors
/// The node could not start, or had to stop because of a failure.
pub fn serve(config: Config, layers: Layers) -> Result<(), Failure> {
    let began = Instant::now();
    let output = logging::start(&config.log).map_err(Failure::Configuration)?;
    for warning in layers.warnings() {
        tracing::warn!("{warning}");
    }
    let message_max = Size(accountant::message_bytes_max(&config));
    if message_max.0 < config.limits.max_message_size.0 {
        tracing::warn!("limits.max_message_size is {message_max} here, because memory.budget is small");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(2)
        .build()
        .map_err(|error| internal("cannot start a runtime", &error))?;
    let signals = {
        let _handlers_belong_to_it = runtime.enter();
        reload::Signals::listen().map_err(|error| internal("cannot handle signals", &error))?
    };
    machine::raise_open_files();
    let definitions = definitions(&config)?;
    let manager = Arc::new(ServiceManager::of_environment());
    let directory = Directory::new(&config).map_err(Failure::Configuration)?;
    if definitions.as_ref().is_some_and(|found| found.has_users) {
        directory.make_no_default_user();
    }
    let clock = Clock::start();
    // Before the ports are bound: clients cannot be served until the log is read.
    let (store, recovered) = store::open_for(&config, clock.now().wall, &manager)?;
    let tls = tls::Ports::open(&config).map_err(|found| Failure::Configuration(Problems(found).to_string()))?;
    let protocols = protocols::all(&accountant::values_within_memory(&config));
    let node = Arc::new(Node::new(
        config,
        directory,
        tls,
        protocols,
        clock,
        recovered,
        store.stats(),
    ));
    store::check_start(&store, &node.config())?;
    let ports = bind(&node)?;
    let reloads = {
        let (node, manager) = (Arc::clone(&node), Arc::clone(&manager));
        async move { reload::run(&node, &layers, &output, &manager, signals).await }
    };
    runtime.block_on(run(node, store, ports, began, manager, reloads, definitions))
}

/// The definitions to import, and whether they contain users.
fn definitions(config: &Config) -> Result<Option<api::definitions::Found>, Failure> {
    let file = &config.definitions.file;
    if file.is_empty() {
        return Ok(None);
    }
    let found = api::definitions::look_into(file.as_ref());
    found
        .map(Some)
        .map_err(|what| Failure::Configuration(format!("definitions.file: {what}")))
}

async fn run(
    node: Arc<Node>,
    store: Store,
    ports: Vec<Bound>,
    began: Instant,
    manager: Arc<ServiceManager>,
    reloads: impl Future<Output = ()> + Send + 'static,
    definitions: Option<api::definitions::Found>,
) -> Result<(), Failure> {
    let signals = Signals::listen().map_err(|error| internal("cannot handle signals", &error))?;
    let log_reader = store.reader();
    let committer = spawn("log", &node, move |node| commit(node, store))?;
    let log_reader = spawn("log-read", &node, move |node| reader::run(node, log_reader))?;
    let threads = IoThreads::start(&node, node.config().node.io_threads);
    let threads = Arc::new(threads.map_err(|error| internal("cannot start I/O threads", &error))?);
    let banner = banner::text(&node, &ports, threads.count(), began.elapsed());
    if let Some(found) = definitions {
        // Before clients are served. Until then they wait in the sockets' queues.
        let imported = api::definitions::import_at_start(&node, &found).await;
        imported.map_err(|what| Failure::Configuration(format!("definitions.file: {what}")))?;
    }
    let mut tasks = tokio::task::JoinSet::new();
    node.listeners.remember(&ports, &node.config());
    let counted = Arc::clone(&node);
    tasks.spawn(async move { api::rates::run(&counted).await });
    let looking = Arc::clone(&node);
    tasks.spawn(async move { api::flow::run(&looking).await });
    for port in ports {
        listen(&mut tasks, &node, &threads, port)?;
    }
    control(&mut tasks, &node);
    let watched = Arc::clone(&node);
    tasks.spawn(async move { watch::run(&watched).await });
    let counted = Arc::clone(&node);
    tasks.spawn(async move { logging::lines::report(&counted.lines).await });
    let telling = Arc::clone(&node);
    tasks.spawn(async move { sys_topics::run(&telling).await });
    let accounted = Arc::clone(&node);
    tasks.spawn(async move { accountant::run(&accounted).await });
    if let Some(obsolete) = node.directory.obsolete() {
        let renewed = Arc::clone(&node);
        tasks.spawn(async move { directory::users::renew(&renewed, obsolete).await });
    }
    if let Some(granted) = node.directory.granted() {
        let temporary_users = Arc::clone(&node);
        tasks.spawn(async move { directory::temporary::run(&temporary_users, granted).await });
    }
    if let Some(errands) = node.directory.errands.receiver() {
        let asking = Arc::clone(&node);
        tasks.spawn(async move { directory::outside::run(&asking, errands).await });
    }
    if let Some(unknown) = node.directory.unknown() {
        let fetching = Arc::clone(&node);
        tasks.spawn(async move { directory::jwks::run(&fetching, unknown).await });
    }
    let tickets = Arc::clone(node.tls.tickets());
    tasks.spawn(async move { tickets.run().await });
    tasks.spawn(reloads);
    node.health.listening.store(true, Ordering::Relaxed);
    print!("{banner}");
    let _ = io::Write::flush(&mut io::stdout());
    manager.ready();
    {
        let (manager, node, threads) = (Arc::clone(&manager), Arc::clone(&node), Arc::clone(&threads));
        tokio::spawn(async move { manager.watch(&node, &threads).await });
    }
    tracing::info!(ready_ms = began.elapsed().as_millis(), data = %node.config().node.data_dir.display(), "ready");
    let failed = shutdown::wait(&node, signals).await;
    manager.stopping();
    if let Some(failure) = failed {
        shutdown::fail(&threads).await;
        return Err(failure);
    }
    shutdown::run(&node, &threads, tasks, committer, log_reader).await;
    node.take_failure().map_or(Ok(()), Err)
}

fn bind(node: &Node) -> Result<Vec<Bound>, Failure> {
    let mut ports = Vec::new();
    for (name, listener) in &node.config().listeners {
        ports.extend(listener::bind(name, listener, node.tls.port(name).is_some())?);
    }
    Ok(ports)
}

fn listen(
    tasks: &mut tokio::task::JoinSet<()>,
    node: &Arc<Node>,
    threads: &Arc<IoThreads>,
    port: Bound,
) -> Result<(), Failure> {
    let (node, threads) = (Arc::clone(node), Arc::clone(threads));
    let tls = (port.carrier != Carrier::Plain).then(|| node.tls.port(&port.name));
    let tls = tls.flatten();
    match port.terms {
        Some(terms) => {
            let thread = threads.accepting().clone();
            let door = Door { terms, tls };
            let socket = {
                let _registered_there = thread.enter();
                Acceptor::new(port.socket, Some(&door), &node)
            };
            let socket = socket.map_err(|error| internal("cannot listen", &error))?;
            tasks.spawn_on(listener::accept(node, threads, door, socket), &thread);
        }
        None => {
            let socket = Acceptor::new(port.socket, None, &node);
            let socket = match socket.map_err(|error| internal("cannot listen", &error))? {
                Acceptor::Tcp(socket) => socket,
                Acceptor::Unix { .. } | Acceptor::Quic(_) => {
                    return Err(Failure::Configuration(format!(
                        "listeners.{}.bind: HTTP is served on TCP only",
                        port.name
                    )));
                }
            };
            if speaks(&node, &port.name, MANAGEMENT) {
                manage(tasks, node, socket, tls);
                return Ok(());
            }
            let bounds = Bounds {
                connections_max: usize::try_from(machine::http_connections_max()).unwrap_or(usize::MAX),
                head_timeout: http::HEAD_TIMEOUT,
                answers: Arc::clone(&node.answers),
            };
            let router = http::router(node, threads);
            tasks.spawn(http::bounded::serve(socket, tls, router, bounds, |_| true));
        }
    }
    Ok(())
}

/// Whether the listener serves that protocol.
fn speaks(node: &Node, listener: &str, protocol: &str) -> bool {
    let config = node.config();
    let mut listeners = config.listeners.iter();
    listeners.any(|(name, keys)| name == listener && keys.protocol == protocol)
}

/// Serves the management API on the network.
fn manage(
    tasks: &mut tokio::task::JoinSet<()>,
    node: Arc<Node>,
    socket: tokio::net::TcpListener,
    tls: Option<Arc<tls::Port>>,
) {
    let router = api::router(Arc::clone(&node), Entrance::Network);
    let bounds = Bounds {
        connections_max: usize::try_from(machine::management_connections_max()).unwrap_or(usize::MAX),
        head_timeout: api::HEAD_TIMEOUT,
        answers: Arc::clone(&node.answers),
    };
    let admit = move |from| node.protection.admit(node.clock.now().monotonic, from, true).is_ok();
    tasks.spawn(http::bounded::serve(socket, tls, router, bounds, admit));
}

/// Serves the management API on the control socket. If the socket cannot be bound, the gateway runs without it.
fn control(tasks: &mut tokio::task::JoinSet<()>, node: &Arc<Node>) {
    let data = node.config().node.data_dir.clone();
    match api::socket::bind(&data) {
        Ok(bound) => {
            let router = api::router(Arc::clone(node), Entrance::Socket);
            tasks.spawn(async move {
                if let Err(error) = api::socket::serve(bound, router).await {
                    tracing::error!(%error, "the control socket cannot be served");
                }
            });
        }
        Err(error) => {
            let socket = api::socket::path(&data);
            tracing::error!(socket = %socket.display(), %error, "there is no control socket: `gatepost user` and its like need the gateway stopped");
        }
    }
}

fn spawn(name: &str, node: &Arc<Node>, run: impl FnOnce(&Node) + Send + 'static) -> Result<JoinHandle<()>, Failure> {
    let node = Arc::clone(node);
    let thread = std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || run(&node));
    thread.map_err(|error| internal("cannot start a thread", &error))
}

fn commit(node: &Node, store: Store) {
    if let Err(error) = committer::run(node, store) {
        store::log_failed(node, &error);
    }
}

fn internal(what: &str, error: &io::Error) -> Failure {
    Failure::Internal(format!("{what}: {error}"))
}
