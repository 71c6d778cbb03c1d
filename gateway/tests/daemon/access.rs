//! What users may and may not do, with real clients of each protocol, and with Mosquitto's own files.

use crate::support::mqtt::Mqtt;
use crate::support::tls::Authority;
use crate::support::{Gatepost, clients, node, python};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// `s3cret`, hashed by `mosquitto_passwd -H sha512-pbkdf2`.
pub(crate) const HASH: &str =
    "$7$101$kgGgJFGt+JcSZth/$1/8FAJZGBmH1HliJd7qzSX4Zp9F+H9OL4oiH83Ipb4PMXlvZT3+WsnZ8CQiNluaGucU3BIr8xNea1IDtgkFASw==";

const ACL: &str = "\
user plant
topic readwrite plant/#
topic deny plant/secret/#

user reader
topic read plant/1/#

user brief
topic readwrite brief/#

pattern write status/%c
";

/// A gateway whose users are in the files `passwords` and `acl` of its directory.
fn with_files(acl: &str, users: &[&str]) -> Gatepost {
    let mut gatepost = Gatepost::prepare(2, "");
    let path = |name: &str| gatepost.dir.join(name);
    let passwords: String = users.iter().map(|user| format!("{user}:{HASH}\n")).collect();
    fs::write(path("passwords"), passwords).expect("written");
    fs::write(path("acl"), acl).expect("written");
    let mut toml = fs::read_to_string(gatepost.config()).expect("a configuration");
    let (passwords, acl) = (path("passwords"), path("acl"));
    toml.push_str(&format!(
        "[auth]\nbackends = [\"internal\", \"file\"]\n[auth.file]\npasswords = {passwords:?}\nacl = {acl:?}\n"
    ));
    fs::write(gatepost.config(), toml).expect("written");
    gatepost.start_again();
    gatepost
}

#[test]
fn what_a_user_may_not_do_is_refused_in_each_protocol_s_words() {
    let mut gatepost = with_files(ACL, &["plant", "reader", "brief", "gone"]);
    python(&mut gatepost, "access.py");
    let log = gatepost.log();
    assert!(log.contains("why=\"the session is another user's\""), "it is logged");
    assert!(!log.contains("s3cret"), "no secret is");
}

/// What Paho's suites for brokers test with a denied topic, in all three versions.
#[test]
fn denied_topics_are_refused_in_every_version_of_mqtt() {
    let mut gatepost = with_files(ACL, &["plant", "reader"]);
    python(&mut gatepost, "access_topics.py");
}

#[test]
fn connected_clients_are_told_of_changed_users_rights_and_vhosts() {
    // Many users log in side by side, so hashing must cost little, and a busy machine needs time.
    let cheap = "[auth]\nargon2_memory = \"64KiB\"\nargon2_passes = 1\n[limits]\nhandshake_timeout = \"60s\"\n";
    let mut gatepost = Gatepost::with(2, cheap);
    python(&mut gatepost, "access_changes.py");
    gatepost.terminate();
}

/// An issuer of tokens whose key the gateway knows.
struct Issuer(EcdsaKeyPair);

impl Issuer {
    fn new() -> Issuer {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random);
        Issuer(key.expect("a key"))
    }

    /// The issuer's key under that name.
    fn jwks(&self, kid: &str) -> Value {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y}]})
    }

    /// A token of `user` that expires in this many seconds.
    fn token(&self, user: &str, seconds: u64, more: Value) -> String {
        self.token_by("1", user, seconds, more)
    }

    fn token_by(&self, kid: &str, user: &str, seconds: u64, more: Value) -> String {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .expect("after 1970");
        let mut claims = json!({"sub": user, "aud": "gatepost", "exp": now.as_secs() + seconds});
        if let (Some(claims), Value::Object(more)) = (claims.as_object_mut(), more) {
            claims.extend(more);
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "ES256", "kid": kid})), part(&claims));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).expect("signed");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

