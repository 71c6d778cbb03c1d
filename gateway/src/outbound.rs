//! HTTP requests that the gateway sends: to the authentication back end `http`, and for the keys of tokens.
//!
//! Everything is bounded: concurrent requests, the time of a request (including connecting), the bytes of its answer, idle
//! connections. Redirects are not followed, so passwords go only to the server that the operator named.
//! Over TLS the server's certificate must be valid for its name.

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Uri, header};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;

/// A parsed URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Url {
    secure: bool,
    host: String,
    /// `None`: the scheme's default.
    port: Option<u16>,
    /// The value of the `Host` header, which includes a non-default port.
    authority: String,
    path: String,
}

/// Whether a value of the configuration is a URL, and not a file.
pub(crate) fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

impl Url {
    /// Parses a URL.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Url, String> {
        let wrong =
            |what: &str| format!("expected a URL such as \"https://auth.example/user\", found \"{text}\": {what}");
        let uri: Uri = text.parse().map_err(|_| wrong("it is none"))?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong("it must begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or_else(|| wrong("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("it must not hold a user or a password"));
        }
        let host = authority.host();
        if host.is_empty() {
            return Err(wrong("it names no host"));
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Url {
            secure,
            // An IPv6 address is in brackets.
            host: host.trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16(),
            authority: authority.as_str().to_owned(),
            path: path.to_owned(),
        })
    }

    fn is_same_server(&self, other: &Url) -> bool {
        (self.secure, self.port(), &self.host) == (other.secure, other.port(), &other.host)
    }

    fn port(&self) -> u16 {
        self.port_or(80, 443)
    }

    /// The port in the URL, or the scheme's default.
    pub(crate) fn port_or(&self, http: u16, https: u16) -> u16 {
        self.port.unwrap_or(if self.secure { https } else { http })
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.secure
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Outage {
    /// Nothing came in time.
    #[error("no answer in time")]
    Timeout,
    /// The server cannot be reached, or the connection broke.
    #[error("{0}")]
    Broken(String),
    /// The status was not 200, 201 or 204.
    #[error("it answered with status {0}")]
    Status(u16),
}

fn broken(error: impl std::fmt::Display) -> Outage {
    Outage::Broken(error.to_string())
}

/// Counts of requests.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub answered: AtomicU64,
    /// There was no answer, or it was unusable.
    pub failed: AtomicU64,
}

