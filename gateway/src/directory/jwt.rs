//! The back end `jwt`: a token is the password. It names the user and the user's rights.
//!
//! - Signatures are RS256 and ES256, by keys of a JWKS. A file is read at the start and on SIGHUP; a URL is fetched (see
//!   [`super::jwks`]). The algorithm must be allowed, and the key must be of its kind, so a token cannot choose how it is
//!   verified.
//! - `exp` is required, and `aud` must name `auth.jwt.resource_server_id` unless `auth.jwt.verify_aud` is off. The name comes from
//!   the first of `auth.jwt.username_claims` in the token; the name that the client gives is ignored.
//! - Scopes are RabbitMQ's: `<id>.read:<vhost>/<name>[/<key>]`, `write`, `configure`, with `*` for any characters, and
//!   `<id>.tag:<tag>` for the management interface. A key with `*` anywhere but at its end has no equivalent topic pattern and
//!   grants nothing. A scope that cannot be read grants nothing.
//! - EMQX's claim `acl` (`pub`, `sub`, `all`: lists of filters) is used if the token has no scopes, for the default vhost.
//! - When the token expires, the user's connections end. A newer token of the same user, by `connection.update-secret` or
//!   another login, replaces it, for all its connections.

use super::file::Lines;
use super::keys::{Keys, Source};
use crate::config::Config;
use crate::node::DEFAULT_VHOST;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gatepost_core::access::{NamePattern, Rights, TopicPattern};
use gatepost_core::message::Dialect;
use gatepost_core::properties::Name;
use parking_lot::RwLock;
use serde_json::Value;
use std::sync::{Arc, LazyLock};

/// Maximum bytes of a token.
pub(super) const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Maximum scopes, and filters of an `acl` claim, that are read from one token.
const SCOPES_MAX: usize = 1_000;
/// Maximum tags of one token.
const TAGS_MAX: usize = 16;

/// Verifies the tokens of the configured issuer.
pub(crate) struct Issuer {
    keys: RwLock<Arc<Keys>>,
    /// Where the keys are fetched from; `None`: they come from a file.
    pub(super) source: Option<Source>,
    algorithms: Vec<String>,
    resource_server_id: String,
    verify_audience: bool,
    username_claims: Vec<String>,
    scope_claims: Vec<String>,
    topic_exchange: Name,
}

/// The content of a verified token.
#[derive(Debug)]
pub(crate) struct Token {
    pub user: Name,
    /// Unix seconds.
    pub until: u64,
    pub grant: Grant,
}

/// The rights and tags that a token or the HTTP back end gives.
#[derive(Debug, Default)]
pub(crate) struct Grant {
    scopes: Vec<Scope>,
    /// EMQX's claim.
    acl: Option<Arc<Rights>>,
    /// The same rights in each vhost, for a user of the HTTP back end.
    everywhere: Option<Arc<Rights>>,
    is_everything: bool,
    memory_of_acl: usize,
    topic_exchange: Name,
    /// Tags for the management API.
    pub(super) tags: Vec<Name>,
}

#[derive(Debug)]
struct Scope {
    verb: Verb,
    /// Globs.
    vhost: String,
    name: String,
    /// `None`: every key.
    key: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Configure,
    Write,
    Read,
}

/// Why a token is refused whose key is unknown. The issuer may have a new key, so the keys are fetched again.
pub(super) const UNKNOWN_KEY: &str = "its key is not known";

impl Issuer {
    /// Reads the keys from the configured file. Keys at a URL are fetched later.
    ///
    /// # Errors
    /// The file cannot be read, or has no key that can be used.
    pub(crate) fn load(config: &Config) -> Result<Issuer, String> {
        let jwt = &config.auth_jwt;
        let source = Source::of(jwt)?;
        let keys = match &source {
            Some(_) => Keys::default(),
            None => {
                let path = &jwt.jwks;
                let text = std::fs::read(path).map_err(|error| format!("{path} cannot be read: {error}"))?;
                Keys::parse(&text).map_err(|what| format!("{path}: {what}"))?
            }
        };
        Ok(Issuer::with(config, keys, source))
    }

    /// An issuer with these keys.
    pub(super) fn with(config: &Config, keys: Keys, source: Option<Source>) -> Issuer {
        let jwt = &config.auth_jwt;
        Issuer {
            keys: RwLock::new(Arc::new(keys)),
            source,
            algorithms: jwt.algorithms.clone(),
            resource_server_id: jwt.resource_server_id.clone(),
            verify_audience: jwt.verify_aud,
            username_claims: jwt.username_claims.clone(),
            scope_claims: jwt.scope_claims.clone(),
            topic_exchange: config.mqtt.exchange.as_str().into(),
        }
    }