#[test]
fn a_token_names_the_user_and_its_rights_until_it_expires() {
    let mut gatepost = Gatepost::prepare(2, "");
    let (issuer, stranger) = (Issuer::new(), Issuer::new());
    let jwks = gatepost.dir.join("jwks.json");
    fs::write(&jwks, issuer.jwks("1").to_string()).expect("written");
    let mut toml = fs::read_to_string(gatepost.config()).expect("a configuration");
    toml.push_str(&format!(
        "[auth]\nbackends = [\"internal\", \"jwt\"]\n[auth.jwt]\njwks = {jwks:?}\n"
    ));
    fs::write(gatepost.config(), toml).expect("written");
    gatepost.start_again();
    // Installing the clients may take longer than some tokens are valid, so it comes first.
    clients::have_installed();
    let acl = json!({"acl": {"all": ["jwt/${username}/#"]}});
    let scopes = json!({"scope": "gatepost.configure:*/orders gatepost.write:*/* gatepost.read:*/orders"});
    let tokens = json!({
        "device": issuer.token("device", 3_600, acl.clone()),
        "stranger": stranger.token("device", 3_600, acl.clone()),
        "guest": issuer.token("guest", 3_600, acl.clone()),
        "short": issuer.token("short", 8, acl.clone()),
        "nothing": issuer.token("nothing", 3_600, json!({})),
        "service": issuer.token("service", 20, scopes.clone()),
        "brief": issuer.token("brief", 20, acl.clone()),
        "service-renewed": issuer.token("service", 3_600, scopes),
    });
    fs::write(gatepost.dir.join("tokens.json"), tokens.to_string()).expect("written");
    python(&mut gatepost, "access_jwt.py");
}

#[test]
fn mqtt_5_clients_authenticate_and_authenticate_again_by_methods() {
    let mut gatepost = Gatepost::prepare(2, "[mqtt]\nauth_methods = [\"SCRAM-SHA-256\", \"OAUTH2-JWT\"]\n");
    let issuer = Issuer::new();
    let jwks = gatepost.dir.join("jwks.json");
    fs::write(&jwks, issuer.jwks("1").to_string()).expect("written");
    let mut toml = fs::read_to_string(gatepost.config()).expect("a configuration");
    toml.push_str(&format!(
        "[auth]\nbackends = [\"internal\", \"jwt\"]\n[auth.jwt]\njwks = {jwks:?}\n"
    ));
    fs::write(gatepost.config(), toml).expect("written");
    gatepost.start_again();
    clients::have_installed();
    let acl = json!({"acl": {"all": ["jwt/${username}/#"]}});
    let tokens = json!({
        "service": issuer.token("service", 20, acl.clone()),
        "brief": issuer.token("brief", 20, acl.clone()),
        "other": issuer.token("other", 3_600, acl.clone()),
        "service-renewed": issuer.token("service", 3_600, acl),
    });
    fs::write(gatepost.dir.join("tokens.json"), tokens.to_string()).expect("written");
    python(&mut gatepost, "mqtt_auth.py");
    node(&mut gatepost, "mqtt_auth.mjs");
    let log = gatepost.log();
    assert!(
        !log.contains(",r=") && !log.contains("eyJ"),
        "no secret is logged: {log}"
    );
}

/// Writes `ca.pem`, `server.pem` and `server.key` for a server that a script starts.
fn copy_certificates(gatepost: &Gatepost) {
    let authority = Authority::new();
    for name in ["ca.pem", "server.pem", "server.key"] {
        fs::copy(authority.path(name), gatepost.dir.join(name)).expect("copied");
    }
}

#[test]
fn keys_of_tokens_are_fetched_when_they_change_and_kept_during_an_outage() {
    let mut gatepost = Gatepost::prepare(2, "");
    copy_certificates(&gatepost);
    let (first, second) = (Issuer::new(), Issuer::new());
    let acl = json!({"acl": {"all": ["#"]}});
    let write = |name: &str, value: Value| fs::write(gatepost.dir.join(name), value.to_string()).expect("written");
    write("first.json", first.jwks("first"));
    write("second.json", second.jwks("second"));
    write(
        "tokens.json",
        json!({
            "first": first.token_by("first", "device", 3_600, acl.clone()),
            "second": second.token_by("second", "device", 3_600, acl),
        }),
    );
    python(&mut gatepost, "access_jwks.py");
}

#[test]
fn an_http_server_decides_logins_and_rights() {
    let mut gatepost = Gatepost::prepare(2, "");
    copy_certificates(&gatepost);
    python(&mut gatepost, "access_http.py");
    let log = gatepost.log();
    assert!(log.contains("the HTTP back end gives no answer"), "an outage is logged");
    assert!(log.contains("it is secret"), "and so is a reason");
    assert!(!log.contains("s3cret"), "no password is");
}