impl Counts {
    pub(crate) fn count(&self, is_answered: bool) {
        let counter = if is_answered { &self.answered } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The limits of a [`Client`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Time for a whole request, without the wait for its turn.
    pub timeout: Duration,
    /// Maximum concurrent requests.
    pub requests: usize,
    /// Maximum bytes of an answer's body.
    pub answer_bytes: usize,
}

/// An HTTP client with limits.
pub(crate) struct Client {
    tls: TlsConnector,
    bounds: Bounds,
    turns: Semaphore,
    /// Idle connections, kept for the next request.
    idle: Mutex<Vec<(Url, Sender)>>,
}

type Sender = SendRequest<Full<Bytes>>;

/// A request's method and body.
#[derive(Clone, Debug)]
enum Ask {
    Get,
    Post { content_type: &'static str, body: Bytes },
}

impl Client {
    /// Makes a client. `ca`: a PEM file with the trusted certificate authorities; empty: the system's.
    ///
    /// # Errors
    /// The file cannot be read or holds no certificate; the text names it.
    pub(crate) fn new(ca: &str, bounds: Bounds) -> Result<Client, String> {
        Ok(Client {
            tls: connector(ca)?,
            turns: Semaphore::new(bounds.requests),
            bounds,
            idle: Mutex::new(Vec::new()),
        })
    }

    /// Sends a GET request and returns the answer's body.
    ///
    /// # Errors
    /// Why there is no usable answer.
    pub(crate) async fn get(&self, url: &Url) -> Result<Bytes, Outage> {
        self.request(url, Ask::Get).await
    }

    /// Sends a POST request and returns the answer's body.
    ///
    /// # Errors
    /// Why there is no usable answer.
    pub(crate) async fn post(&self, url: &Url, content_type: &'static str, body: String) -> Result<Bytes, Outage> {
        let body = body.into();
        self.request(url, Ask::Post { content_type, body }).await
    }

    async fn request(&self, url: &Url, ask: Ask) -> Result<Bytes, Outage> {
        let _turn = self.turns.acquire().await.map_err(broken)?;
        let exchange = async {
            // A server may close an idle connection just when we send on it. Then the request is sent again on a new one, which
            // is safe because these requests change nothing.
            if let Some(sender) = self.take_idle(url).await
                && let Ok(answer) = self.exchange(url, sender, ask.clone()).await
            {
                return answer;
            }
            let sender = self.connect(url).await?;
            self.exchange(url, sender, ask).await.unwrap_or_else(Err)
        };
        tokio::time::timeout(self.bounds.timeout, exchange)
            .await
            .unwrap_or(Err(Outage::Timeout))
    }

    /// Sends one request on a connection. The inner result is the answer.
    ///
    /// # Errors
    /// The connection broke before an answer began.
    async fn exchange(&self, url: &Url, mut sender: Sender, ask: Ask) -> Result<Result<Bytes, Outage>, Outage> {
        let builder = Request::builder()
            .uri(&url.path)
            .header(header::HOST, &url.authority)
            .header(header::USER_AGENT, concat!("gatepost/", env!("CARGO_PKG_VERSION")));
        let request = match ask {
            Ask::Get => builder.method(Method::GET).body(Full::default()),
            Ask::Post { content_type, body } => builder
                .method(Method::POST)
                .header(header::CONTENT_TYPE, content_type)
                .body(Full::new(body)),
        };
        let response = sender.send_request(request.map_err(broken)?).await.map_err(broken)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), self.bounds.answer_bytes);
        let body = match body.collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => return Ok(Err(broken(error))),
        };
        self.keep(url, sender);
        Ok(if matches!(status, 200 | 201 | 204) {
            Ok(body)
        } else {
            Err(Outage::Status(status))
        })
    }

    fn keep(&self, url: &Url, sender: Sender) {
        let mut idle = self.idle.lock();
        idle.retain(|(_, sender)| !sender.is_closed());
        if !sender.is_closed() && idle.len() < self.bounds.requests {
            idle.push((url.clone(), sender));
        }
    }

    async fn take_idle(&self, url: &Url) -> Option<Sender> {
        loop {
            let mut sender = {
                let mut idle = self.idle.lock();
                let at = idle.iter().position(|(known, _)| known.is_same_server(url))?;
                idle.swap_remove(at).1
            };
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn connect(&self, url: &Url) -> Result<Sender, Outage> {
        let stream = TcpStream::connect((url.host.as_str(), url.port()))
            .await
            .map_err(broken)?;
        // Requests are small and a client waits for each, so send them at once.
        let _ = stream.set_nodelay(true);
        if !url.secure {
            return handshake(stream).await;
        }
        let name = ServerName::try_from(url.host.clone()).map_err(broken)?;
        handshake(self.tls.connect(name, stream).await.map_err(broken)?).await
    }
}

/// Makes the TLS side of a connection. The server's certificate must be valid for its name. `ca`: a PEM file with the
/// trusted authorities; empty: the system's.
///
/// # Errors
/// The file cannot be read or holds no certificate; the text names it.
pub(crate) fn connector(ca: &str) -> Result<TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13, &TLS12]);
    let mut tls = versions
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots(ca)?)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(tls)))
}

async fn handshake(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Sender, Outage> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // The task ends when the sender is dropped or the server closes the connection.
    tokio::spawn(connection);
    Ok(sender)
}

/// Maximum bytes of an answer's head, and of one read.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Usual files of a system's trusted certificate authorities.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

