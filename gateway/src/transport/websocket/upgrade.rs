//! Checks and answers the HTTP request for a WebSocket (RFC 6455 section 4.2), without I/O.
//!
//! Any other request gets an answer that names the protocol of this port, and the connection closes.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};
use std::fmt::Write as _;
use std::net::IpAddr;

/// Maximum length of a request's head in bytes. A browser sends its cookies too.
pub(crate) const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;

/// Which requests are accepted.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Accepted paths, without a slash at the end.
    pub paths: &'static [&'static str],
    /// Supported subprotocols, the best one first.
    pub subprotocols: &'static [&'static str],
    /// Whether a client that offers no subprotocol is accepted.
    pub subprotocol_optional: bool,
    /// Accepted origins of web pages; empty: all.
    pub origins: Vec<String>,
}

/// The result for a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The head is not complete.
    More,
    /// The request is accepted.
    Accept {
        /// Bytes of the request; frames follow.
        used: usize,
        /// The answer to send.
        answer: String,
        /// Whether the request may count as local: it does not come from another machine's web page; see [`is_trusted`].
        trusted: bool,
    },
    /// The request is refused.
    Refuse {
        /// The answer to send.
        answer: String,
        /// For our log.
        why: String,
    },
}

/// Parses and checks a request. `bytes`: everything received so far.
pub(crate) fn read(bytes: &[u8], rules: &Rules) -> Verdict {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(used)) if used <= HEAD_BYTES_MAX => {
            check(&request, rules).map_or_else(Refusal::verdict, |(answer, trusted)| Verdict::Accept {
                used,
                answer,
                trusted,
            })
        }
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => Verdict::More,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            let text = format!("The head of a request has at most {HEAD_BYTES_MAX} bytes and {HEADERS_MAX} fields.");
            refusal("431 Request Header Fields Too Large", text).verdict()
        }
        Err(_) => refusal(
            "400 Bad Request",
            "This is a WebSocket port: it is asked in HTTP/1.1.".to_owned(),
        )
        .verdict(),
    }
}

struct Refusal {
    status: &'static str,
    /// Header fields, each with its line end.
    fields: String,
    text: String,
}

fn refusal(status: &'static str, text: String) -> Refusal {
    Refusal {
        status,
        fields: String::new(),
        text,
    }
}

impl Refusal {
    fn verdict(self) -> Verdict {
        let Refusal { status, fields, text } = self;
        let answer = format!(
            "HTTP/1.1 {status}\r\n{fields}Content-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n{text}\n",
            text.len() + 1
        );
        let why = format!("{status}: {text}");
        Verdict::Refuse { answer, why }
    }
}

/// Checks a request. Returns the answer, and whether the request is trusted.
fn check(request: &httparse::Request<'_, '_>, rules: &Rules) -> Result<(String, bool), Refusal> {
    if request.method != Some("GET") {
        let mut refusal = refusal("405 Method Not Allowed", "A WebSocket begins with GET.".to_owned());
        refusal.fields.push_str("Allow: GET\r\n");
        return Err(refusal);
    }
    let path = request.path.unwrap_or_default();
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if !rules.paths.contains(&path.strip_suffix('/').unwrap_or(path)) {
        let text = format!(
            "There is nothing here: the WebSocket is at {}.",
            rules.paths.join(" and ")
        );
        return Err(refusal("404 Not Found", text));
    }
    let bad = |text: &str| refusal("400 Bad Request", text.to_owned());
    if request.version != Some(1) {
        return Err(bad("A WebSocket begins with a request of HTTP/1.1."));
    }
    if !has_token(request, "upgrade", "websocket") || !has_token(request, "connection", "upgrade") {
        return Err(upgrade_required(
            "This is a WebSocket port: it takes requests to upgrade to one.",
        ));
    }
    if one(request, "sec-websocket-version") != Ok(Some("13")) {
        return Err(upgrade_required("Version 13 of WebSocket is spoken here."));
    }
    let length = one(request, "content-length").map_err(|()| bad("There are several Content-Length fields."))?;
    if length.is_some_and(|length| length != "0") || values(request, "transfer-encoding").next().is_some() {
        return Err(bad("A request for a WebSocket has no body."));
    }
    let key = one(request, "sec-websocket-key").ok().flatten();
    let Some(key) = key.filter(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == 16)) else {
        return Err(bad("Sec-WebSocket-Key must hold 16 bytes in base64, once."));
    };
    if one(request, "host").ok().flatten().is_none() {
        return Err(bad("There must be one Host field."));
    }
    let origin = one(request, "origin").map_err(|()| bad("There are several Origin fields."))?;
    if let Some(origin) = origin.filter(|_| !rules.origins.is_empty())
        && !is_listed(origin, &rules.origins)
    {
        let text = format!(
            "Pages of {} are not let in: listeners.NAME.origins lists which are.",
            shown(origin)
        );
        return Err(refusal("403 Forbidden", text));
    }
    let subprotocol = subprotocol(request, rules)?;
    let trusted = origin.is_none_or(|origin| is_trusted(origin, &rules.origins));
    Ok((accepted(key, subprotocol), trusted))
}

