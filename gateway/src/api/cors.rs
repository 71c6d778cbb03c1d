//! Decides which web pages of other servers may use the API.

use axum::http::{HeaderMap, HeaderValue, header};

/// The page that a request comes from, and the configuration's rule about it.
pub(super) struct Origins {
    /// The page's origin, if it may use the API.
    allowed: Option<HeaderValue>,
}

/// The header in which a browser says whether a request comes from a page of the same server.
const FETCH_SITE: &str = "sec-fetch-site";
/// The header in which a reverse proxy says which host it was asked for.
const FORWARDED_HOST: &str = "x-forwarded-host";
/// Seconds for which a browser need not ask again.
const MAX_AGE: &str = "1800";

impl Origins {
    pub(super) fn of(allowed: &[String], headers: &HeaderMap) -> Origins {
        let origin = headers.get(header::ORIGIN);
        let is_allowed = |origin: &&HeaderValue| {
            allowed
                .iter()
                .any(|known| known == "*" || known.as_bytes() == origin.as_bytes())
        };
        Origins {
            allowed: origin.filter(is_allowed).cloned(),
        }
    }

    /// Whether the request comes from a page of another server that is not allowed. A browser sends its remembered
    /// password with such a request, and if the request looks like a form it does so without asking first.
    ///
    /// A reverse proxy may change `Host`. Then two other headers tell the console's own page from others: the browser's
    /// `Sec-Fetch-Site`, or the host that the proxy was asked for. A page of another server can set neither, unless
    /// [`Origins::preflight`] has allowed it.
    pub(super) fn is_strange(&self, headers: &HeaderMap) -> bool {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return false;
        };
        if headers.get(FETCH_SITE).is_some_and(|site| site == "same-origin") {
            return false;
        }
        let origin = origin.as_bytes();
        let authority = origin
            .windows(3)
            .position(|part| part == b"://")
            .and_then(|at| origin.get(at + 3..));
        let hosts = [headers.get(FORWARDED_HOST), headers.get(header::HOST)];
        let is_own = hosts
            .into_iter()
            .flatten()
            .any(|host| Some(host.as_bytes()) == authority);
        self.allowed.is_none() && !is_own
    }

    /// Tells the browser that the page may read the answer.
    pub(super) fn allow(&self, headers: &mut HeaderMap) {
        let Some(origin) = &self.allowed else { return };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        let yes = HeaderValue::from_static("true");
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        headers.insert(
            header::ACCESS_CONTROL_EXPOSE_HEADERS,
            HeaderValue::from_static("location"),
        );
        headers.append(header::VARY, HeaderValue::from_static("origin"));
    }

    /// Tells the browser which methods and headers the page may use.
    pub(super) fn preflight(&self, headers: &mut HeaderMap, asked: Option<HeaderValue>) {
        if self.allowed.is_none() {
            return;
        }
        if let Some(methods) = headers.get(header::ALLOW).cloned() {
            headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        if let Some(asked) = asked {
            headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked);
        }
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(MAX_AGE));
    }
}
