//! The console's files, as they were packed into the program.
//!
//! Everybody gets them: what they show comes from the API, which asks who one is.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
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

/// The file at that path, if there is one.
pub(super) fn file(path: &str, headers: &HeaderMap) -> Option<Response> {
    let path = if path == "/" { "/index.html" } else { path };
    let file = FILES.iter().find(|file| file.path == path)?;
    let fresh = [
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
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
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