    /// The current keys.
    pub(super) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read())
    }

    /// Replaces the keys.
    pub(super) fn set_keys(&self, keys: Arc<Keys>) {
        *self.keys.write() = keys;
    }

    /// Verifies a token. `now` is in Unix seconds.
    ///
    /// # Errors
    /// Why it is refused, for the log.
    pub(crate) fn verify(&self, token: &[u8], now: u64) -> Result<Token, &'static str> {
        let token = std::str::from_utf8(token).map_err(|_| "it is not text")?;
        let (signed, signature) = token.rsplit_once('.').ok_or("it has no signature")?;
        let (header, payload) = signed.split_once('.').ok_or("it has no payload")?;
        let header = json(header).ok_or("its header is not JSON")?;
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| "its signature is not base64url")?;
        let algorithm = header["alg"].as_str().unwrap_or_default();
        if !self.algorithms.iter().any(|allowed| allowed == algorithm) {
            return Err("its algorithm is not allowed");
        }
        if header.get("crit").is_some() {
            return Err("it asks for an extension");
        }
        let keys = self.keys();
        let key = keys.find(header["kid"].as_str()).ok_or(UNKNOWN_KEY)?;
        if !key.verifies(algorithm, signed.as_bytes(), &signature) {
            return Err("its signature is wrong");
        }
        self.claims(&json(payload).ok_or("its payload is not JSON")?, now)
    }

    /// Reads the claims of a token whose signature was verified.
    pub(super) fn claims(&self, claims: &Value, now: u64) -> Result<Token, &'static str> {
        let seconds = |name: &str| {
            claims[name]
                .as_u64()
                .or_else(|| claims[name].as_f64().map(|s| s as u64))
        };
        let until = seconds("exp").ok_or("it has no expiry")?;
        if until <= now {
            return Err("it has expired");
        }
        if seconds("nbf").is_some_and(|from| from > now) {
            return Err("it is not valid yet");
        }
        if self.verify_audience && !texts(&claims["aud"]).contains(&self.resource_server_id.as_str()) {
            return Err("it is for somebody else");
        }
        let named = self
            .username_claims
            .iter()
            .find_map(|claim| claims[claim.as_str()].as_str());
        let user = named.filter(|name| !name.is_empty() && name.len() <= super::NAME_MAX);
        Ok(Token {
            user: user.ok_or("it names no user")?.into(),
            until,
            grant: self.grant(claims),
        })
    }

    /// Scopes that begin with our resource server id, without it.
    fn scopes<'a>(&self, claims: &'a Value) -> impl Iterator<Item = &'a str> {
        let prefix = format!("{}.", self.resource_server_id);
        let all = self
            .scope_claims
            .iter()
            .flat_map(|claim| texts(&claims[claim.as_str()]));
        let all = all.flat_map(|text| text.split_ascii_whitespace()).take(SCOPES_MAX);
        all.filter_map(move |scope| scope.strip_prefix(&prefix))
    }

    fn tags(&self, claims: &Value) -> Vec<Name> {
        let tags = self.scopes(claims).filter_map(|scope| scope.strip_prefix("tag:"));
        tags.filter_map(percent_decoded)
            .filter(|tag| !tag.is_empty() && tag.len() <= super::NAME_MAX)
            .take(TAGS_MAX)
            .map(|tag| tag.as_str().into())
            .collect()
    }

    fn grant(&self, claims: &Value) -> Grant {
        let scopes: Vec<Scope> = self.scopes(claims).filter_map(Scope::parse).collect();
        let acl = claims.get("acl").filter(|_| scopes.is_empty());
        Grant {
            tags: self.tags(claims),
            everywhere: None,
            is_everything: false,
            memory_of_acl: acl.map_or(0, |acl| acl.to_string().len() * 16),
            acl: acl.map(|acl| acl_rights(acl, &self.topic_exchange)),
            scopes,
            topic_exchange: self.topic_exchange.clone(),
        }
    }
}

