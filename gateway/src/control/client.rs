//! The command line's client of the management API.

use super::password;
use super::target::Target;
use crate::clock::Clock;
use crate::config::{Config, Layers};
use crate::directory::Directory;
use crate::exit::Failure;
use crate::listener::check_length;
use crate::node::Node;
use crate::outbound::{self, Url};
use crate::{api, committer, machine, protocols, store, tls};
use axum::body::{Body, to_bytes};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, IF_NONE_MATCH};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use std::fmt::Write as _;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, duplex};
use tokio::net::{TcpStream, UnixStream};

/// A connection to the management API.
pub(super) struct Client {
    requests: SendRequest<Body>,
    /// A node in this process, if no gateway runs on the data directory.
    own: Option<Own>,
    host: String,
    /// The part of paths before `/api`.
    prefix: String,
    /// Value of the header Authorization.
    login: Option<HeaderValue>,
    /// Time limit of one answer.
    timeout: Duration,
}

/// A node in this process, which serves only this client.
struct Own {
    node: Arc<Node>,
    committer: JoinHandle<Result<(), Failure>>,
}

/// An answer.
struct Reply {
    status: StatusCode,
    body: Value,
}

/// Maximum bytes of an answer.
const REPLY_MAX: usize = 256 << 20;
const PIPE: usize = 64 << 10;
/// The port of a URL without one.
const HTTP_PORT: u16 = 15672;
const HTTPS_PORT: u16 = 15671;

impl Client {
    /// Connects to the gateway that `target` names.
    pub(super) async fn reach(layers: &Layers, target: &Target, must_run: bool) -> Result<Client, Failure> {
        match &target.url {
            Some(url) => Client::remote(url, target).await,
            None => Client::connect(layers, target, must_run).await,
        }
    }