fn roots(ca: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    if ca.is_empty() {
        // A system without them can still use plain HTTP.
        let bytes = SYSTEM_ROOTS.iter().find_map(|path| std::fs::read(path).ok());
        let all = CertificateDer::pem_slice_iter(bytes.as_deref().unwrap_or_default());
        roots.add_parsable_certificates(all.filter_map(Result::ok));
        return Ok(roots);
    }
    let bytes = std::fs::read(ca).map_err(|error| format!("{ca} cannot be read: {error}"))?;
    for certificate in CertificateDer::pem_slice_iter(&bytes) {
        let added = certificate
            .map_err(|error| error.to_string())
            .and_then(|certificate| roots.add(certificate).map_err(|error| error.to_string()));
        added.map_err(|error| format!("{ca} is no good PEM file of certificates: {error}"))?;
    }
    if roots.is_empty() {
        return Err(format!("{ca} holds no certificate in PEM form"));
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    const BOUNDS: Bounds = Bounds {
        timeout: Duration::from_secs(60),
        requests: 2,
        answer_bytes: 100,
    };

    #[test]
    fn urls_name_a_server_and_nothing_secret() {
        let url = Url::parse("https://auth.example/a?b=c").expect("a URL");
        assert_eq!((url.secure, &*url.host, url.port()), (true, "auth.example", 443));
        assert_eq!((&*url.authority, &*url.path), ("auth.example", "/a?b=c"));
        let url = Url::parse("http://[::1]:8080").expect("a URL");
        assert_eq!(
            (url.secure, &*url.host, url.port(), &*url.path),
            (false, "::1", 8080, "/")
        );
        for text in [
            "",
            "auth.example",
            "ftp://auth.example",
            "http://",
            "http://u:p@auth.example/",
            "http:///x",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }

    /// A server that answers each request of a connection with the next of `answers` and then closes it. Also returns
    /// the number of connections.
    async fn server(answers: &'static [&'static [u8]]) -> (Url, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    for answer in answers {
                        let mut request = Vec::new();
                        while !request.ends_with(b"\r\n\r\n") && !request.ends_with(b"body") {
                            if stream.read_buf(&mut request).await.is_ok_and(|n| n > 0) {
                                continue;
                            }
                            return;
                        }
                        stream.write_all(answer).await.expect("sent");
                    }
                });
            }
        });
        (Url::parse(&format!("http://{address}/x")).expect("a URL"), connections)
    }

    const HELLO: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

    #[tokio::test]
    async fn a_connection_serves_several_requests_and_one_that_was_closed_meanwhile_costs_none() {
        let (url, connections) = server(&[HELLO, HELLO]).await;
        let client = Client::new("", BOUNDS).expect("a client");
        for _ in 0..6 {
            let answer = client.post(&url, "text/plain", "body".to_owned()).await;
            assert_eq!(answer.as_deref(), Ok(&b"hello"[..]));
        }
        assert_eq!(connections.load(Ordering::Relaxed), 3);
    }

    #[tokio::test]
    async fn what_is_no_good_answer_is_an_outage() {
        let client = Client::new("", BOUNDS).expect("a client");
        let moved: &[&[u8]] = &[b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"];
        let (url, connections) = server(moved).await;
        assert_eq!(client.get(&url).await, Err(Outage::Status(302)));
        assert_eq!(connections.load(Ordering::Relaxed), 1);
        let large: &[&[u8]] = &[b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n"];
        let endless: &[&[u8]] = &[b"HTTP/1.1 200 OK\r\n\r\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"];
        let nonsense: &[&[u8]] = &[b"SSH-2.0-x\r\n"];
        for answers in [large, endless, nonsense, &[]] {
            let (url, _) = server(answers).await;
            let answer = client.get(&url).await;
            assert!(matches!(answer, Err(Outage::Broken(_))), "{answer:?}");
        }
        let nobody = Url::parse("http://127.0.0.1:1/").expect("a URL");
        assert!(client.get(&nobody).await.is_err());
    }

    #[tokio::test]
    async fn who_does_not_answer_in_time_does_not_answer() {
        let (url, _) = server(&[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", HELLO]).await;
        let timeout = Duration::from_millis(50);
        let client = Client::new("", Bounds { timeout, ..BOUNDS }).expect("a client");
        assert_eq!(client.get(&url).await, Err(Outage::Timeout));
    }
}
