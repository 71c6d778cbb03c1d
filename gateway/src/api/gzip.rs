//! Compresses answers for clients that accept it. A list of ten thousand queues is some megabytes of repetitive text.

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Body as _;
use std::io::Write as _;

/// Shorter answers are not compressed: they fit into one packet.
const BYTES_LEAST: u64 = 1_400;
/// Longer answers are compressed on another thread, so that this one can serve others meanwhile.
const BYTES_AT_ONCE: usize = 32 << 10;

/// Whether the client accepts gzip (RFC 9110 12.5.3). `gzip;q=0` means that it does not.
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    let mut all = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    all.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        is_gzip && weight.is_none_or(|weight| weight.parse::<f32>().is_ok_and(|weight| weight > 0.0))
    })
}

/// The answer, compressed if it is JSON and long enough.
pub(super) async fn compress(answer: Response) -> Response {
    let is_json = answer
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/json");
    let Some(bytes) = answer
        .body()
        .size_hint()
        .exact()
        .filter(|bytes| is_json && *bytes >= BYTES_LEAST)
    else {
        return answer;
    };
    let (mut head, body) = answer.into_parts();
    let Ok(text) = to_bytes(body, usize::try_from(bytes).unwrap_or(usize::MAX)).await else {
        // The length that was computed before is no longer right.
        return Response::from_parts(head, Body::empty());
    };
    let plain = text.clone();
    let compressed = if text.len() <= BYTES_AT_ONCE {
        compressed(&text)
    } else {
        let done = tokio::task::spawn_blocking(move || compressed(&text)).await;
        done.unwrap_or_default()
    };
    if compressed.is_empty() {
        return Response::from_parts(head, Body::from(plain));
    }
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers
        .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    head.headers
        .append(header::VARY, HeaderValue::from_static("accept-encoding"));
    Response::from_parts(head, Body::from(compressed))
}

/// Fast rather than small: repetitive text shrinks to a tenth anyway. Empty if compression fails.
fn compressed(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(text.len() / 8), Compression::fast());
    match encoder.write_all(text) {
        Ok(()) => encoder.finish().unwrap_or_default(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_say_whether_they_take_gzip() {
        for (accepted, expected) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("br, gzip;q=0", false),
            ("gzip;q=0.0, br", false),
            ("gzip;q=x", false),
            ("identity", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            assert_eq!(is_asked(&headers), expected, "{accepted}");
        }
    }
}