    /// Connects to the gateway that runs on the configured data directory. If none runs, works on the directory itself,
    /// unless one `must_run`. A running gateway is reached even if its configuration has become invalid since, or names
    /// files that only the gateway can read.
    async fn connect(layers: &Layers, target: &Target, must_run: bool) -> Result<Client, Failure> {
        let path = api::socket::path(&layers.data_dir());
        match UnixStream::connect(&path).await {
            Ok(stream) => Client::over(stream, None, target).await,
            Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied) => {
                Err(Failure::Unavailable(format!(
                    "{} cannot be opened: {error}; run this as the gateway's user, or as one of its group",
                    path.display()
                )))
            }
            Err(_) => {
                let config = layers
                    .load()
                    .map_err(|problems| Failure::Configuration(problems.to_string()))?;
                Client::without_socket(config, target, must_run).await
            }
        }
    }

    async fn without_socket(config: Config, target: &Target, must_run: bool) -> Result<Client, Failure> {
        let data = config.node.data_dir.clone();
        // A running gateway cannot be reached then. A stopped one can be managed.
        if let Err(error) = check_length(&api::socket::path(&data)) {
            let unheard = || {
                Failure::Unavailable(format!(
                    "the gateway on {} has no control socket: {error}. Start it with a shorter data directory",
                    data.display()
                ))
            };
            if must_run {
                return Err(unheard());
            }
            let opened = Client::on(config, &data, target).await;
            return opened.map_err(|failure| match failure {
                Failure::DataInUse(_) => unheard(),
                other => other,
            });
        }
        if must_run {
            return Err(Failure::Unavailable(format!("no gateway runs on {}", data.display())));
        }
        Client::on(config, &data, target).await
    }

    /// Connects to the management API at `url`.
    async fn remote(url: &str, target: &Target) -> Result<Client, Failure> {
        let usage = |what: String| Failure::Usage(format!("--url {url}: {what}"));
        // A name and a password in the URL would be visible in every list of processes.
        let at = Url::parse(url).map_err(|what| {
            usage(format!(
                "{what}. (The user is given with --login, and its password with --login-file)"
            ))
        })?;
        let login = match &target.login {
            Some(user) => {
                let pair = STANDARD.encode(format!("{user}:{}", password::login(target.login_file.as_deref())?));
                let value = HeaderValue::from_str(&format!("Basic {pair}"));
                let mut value = value.map_err(|error| Failure::Usage(error.to_string()))?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        let port = at.port_or(HTTP_PORT, HTTPS_PORT);
        let shown = format!("{}:{port}", at.host());
        let reaching = async {
            let cannot = |error: io::Error| Failure::Unavailable(format!("{shown} cannot be reached: {error}"));
            let stream = TcpStream::connect((at.host(), port)).await.map_err(cannot)?;
            if !at.is_secure() {
                return Client::over(stream, None, target).await;
            }
            let ca = target.ca.as_deref().map(|path| path.display().to_string());
            let tls =
                outbound::connector(&ca.unwrap_or_default()).map_err(|what| Failure::Usage(format!("--ca: {what}")))?;
            let name = ServerName::try_from(at.host().to_owned()).map_err(|error| usage(error.to_string()))?;
            let stream = tls.connect(name, stream).await.map_err(|error| match &error {
                error if is_no_tls(error) => Failure::Unavailable(format!("{shown} does not speak TLS: try http://")),
                _ => cannot(error),
            })?;
            Client::over(stream, None, target).await
        };
        let client = within(target.timeout(), reaching).await?;
        Ok(Client {
            login,
            host: at.authority().to_owned(),
            prefix: at.path().trim_end_matches('/').to_owned(),
            ..client
        })
    }

    async fn on(config: Config, data: &Path, target: &Target) -> Result<Client, Failure> {
        if !data.is_dir() {
            return Err(Failure::Usage(format!(
                "{} is no data directory: name it with --data or --config",
                data.display()
            )));
        }
        machine::raise_open_files();
        let directory = Directory::new(&config).map_err(Failure::Configuration)?;
        let clock = Clock::start();
        let (store, recovered) = store::open(&config, clock.now().wall)?;
        let protocols = protocols::all(&config.values);
        let (tls, stats) = (tls::Ports::default(), store.stats());
        let node = Arc::new(Node::new(config, directory, tls, protocols, clock, recovered, stats));
        store::check_start(&store, &node.config())?;
        let committing = Arc::clone(&node);
        let committer = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            let run = committer::run(&committing, store);
            if run.is_err() {
                // Ends the requests that wait for the log.
                committing.vhosts.log().close();
            }
            run.map_err(|error| Failure::StoreFailed(error.to_string()))
        });
        let committer = committer.map_err(|error| Failure::Internal(format!("cannot start a thread: {error}")))?;
        let (ours, theirs) = duplex(PIPE);
        tokio::spawn(api::socket::connection(
            theirs,
            api::router(Arc::clone(&node), api::Entrance::Socket),
        ));
        Client::over(ours, Some(Own { node, committer }), target).await
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        own: Option<Own>,
        target: &Target,
    ) -> Result<Client, Failure> {
        let (requests, connection) = handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
        tokio::spawn(connection);
        Ok(Client {
            requests,
            own,
            host: "localhost".to_owned(),
            prefix: String::new(),
            login: None,
            timeout: target.timeout(),
        })
    }

    /// Closes the connection; a node in this process closes its log first.
    pub(super) async fn close(self) {
        let Some(Own { node, committer }) = self.own else {
            return;
        };
        drop(self.requests);
        for vhost in node.vhosts.list().iter() {
            vhost.enter(|engine| engine.flush());
        }
        node.log.stop();
        // A failure was reported already by the request that waited for the log.
        let _ = tokio::task::spawn_blocking(move || committer.join()).await;
    }

    /// Gets the resource at `path`.
    pub(super) async fn get(&mut self, path: &[&str]) -> Result<Value, Failure> {
        Ok(self.send(Method::GET, path, None).await?.good()?.body)
    }

    /// Gets the resource at `path` with a query.
    pub(super) async fn get_with(&mut self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Failure> {
        let mut text = String::new();
        for (name, value) in query {
            text.push_str(if text.is_empty() { "" } else { "&" });
            text.push_str(name);
            text.push('=');
            escape(value, &mut text);
        }
        let answered = self.send_with(Method::GET, path, &text, None, None).await?;
        Ok(answered.good()?.body)
    }

    pub(super) async fn put(&mut self, path: &[&str], body: &Value) -> Result<(), Failure> {
        self.send(Method::PUT, path, Some(body)).await?.good().map(drop)
    }

    /// Creates a resource, which must not exist yet.
    pub(super) async fn make(&mut self, path: &[&str], body: &Value) -> Result<(), Failure> {
        let made = self
            .send_with(
                Method::PUT,
                path,
                "",
                Some(body),
                Some((IF_NONE_MATCH, HeaderValue::from_static("*"))),
            )
            .await?;
        made.good().map(drop)
    }

    pub(super) async fn patch(&mut self, path: &[&str], body: &Value) -> Result<(), Failure> {
        self.send(Method::PATCH, path, Some(body)).await?.good().map(drop)
    }

    pub(super) async fn post(&mut self, path: &[&str], body: &Value) -> Result<(), Failure> {
        self.send(Method::POST, path, Some(body)).await?.good().map(drop)
    }

    /// Sends a request that changes something, and returns its answer.
    pub(super) async fn post_for(&mut self, path: &[&str], body: &Value) -> Result<Value, Failure> {
        Ok(self.send(Method::POST, path, Some(body)).await?.good()?.body)
    }

    /// Why a health check fails; `None`: it does not.
    pub(super) async fn check(&mut self, path: &[&str]) -> Result<Option<String>, Failure> {
        let reply = self.send(Method::GET, path, None).await?;
        if reply.status == StatusCode::SERVICE_UNAVAILABLE
            && let Some(reason) = reply.body["reason"].as_str()
        {
            return Ok(Some(reason.to_owned()));
        }
        reply.good().map(|_| None)
    }

    /// Deletes a resource, with a reason.
    pub(super) async fn close_for(&mut self, path: &[&str], reason: &str) -> Result<(), Failure> {
        let reason = HeaderValue::from_str(reason)
            .map_err(|_| Failure::Usage("--reason: one line without control characters".to_owned()))?;
        let header = Some((HeaderName::from_static("x-reason"), reason));
        let closed = self.send_with(Method::DELETE, path, "", None, header).await?;
        closed.good().map(drop)
    }

    pub(super) async fn delete(&mut self, path: &[&str]) -> Result<(), Failure> {
        self.delete_if(path, &[]).await
    }

    /// Deletes a resource if all requested conditions are met.
    pub(super) async fn delete_if(&mut self, path: &[&str], conditions: &[(&str, bool)]) -> Result<(), Failure> {
        let asked = conditions.iter().filter(|(_, asked)| *asked);
        let pairs: Vec<String> = asked.map(|(name, _)| format!("{name}=true")).collect();
        let query = pairs.join("&");
        let deleted = self.send_with(Method::DELETE, path, &query, None, None).await?;
        deleted.good().map(drop)
    }

    /// Gets the body at `path` as a stream, not as JSON.
    pub(super) async fn stream(&mut self, path: &str) -> Result<Response<Incoming>, Failure> {
        let mut request = Request::get(format!("{}{path}", self.prefix)).header("host", &self.host);
        if let Some(login) = &self.login {
            request = request.header(AUTHORIZATION, login);
        }
        let request = request
            .body(Body::empty())
            .map_err(|error| Failure::Usage(error.to_string()))?;
        // The limit applies to the head. The body may take longer.
        let answering = async { self.requests.send_request(request).await.map_err(unreachable) };
        let reply = within(self.timeout, answering).await?;
        let status = reply.status();
        if status.is_success() {
            return Ok(reply);
        }
        let bytes = to_bytes(Body::new(reply.into_body()), REPLY_MAX)
            .await
            .unwrap_or_default();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        match (Reply { status, body }).good() {
            Ok(_) => Err(Failure::Unavailable(status.to_string())),
            Err(failure) => Err(failure),
        }
    }

    async fn send(&mut self, method: Method, path: &[&str], body: Option<&Value>) -> Result<Reply, Failure> {
        self.send_with(method, path, "", body, None).await
    }

    async fn send_with(
        &mut self,
        method: Method,
        path: &[&str],
        query: &str,
        body: Option<&Value>,
        header: Option<(HeaderName, HeaderValue)>,
    ) -> Result<Reply, Failure> {
        let mut uri = format!("{}/api", self.prefix);
        for segment in path {
            uri.push('/');
            escape(segment, &mut uri);
        }
        if !query.is_empty() {
            uri.push('?');
            uri.push_str(query);
        }
        let body = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
        let request = Request::builder().method(method);
        let request = match header {
            Some((name, value)) => request.header(name, value),
            None => request,
        };
        let request = match &self.login {
            Some(login) => request.header(AUTHORIZATION, login),
            None => request,
        };
        let request = request
            .uri(uri)
            .header("host", &self.host)
            .header("content-type", "application/json")
            .body(body)
            .map_err(|error| Failure::Usage(error.to_string()))?;
        let answering = async {
            let reply = self.requests.send_request(request).await.map_err(unreachable)?;
            let status = reply.status();
            let bytes = to_bytes(Body::new(reply.into_body()), REPLY_MAX).await;
            let bytes =
                bytes.map_err(|error| Failure::Unavailable(format!("the gateway stopped answering: {error}")))?;
            Ok((status, bytes))
        };
        let (status, bytes) = within(self.timeout, answering).await?;
        let mut body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes)
                .map_err(|error| Failure::Internal(format!("the gateway's answer is no JSON: {error}")))?
        };
        // The API answers as RabbitMQ's does, and does not say what it has not found.
        if status == StatusCode::NOT_FOUND && body["reason"] == "Not Found" {
            body["reason"] = not_found(path).into();
        }
        Ok(Reply { status, body })
    }
}