impl Scope {
    /// Parses `read:vhost/name[/key]`, percent-encoded. `None`: it is not such a scope, or a part of it cannot be
    /// decoded.
    fn parse(text: &str) -> Option<Scope> {
        let (verb, rest) = text.split_once(':')?;
        let verb = match verb {
            "configure" => Verb::Configure,
            "write" => Verb::Write,
            "read" => Verb::Read,
            _ => return None,
        };
        let mut parts = rest.splitn(3, '/').map(percent_decoded);
        Some(Scope {
            verb,
            vhost: parts.next()??,
            name: parts.next()??,
            // A key that cannot be decoded must not count as "no key", which is every key.
            key: match parts.next() {
                Some(key) => Some(key?),
                None => None,
            },
        })
    }
}

impl Grant {
    /// Estimated memory, with the rights that it becomes in each vhost: compiled patterns are larger than their texts.
    pub(super) fn memory(&self) -> usize {
        let of = |scope: &Scope| {
            scope.name.len() * 32 + scope.vhost.len() + scope.key.as_ref().map_or(0, String::len) * 8 + 256
        };
        let tags: usize = self.tags.iter().map(|tag| tag.len() + 32).sum();
        self.memory_of_acl + tags + self.scopes.iter().map(of).sum::<usize>()
    }

    /// The grant of a user of the HTTP back end: the server is asked about each right, unless the user is a superuser.
    pub(super) fn outside(tags: Vec<Name>, is_superuser: bool) -> Grant {
        /// Shared by all such users: engines compare the pointer, so they see that nothing changed.
        static RIGHTS: LazyLock<[Arc<Rights>; 2]> = LazyLock::new(|| [Rights::asked().into(), Rights::all().into()]);
        Grant {
            tags,
            everywhere: Some(Arc::clone(&RIGHTS[usize::from(is_superuser)])),
            is_everything: is_superuser,
            ..Grant::default()
        }
    }

    /// Whether the user is a superuser.
    pub(super) fn is_everything(&self) -> bool {
        self.is_everything
    }

    /// The rights in a vhost. `None`: the user may not use it.
    pub(super) fn rights(&self, vhost: &str) -> Option<Arc<Rights>> {
        if self.everywhere.is_some() {
            return self.everywhere.clone();
        }
        if let Some(acl) = &self.acl {
            return (vhost == DEFAULT_VHOST).then(|| Arc::clone(acl));
        }
        let here: Vec<&Scope> = self
            .scopes
            .iter()
            .filter(|scope| is_like(&scope.vhost, vhost))
            .collect();
        if here.is_empty() {
            return None;
        }
        let names = |verb: Verb| {
            let globs = here
                .iter()
                .filter(|scope| scope.verb == verb)
                .map(|scope| regex_of(&scope.name));
            let globs: Vec<String> = globs.collect();
            if globs.is_empty() {
                return NamePattern::default();
            }
            // A pattern over the size limit does not compile. It grants nothing: part of the list would be a guess.
            NamePattern::parse(&format!("^({})$", globs.join("|"))).unwrap_or_default()
        };
        let mut rights = Rights::new(names(Verb::Configure), names(Verb::Write), names(Verb::Read));
        for exchange in self.exchanges(&here) {
            let topics = |verb: Verb| {
                let of = here
                    .iter()
                    .filter(|scope| scope.verb == verb && is_like(&scope.name, &exchange));
                of.filter_map(|scope| topics_of(scope.key.as_deref())).collect()
            };
            rights = rights.with_topics(&exchange, topics(Verb::Write), topics(Verb::Read));
        }
        Some(Arc::new(rights))
    }

    /// Exchanges whose keys the scopes may limit: those named without a `*`, and MQTT's.
    fn exchanges(&self, here: &[&Scope]) -> Vec<Name> {
        let named = here
            .iter()
            .filter(|scope| scope.key.is_some() && !scope.name.contains('*'));
        let mut exchanges: Vec<Name> = named.map(|scope| scope.name.as_str().into()).collect();
        exchanges.push(self.topic_exchange.clone());
        exchanges.sort();
        exchanges.dedup();
        exchanges
    }
}

/// The topic pattern that is equivalent to a glob over keys, if there is one.
fn topics_of(key: Option<&str>) -> Option<TopicPattern> {
    let key = match key {
        None | Some("*" | "#") => "#".to_owned(),
        Some(key) => match key.strip_suffix(".*") {
            Some(levels) if !levels.contains('*') => format!("{levels}.*.#"),
            Some(_) => return None,
            None if key.contains('*') => return None,
            None => key.to_owned(),
        },
    };
    TopicPattern::parse(&key, Dialect::Dot).ok()
}