/// Whether a page of that origin may count as a local client. The browser runs on this machine, but the page's author controls
/// what it does. So only pages from this machine, or of listed origins, count as local.
fn is_trusted(origin: &str, listed: &[String]) -> bool {
    let host = origin.split_once("://").map_or("", |(_, host)| host);
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    let local = host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    local || is_listed(origin, listed)
}

fn is_listed(origin: &str, listed: &[String]) -> bool {
    listed.iter().any(|listed| listed.eq_ignore_ascii_case(origin))
}

fn upgrade_required(text: &str) -> Refusal {
    let mut refusal = refusal("426 Upgrade Required", text.to_owned());
    refusal
        .fields
        .push_str("Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
    refusal
}

/// The best of our subprotocols that the client offers.
fn subprotocol(request: &httparse::Request<'_, '_>, rules: &Rules) -> Result<Option<&'static str>, Refusal> {
    let offered = || tokens(request, "sec-websocket-protocol");
    let chosen = rules
        .subprotocols
        .iter()
        .copied()
        .find(|ours| offered().any(|offer| offer == *ours));
    if chosen.is_some() || (rules.subprotocol_optional && offered().next().is_none()) {
        return Ok(chosen);
    }
    let mut text = format!("Sec-WebSocket-Protocol must offer {}", rules.subprotocols.join(" or "));
    let _ = match offered().next() {
        Some(other) => write!(text, "; it offers {}.", shown(other)),
        None => write!(text, "; it is missing."),
    };
    Err(refusal("400 Bad Request", text))
}

fn accepted(key: &str, subprotocol: Option<&str>) -> String {
    // RFC 6455 4.2.2, step 5.4.
    let digest = Sha1::new()
        .chain_update(key)
        .chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
        .finalize();
    let mut answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n",
        STANDARD.encode(digest)
    );
    if let Some(subprotocol) = subprotocol {
        let _ = write!(answer, "Sec-WebSocket-Protocol: {subprotocol}\r\n");
    }
    answer.push_str("\r\n");
    answer
}

/// All values of a field.
fn values<'a>(request: &'a httparse::Request<'_, '_>, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let named = request
        .headers
        .iter()
        .filter(move |h| h.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value)
}

/// The single value of a field. `Err`: there are several, or it is not text.
fn one<'a>(request: &'a httparse::Request<'_, '_>, name: &'a str) -> Result<Option<&'a str>, ()> {
    let mut values = values(request, name);
    let value = values.next().map(std::str::from_utf8).transpose().map_err(|_| ())?;
    match values.next() {
        Some(_) => Err(()),
        None => Ok(value.map(str::trim)),
    }
}