impl Reply {
    /// The answer, or an error if the request was refused.
    fn good(self) -> Result<Reply, Failure> {
        if self.status.is_success() {
            return Ok(self);
        }
        let reason = self.body.get("reason").and_then(Value::as_str).unwrap_or_default();
        let reason = reason
            .strip_prefix("vhost_or_user_not_found: ")
            .unwrap_or(reason)
            .to_owned();
        Err(match self.status {
            StatusCode::BAD_REQUEST if self.body["error"] == "configuration_refused" => Failure::Configuration(reason),
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND if reason.starts_with("no such user") => {
                Failure::NoSuchUser(reason)
            }
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::PRECONDITION_FAILED => {
                Failure::DataDamaged(reason)
            }
            status => Failure::Unavailable(format!("{status}: {reason}")),
        })
    }
}

/// What there is not, by the path of the request.
fn not_found(path: &[&str]) -> String {
    /// What is listed by vhost: the second segment is its name.
    const IN_VHOSTS: [&str; 7] = [
        "queues",
        "exchanges",
        "bindings",
        "consumers",
        "policies",
        "sessions",
        "subscriptions",
    ];
    match path {
        ["gatepost", rest @ ..] => not_found(rest),
        ["users", user, ..] => format!("no such user: '{user}'"),
        ["vhosts", vhost, ..] => format!("there is no vhost '{vhost}'"),
        ["bindings", vhost, _, source, _, destination, ..] => {
            format!("there is no such binding of '{destination}' to '{source}' in vhost '{vhost}'")
        }
        [kind, vhost] if IN_VHOSTS.contains(kind) => format!("there is no vhost '{vhost}'"),
        [kind, vhost, name, ..] if IN_VHOSTS.contains(kind) => {
            format!("there is no {} '{name}' in vhost '{vhost}'", singular(kind))
        }
        [kind, name, ..] => format!("there is no {} '{name}'", singular(kind)),
        _ => "not found".to_owned(),
    }
}

fn singular(kind: &str) -> String {
    match kind.strip_suffix("ies") {
        Some(start) => format!("{start}y"),
        None => kind.strip_suffix('s').unwrap_or(kind).to_owned(),
    }
}

async fn within<T>(limit: Duration, doing: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(limit, doing).await.unwrap_or_else(|_| {
        let seconds = limit.as_secs();
        Err(Failure::TimedOut(format!("no answer within {seconds} s (--timeout)")))
    })
}

/// Whether the server answered with something other than a TLS record.
fn is_no_tls(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidMessage(_)))
}

fn unreachable(error: hyper::Error) -> Failure {
    Failure::Unavailable(format!("the gateway does not answer: {error}"))
}

/// Escapes all characters except the unreserved ones (RFC 3986 2.3), so that a vhost `/` is one segment.
fn escape(segment: &str, onto: &mut String) {
    for byte in segment.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => onto.push(char::from(byte)),
            // Dots too: a segment `.` or `..` would be removed from the path.
            _ => {
                let _ = write!(onto, "%{byte:02X}");
            }
        }
    }
}