/// The rights of EMQX's claim `acl`.
fn acl_rights(acl: &Value, exchange: &str) -> Arc<Rights> {
    let filters = |action: &str| {
        let texts = texts(&acl[action]).into_iter().take(SCOPES_MAX);
        let filled = texts.map(|text| {
            let text = text
                .replace("${clientid}", "{client_id}")
                .replace("${username}", "{username}");
            text.replace("%c", "{client_id}").replace("%u", "{username}")
        });
        let parse = |text: String| TopicPattern::parse(&text, Dialect::Slash).ok();
        filled.filter_map(parse).collect::<Vec<_>>()
    };
    let mut lines = Lines {
        write: filters("pub"),
        read: filters("sub"),
        denied: Vec::new(),
    };
    let all = filters("all");
    lines.write.extend(all.iter().cloned());
    lines.read.extend(all);
    lines.rights(exchange)
}

/// A text, or a list of texts.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn json(part: &str) -> Option<Value> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

/// Matches a glob, in which `*` stands for any characters. Each part between two `*` is searched once, so no glob is slow.
fn is_like(glob: &str, text: &str) -> bool {
    let Some((first, rest)) = glob.split_once('*') else {
        return glob == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

fn regex_of(glob: &str) -> String {
    let mut regex = String::new();
    for c in glob.chars() {
        match c {
            '*' => regex.push_str(".*"),
            c if c.is_alphanumeric() => regex.push(c),
            c if c.is_ascii_punctuation() => regex.extend(['\\', c]),
            c => regex.push(c),
        }
    }
    regex
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

/// Whether a password looks like a token.
pub(super) fn is_token(password: &[u8]) -> bool {
    password.starts_with(b"ey") && password.iter().filter(|byte| **byte == b'.').count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepost_core::access::Permission;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
    use serde_json::json;

    /// Signed by OpenSSL; expires in 2100.
    const RS256: &str = "\
        eyJhbGciOiJSUzI1NiIsImtpZCI6InIifQ.eyJzdWIiOiJwbGFudC0xIiwiYXVkIjpbImdhdGVwb3N0Il0sImV4cCI6NDEwMjQ0NDgwMCwic2N\
        vcGUiOiJnYXRlcG9zdC5yZWFkOiUyRi9hbXEudG9waWMvcGxhbnQuMS4qIGdhdGVwb3N0LnJlYWQ6Ki9tcXR0LXN1YnNjcmlwdGlvbi0qIGdhd\
        GVwb3N0LndyaXRlOiUyRi9hbXEudG9waWMvcGxhbnQuMS50ZW1wIGdhdGVwb3N0LmNvbmZpZ3VyZToqL21xdHQtc3Vic2NyaXB0aW9uLSogZ2F\
        0ZXBvc3Qud3JpdGU6Ki9tcXR0LXN1YnNjcmlwdGlvbi0qIG90aGVyLnJlYWQ6Ki8qIn0.PRwdtYhcIIxi4GtfN39h41XE-V2ena4oYXlARZe8Q\
        lusXQ-ovxAwIMwe5Vy3TzS5mztdyX12f1eM9WyOjCQeL_l6yxTZK8cPfQvxMg-qCWTPnvpcp9J5lvHZulUftK-MyxGRIm6OBOCbXV0AtcPvSEa\
        Vw2Ab3t9OuAuDzsrXD5471wQA2gaaBA_Fww1R_JYXQZw1laUhbJg49bmVEBBuNa9BSWT7EapujXo0NCD-hZ6ZfU1pv5mIs83PzpLsBl7CgC0A4\
        RxEgETEuq5ixS-rezKce-lKhVz5EkycwMxzpTFKQ_gsqJec5GjMv_kG49TlAGiQPhTlDnr_LQqZAZFXDA";
    const MODULUS: &str = "\
        oS1BfpUkOdISyXTt3xAMHjPtVsCompuuJMsh_lrN2UPdfG3zUFskTM3GNGsdCG6mdleMDwfQHxopMtXj1Pn7mvJR6C_vV36FwJm7HKWnflVh0g\
        UdBV7GlpflZKU7MF--yagNwaJVL45o-m553mXhC8isWd7VdUCNyQh0y0Q-pKeNutxh7xkUaCb2XS9Qx7s6MjxQ_UBvbAhxUHBMq82cIfiYy02l\
        mfGUscR06IXA313soE0oRHX8wGLYuVAiJ74vOUFvFExQdJnIXr-bbGEQl8-hWvyr3Mwv1cogCYa9PWsWZb17d3pe0K8sRYagTpyBuxl_7QK8t6\
        4a4E9oqJjUOQ";
    const NOW: u64 = 1_800_000_000;

    /// An issuer with a key of each kind.
    struct Bench {
        ec: EcdsaKeyPair,
        issuer: Issuer,
    }

    fn encoded(value: &Value) -> String {
        URL_SAFE_NO_PAD.encode(value.to_string())
    }

    impl Bench {
        fn new() -> Bench {
            let random = SystemRandom::new();
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
            let ec =
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).expect("a key");
            let (x, y) = ec.public_key().as_ref()[1..].split_at(32);
            let jwks = json!({"keys": [
                {"kty": "RSA", "kid": "r", "n": MODULUS, "e": "AQAB"},
                {"kty": "EC", "crv": "P-256", "kid": "e", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)},
                {"kty": "oct", "k": "c2VjcmV0"},
            ]});
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("jwks.json");
            std::fs::write(&path, jwks.to_string()).expect("written");
            let mut config = Config::default();
            config.auth_jwt.jwks = path.display().to_string();
            let issuer = Issuer::load(&config).expect("keys");
            Bench { ec, issuer }
        }

        fn sign(&self, header: &Value, claims: &Value) -> String {
            let signed = format!("{}.{}", encoded(header), encoded(claims));
            let signature = self.ec.sign(&SystemRandom::new(), signed.as_bytes()).expect("signed");
            format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
        }

        fn verify(&self, header: &Value, claims: &Value) -> Result<Token, &'static str> {
            self.issuer.verify(self.sign(header, claims).as_bytes(), NOW)
        }
    }

    fn header() -> Value {
        json!({"alg": "ES256", "kid": "e"})
    }

    #[test]
    fn both_signatures_count_and_no_other() {
        let bench = Bench::new();
        let token = bench.issuer.verify(RS256.as_bytes(), NOW).expect("a good token");
        assert_eq!((&*token.user, token.until), ("plant-1", 4_102_444_800));
        let claims = json!({"sub": "u", "aud": "gatepost", "exp": NOW + 1});
        assert_eq!(&*bench.verify(&header(), &claims).expect("a good token").user, "u");
        // A change of any byte invalidates the token.
        let good = bench.sign(&header(), &claims);
        for at in 0..good.len() {
            let mut bad = good.clone().into_bytes();
            bad[at] = if bad[at] == b'A' { b'B' } else { b'A' };
            // The last character of the signature has unused bits.
            assert!(bench.issuer.verify(&bad, NOW).is_err() || at + 1 == good.len(), "{at}");
        }
        for header in [
            json!({"alg": "none"}),
            json!({"alg": "HS256", "kid": "e"}),
            // A valid signature, with the wrong key or the wrong algorithm named in the header.
            json!({"alg": "ES256", "kid": "r"}),
            json!({"alg": "RS256", "kid": "e"}),
            json!({"alg": "ES256", "kid": "nobody"}),
            json!({"alg": "ES256"}),
            json!({"alg": "ES256", "kid": "e", "crit": ["exp"]}),
        ] {
            assert!(bench.verify(&header, &claims).is_err(), "{header}");
        }
        for text in ["", ".", "..", "ey.ey.ey", "a.b.c.d"] {
            assert!(bench.issuer.verify(text.as_bytes(), NOW).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_must_be_in_time_and_for_us_and_name_somebody() {
        let bench = Bench::new();
        for (claims, why) in [
            (json!({"sub": "u", "aud": "gatepost"}), "it has no expiry"),
            (json!({"sub": "u", "aud": "gatepost", "exp": NOW}), "it has expired"),
            (
                json!({"sub": "u", "aud": "gatepost", "exp": NOW + 9, "nbf": NOW + 1}),
                "it is not valid yet",
            ),
            (
                json!({"sub": "u", "aud": ["a", "b"], "exp": NOW + 1}),
                "it is for somebody else",
            ),
            (json!({"sub": "u", "exp": NOW + 1}), "it is for somebody else"),
            (json!({"aud": "gatepost", "exp": NOW + 1}), "it names no user"),
            (
                json!({"sub": "", "aud": "gatepost", "exp": NOW + 1}),
                "it names no user",
            ),
        ] {
            assert_eq!(bench.verify(&header(), &claims).err(), Some(why), "{claims}");
        }
        let other = json!({"client_id": "c", "aud": "gatepost", "exp": NOW + 1});
        assert_eq!(&*bench.verify(&header(), &other).expect("a good token").user, "c");
    }

    #[test]
    fn scopes_are_rights() {
        let bench = Bench::new();
        let token = bench.issuer.verify(RS256.as_bytes(), NOW).expect("a good token");
        let rights = token.grant.rights("/").expect("rights");
        assert!(rights.permit(Permission::Write, "amq.topic"));
        assert!(rights.permit(Permission::Configure, "mqtt-subscription-plant-1"));
        assert!(!rights.permit(Permission::Configure, "amq.topic"));
        assert!(!rights.permit(Permission::Read, "amqXtopic"));
        assert!(
            !rights.permit(Permission::Read, "orders"),
            "another resource server's scope"
        );
        // In other vhosts it may only use the queues of its subscriptions.
        let elsewhere = token.grant.rights("elsewhere").expect("some rights");
        assert!(!elsewhere.permit(Permission::Read, "amq.topic"));
        let none = json!({"sub": "u", "aud": "gatepost", "exp": NOW + 1, "scope": "gatepost.tag:administrator"});
        assert!(
            bench
                .verify(&header(), &none)
                .expect("good")
                .grant
                .rights("/")
                .is_none()
        );
        let acl =
            json!({"sub": "u", "aud": "gatepost", "exp": NOW + 1, "acl": {"pub": ["a/${username}"], "all": ["b/#"]}});
        let acl = bench.verify(&header(), &acl).expect("good").grant;
        assert!(acl.rights("/").expect("rights").permit(Permission::Write, "amq.topic"));
        assert!(acl.rights("elsewhere").is_none());
    }

    /// The bug: a key that could not be decoded counted as no key, and the scope then permitted every key.
    #[test]
    fn a_scope_that_cannot_be_decoded_grants_nothing() {
        for text in ["read:%2/x", "read:*/%zz", "read:*/x/%zz", "read:*/x/%ff", "read:*"] {
            assert!(Scope::parse(text).is_none(), "{text}");
        }
        let scope = |text| Scope::parse(text).map(|scope| (scope.name, scope.key));
        assert_eq!(scope("read:*/x/a%2Fb"), Some(("x".to_owned(), Some("a/b".to_owned()))));
        assert_eq!(scope("read:*/x"), Some(("x".to_owned(), None)));
    }

    #[test]
    fn tag_scopes_are_tags() {
        let bench = Bench::new();
        let scope = "gatepost.tag:administrator other.tag:x gatepost.tag: gatepost.tag:a%20b gatepost.read:*/*";
        let claims = json!({"sub": "u", "aud": "gatepost", "exp": NOW + 1, "scope": scope});
        let token = bench.verify(&header(), &claims).expect("good");
        assert_eq!(token.grant.tags, ["administrator".into(), Name::from("a b")]);
        assert!(token.grant.rights("/").is_some());
        let scope = "gatepost.tag:t ".repeat(100);
        let claims = json!({"sub": "u", "aud": "gatepost", "exp": NOW + 1, "scope": scope});
        assert_eq!(
            bench.verify(&header(), &claims).expect("good").grant.tags.len(),
            TAGS_MAX
        );
    }

    #[test]
    fn globs_match_any_characters_between() {
        for (glob, text, expected) in [
            ("*", "", true),
            ("a*", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*c", "acb", false),
            ("a*a", "a", false),
            ("abc", "abcd", false),
        ] {
            assert_eq!(is_like(glob, text), expected, "{glob} {text}");
        }
        assert_eq!(regex_of("a.b*"), "a\\.b.*");
        assert_eq!(percent_decoded("%2Fa%20b").as_deref(), Some("/a b"));
        assert_eq!(percent_decoded("%2"), None);
    }

    #[test]
    fn keys_with_a_star_in_the_middle_grant_nothing() {
        for (key, pattern) in [
            (None, Some("#")),
            (Some("*"), Some("#")),
            (Some("a.b"), Some("a.b")),
            (Some("a.*"), Some("a.*.#")),
            (Some("a*"), None),
            (Some("a.*.b"), None),
        ] {
            let pattern = pattern.map(|text| TopicPattern::parse(text, Dialect::Dot).expect("a pattern"));
            assert_eq!(topics_of(key), pattern, "{key:?}");
        }
    }
}
