//! The console's files, which are packed into the program.
//!
//! Everybody gets them without a login: their content comes from the API, which demands one.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

struct File {
    path: &'static str,
    media_type: &'static str,
    etag: &'static str,
    gzip: &'static [u8],
}

const FILES: &[File] = include!(concat!(env!("OUT_DIR"), "/ui.rs"));

/// Scripts and styles of the gateway only. The page *Try it* opens WebSockets to the gateway's other ports.
const POLICY: &str =
    "default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// For answers that are not pages: a browser that opens one shows text and runs nothing in it.
const POLICY_OF_DATA: &str = "default-src 'none'; frame-ancestors 'none'";

/// Tells browsers not to guess an answer's type, not to frame it, and not to share it with another server's windows.
pub(super) fn protect(headers: &mut HeaderMap) {
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let policy = HeaderValue::from_static(POLICY_OF_DATA);
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(policy);
}

/// The file at that path, if there is one.
pub(super) fn file(path: &str, headers: &HeaderMap) -> Option<Response> {
    let path = if path == "/" { "/index.html" } else { path };
    let file = FILES.iter().find(|file| file.path == path)?;
    let fresh = [
        // Also with a 304: otherwise the browser's refreshed entry would get the policy of data.
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::ETAG, HeaderValue::from_static(file.etag)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    if headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| known == file.etag)
    {
        return Some((StatusCode::NOT_MODIFIED, fresh).into_response());
    }
    let about = [
        (header::CONTENT_TYPE, file.media_type),
        (header::CONTENT_ENCODING, "gzip"),
    ];
    Some((fresh, about, Body::from(file.gzip)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_console_is_small() {
        let bytes: usize = FILES.iter().map(|file| file.gzip.len()).sum();
        println!("the console has {bytes} bytes, compressed");
        assert!(bytes < 80_000);
    }

    #[test]
    fn a_file_is_sent_once_and_then_known() {
        let response = file("/", &HeaderMap::new()).expect("the page");
        assert_eq!(response.status(), StatusCode::OK);
        let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, response.headers()[header::ETAG].clone())]);
        assert_eq!(
            file("/", &headers).expect("the page").status(),
            StatusCode::NOT_MODIFIED
        );
        assert!(file("/nosuch.js", &HeaderMap::new()).is_none());
    }
}