/// The members of a list field, which may be on several lines.
fn tokens<'a>(request: &'a httparse::Request<'_, '_>, name: &'a str) -> impl Iterator<Item = &'a str> {
    values(request, name)
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

fn has_token(request: &httparse::Request<'_, '_>, name: &str, token: &str) -> bool {
    tokens(request, name).any(|member| member.eq_ignore_ascii_case(token))
}

/// A client's text, cut for an answer or a log line.
fn shown(text: &str) -> String {
    let end = text.floor_char_boundary(text.len().min(80));
    format!("{:?}", text.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            paths: &["/mqtt", "/ws"],
            subprotocols: &["mqtt", "mqttv3.1"],
            subprotocol_optional: false,
            origins: Vec::new(),
        }
    }

    /// The request of RFC 6455 1.3, to our path and for our subprotocol.
    const REQUEST: &str = "GET /ws HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://example.com\r\n\
                           Sec-WebSocket-Protocol: chat, mqtt\r\nSec-WebSocket-Version: 13\r\n\r\n";

    fn ask(request: &str, rules: &Rules) -> Verdict {
        read(request.as_bytes(), rules)
    }

    /// The status line and text of the answer to `request`.
    fn refused(request: &str, rules: &Rules) -> String {
        match ask(request, rules) {
            Verdict::Refuse { answer, why } => {
                assert!(answer.starts_with(&format!("HTTP/1.1 {}", &why[..3])), "{answer}");
                assert!(answer.contains("\r\nConnection: close\r\n"), "{answer}");
                why
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_example_of_the_rfc_gets_the_answer_of_the_rfc() {
        let Verdict::Accept { used, answer, trusted } = ask(REQUEST, &rules()) else {
            panic!("not accepted");
        };
        assert_eq!(
            answer,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        assert_eq!((used, trusted), (REQUEST.len(), false));
        for end in 0..REQUEST.len() {
            assert_eq!(ask(&REQUEST[..end], &rules()), Verdict::More, "{end} bytes");
        }
    }

    #[test]
    fn what_is_no_upgrade_is_told_what_is_spoken_here() {
        let cases = [
            ("GET /ws ", "POST /ws ", "405"),
            (
                "GET /ws ",
                "GET / ",
                "404 Not Found: There is nothing here: the WebSocket is at /mqtt and /ws.",
            ),
            ("HTTP/1.1", "HTTP/1.0", "400"),
            ("Upgrade: websocket\r\n", "", "426"),
            ("Connection: Upgrade", "Connection: close", "426"),
            ("Version: 13", "Version: 8", "426"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==", "400"),
            ("Host: server.example.com\r\n", "", "400"),
            ("Origin: http", "Content-Length: 5\r\nOrigin: http", "400"),
            ("Origin: http", "Transfer-Encoding: chunked\r\nOrigin: http", "400"),
            ("Origin: http", "Origin: http://other\r\nOrigin: http", "400"),
            (
                "chat, mqtt",
                "chat",
                "400 Bad Request: Sec-WebSocket-Protocol must offer mqtt or mqttv3.1; it offers \"chat\".",
            ),
            ("Sec-WebSocket-Protocol: chat, mqtt\r\n", "", "400"),
        ];
        for (from, to, expected) in cases {
            assert!(REQUEST.contains(from), "{from}");
            let why = refused(&REQUEST.replace(from, to), &rules());
            assert!(why.starts_with(expected), "{to}: {why}");
        }
        // Bytes of other protocols.
        for other in [
            "\x16\x03\x01\x02\x00\x01\x00",
            "\x10\x0d\x00\x04MQTT\x04",
            "CONNECT\nhost:/\n\n\0",
        ] {
            assert!(refused(other, &rules()).starts_with("400"), "{other:?}");
        }
    }

    #[test]
    fn lists_and_letter_case_and_a_slash_are_read_as_http_has_them() {
        let spelled = REQUEST
            .replace("GET /ws ", "GET /mqtt/?token=a ")
            .replace("Upgrade: websocket", "upgrade: WebSocket")
            .replace("Connection: Upgrade", "CONNECTION: keep-alive, upgrade")
            .replace(
                "Protocol: chat, mqtt",
                "Protocol: chat\r\nSec-WebSocket-Protocol: mqttv3.1,mqtt",
            );
        let Verdict::Accept { answer, .. } = ask(&spelled, &rules()) else {
            panic!("not accepted");
        };
        assert!(
            answer.contains("Sec-WebSocket-Protocol: mqtt\r\n"),
            "the best one: {answer}"
        );
    }

    #[test]
    fn a_head_has_a_limit() {
        let long = REQUEST.replace("Host:", &format!("Cookie: {}\r\nHost:", "x".repeat(HEAD_BYTES_MAX)));
        assert!(refused(&long, &rules()).starts_with("431"));
        assert!(
            refused(&long[..HEAD_BYTES_MAX], &rules()).starts_with("431"),
            "without its end"
        );
        let many = REQUEST.replace("Host:", &format!("{}Host:", "x: y\r\n".repeat(HEADERS_MAX)));
        assert!(refused(&many, &rules()).starts_with("431"));
    }

    #[test]
    fn origins_are_compared_whole_and_only_listed_or_local_ones_are_trusted() {
        let with = |origin: &str| REQUEST.replace("http://example.com", origin);
        let trusted = |request: &str, rules: &Rules| match ask(request, rules) {
            Verdict::Accept { trusted, .. } => Some(trusted),
            _ => None,
        };
        let mut rules = rules();
        for (origin, expected) in [
            ("http://localhost:8000", true),
            ("http://127.0.0.1", true),
            ("https://[::1]:8443", true),
            ("http://localhost.evil.example", false),
            ("http://127.0.0.1.evil.example", false),
            ("null", false),
            ("file://", false),
            ("http://192.0.2.1", false),
        ] {
            assert_eq!(trusted(&with(origin), &rules), Some(expected), "{origin}");
        }
        let no_page = REQUEST.replace("Origin: http://example.com\r\n", "");
        assert_eq!(trusted(&no_page, &rules), Some(true));
        rules.origins = vec!["https://panel.example".to_owned(), "null".to_owned()];
        assert_eq!(trusted(&with("https://PANEL.example"), &rules), Some(true));
        assert_eq!(trusted(&with("null"), &rules), Some(true));
        assert_eq!(trusted(&no_page, &rules), Some(true));
        for other in ["https://panel.example:444", "http://localhost"] {
            assert!(refused(&with(other), &rules).starts_with("403"), "{other}");
        }
    }

    #[test]
    fn without_an_offer_no_subprotocol_is_named_where_none_is_needed() {
        let rules = Rules {
            subprotocols: &["v12.stomp", "v11.stomp", "v10.stomp"],
            subprotocol_optional: true,
            ..rules()
        };
        let none = REQUEST.replace("Sec-WebSocket-Protocol: chat, mqtt\r\n", "");
        assert!(
            matches!(ask(&none, &rules), Verdict::Accept { answer, .. } if !answer.contains("Sec-WebSocket-Protocol"))
        );
        assert!(refused(REQUEST, &rules).starts_with("400"));
        let old_first = REQUEST.replace("chat, mqtt", "v10.stomp, v11.stomp");
        assert!(matches!(ask(&old_first, &rules), Verdict::Accept { answer, .. } if answer.contains("v11.stomp")));
    }
}