/// Devices that all connect at once, each with a user of its own, are accepted, while a client that was connected
/// before is served. `GATEPOST_STORM=5000` (and `ulimit -n 20000`) makes it a storm, and `--nocapture` shows the
/// figures.
#[test]
fn many_logins_at_once_succeed_and_delay_nobody() {
    let count: usize = std::env::var("GATEPOST_STORM").map_or(100, |count| count.parse().expect("a number"));
    let hash = shipped_hash();
    let mut gatepost = Gatepost::prepare(2, "");
    let path = gatepost.dir.join("passwords");
    let users: String = (0..count).map(|n| format!("device-{n}:{hash}\n")).collect();
    fs::write(&path, users).expect("written");
    let mut toml = fs::read_to_string(gatepost.config()).expect("a configuration");
    toml.push_str(&format!(
        "[auth]\nbackends = [\"internal\", \"file\"]\n[auth.file]\npasswords = {path:?}\n"
    ));
    fs::write(gatepost.config(), toml).expect("written");
    gatepost.start_again();

    let done = AtomicBool::new(false);
    let (mut waits, took, again) = std::thread::scope(|scope| {
        let (gatepost, done) = (&gatepost, &done);
        let bystander = scope.spawn(move || {
            let mut client = Mqtt::open(gatepost.mqtt, "bystander", true);
            let mut waits = Vec::new();
            while !done.load(Ordering::Relaxed) {
                let began = Instant::now();
                client.publish("quiet", 1, b"x");
                client.expect(0x40).expect("a PUBACK");
                waits.push(began.elapsed());
                // A slow pair, not a flood.
                std::thread::sleep(Duration::from_millis(2));
            }
            waits
        });
        let began = Instant::now();
        let again = log_in_all(gatepost.mqtt, count);
        let took = began.elapsed();
        done.store(true, Ordering::Relaxed);
        (bystander.join().expect("served"), took, again)
    });
    waits.sort();
    let at = |share: f64| waits[((waits.len() - 1) as f64 * share) as usize];
    println!(
        "{count} logins in {took:?}, {again} had to come again; beside them a publish took {:?} (median), {:?} (p99), {:?} at most",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

/// A hash of `s3cret` with the default cost. All users have it, and each login is checked.
fn shipped_hash() -> String {
    let params = argon2::Params::new(4 << 10, 3, 1, Some(32)).expect("parameters");
    let argon2 = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let (salt, mut hash) = ([7; 16], [0; 32]);
    argon2.hash_password_into(b"s3cret", &salt, &mut hash).expect("hashed");
    let (salt, hash) = (STANDARD_NO_PAD.encode(salt), STANDARD_NO_PAD.encode(hash));
    format!("$argon2id$v=19$m=4096,t=3,p=1${salt}${hash}")
}

/// Logs in all devices at once. A device that is disconnected because its turn did not come in time connects again.
/// Returns how often that happened.
fn log_in_all(port: u16, count: usize) -> usize {
    let knock = |n: usize| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .expect("a time limit");
        let mut body = b"\x00\x04MQTT\x04\xc2\x00\x00".to_vec();
        let user = format!("device-{n}");
        for text in [user.as_bytes(), user.as_bytes(), b"s3cret"] {
            body.extend(u16::try_from(text.len()).expect("short").to_be_bytes());
            body.extend(text);
        }
        let mut packet = vec![0x10, u8::try_from(body.len()).expect("short")];
        packet.extend(body);
        stream.write_all(&packet).expect("sent");
        (n, stream)
    };
    let mut waiting: VecDeque<(usize, TcpStream)> = (0..count).map(knock).collect();
    let (mut inside, mut again) = (Vec::new(), 0);
    while let Some((n, mut stream)) = waiting.pop_front() {
        let mut connack = [0; 4];
        match stream.read_exact(&mut connack) {
            Ok(()) if connack == [0x20, 2, 0, 0] => inside.push(stream),
            // 3: the server is busy, or the login took too long.
            Ok(()) => assert_eq!(connack, [0x20, 2, 0, 3]),
            Err(_) => {}
        }
        if inside.len() + waiting.len() < count {
            again += 1;
            waiting.push_back(knock(n));
        }
    }
    again
}
