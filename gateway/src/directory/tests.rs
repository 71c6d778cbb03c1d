//! Who may log in, and what the verbs do, with and without a restart in between.

mod mechanisms;

use super::hashing::{Answer, Hashing, Settings};
use super::jwt::Grant;
use super::password::{Cost, PasswordHash, Workspace};
use super::people::TemporaryUser;
use super::people::{Backend, People};
use super::permissions::Permission;
use super::users::Credential;
use super::{Caller, Directory, DirectoryError, Put};
use crate::config::{Anonymous, Config, Identity};
use crate::node::Node;
use crate::vhosts::tests::Bench;
use gatepost_core::command::{AlternativeName, Certificate, Login, Peer, Said};
use gatepost_core::event::{CloseReason, Event, LoginFailure};
use gatepost_core::store::VhostId;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const HERE: &str = "127.0.0.1:40000";
const HERE_MAPPED: &str = "[::ffff:127.0.0.1]:40000";
const FAR: &str = "192.0.2.7:40000";

/// Waits for the answer to a login.
struct Waiting(std::sync::mpsc::Sender<Event>);

impl Answer for Waiting {
    fn answer(&self, event: Event) {
        self.0.send(event).expect("somebody waits");
    }
}

/// A directory with the users of a first start.
fn directory(config: &Config) -> Directory {
    let directory = Directory::new(config).expect("a directory");
    directory.begin(VhostId(1));
    directory
}

fn answer(directory: &Directory, protocol: &str, peer: &Peer, login: Login) -> Event {
    let (sender, answers) = std::sync::mpsc::channel();
    let to: Arc<dyn Answer> = Arc::new(Waiting(sender));
    let caller = Caller {
        protocol,
        peer,
        anonymous: None,
    };
    let at_once = directory.authenticate(&caller, login, &to);
    at_once.unwrap_or_else(|| answers.recv().expect("an answer"))
}

fn login(directory: &Directory, protocol: &str, from: &str, login: Login) -> Result<String, LoginFailure> {
    let peer = Peer::at(from.parse().expect("an address"), None);
    match answer(directory, protocol, &peer, login) {
        Event::Authenticated { user, .. } => Ok(user.to_string()),
        Event::LoginRefused(refused) => Err(refused.why),
        other => panic!("{other:?}"),
    }
}

fn password(user: &str, password: &str) -> Login {
    Login::Password {
        user: user.into(),
        password: password.as_bytes().into(),
        said: Said::default(),
    }
}

#[test]
fn guest_logs_in_from_this_machine_only() {
    let people = directory(&Config::default());
    for here in [HERE, HERE_MAPPED, "[::1]:40000"] {
        assert_eq!(
            login(&people, "amqp", here, password("guest", "guest")),
            Ok("guest".to_owned())
        );
    }
    let far = login(&people, "amqp", FAR, password("guest", "guest"));
    assert_eq!(far, Err(LoginFailure::LoopbackOnly));
}

#[test]
fn a_peer_without_an_address_is_local_only_if_it_is_said_to_be() {
    let people = directory(&Config::default());
    let guest = || password("guest", "guest");
    let somewhere = answer(&people, "amqp", &Peer::default(), guest());
    assert!(matches!(somewhere, Event::LoginRefused(_)), "{somewhere:?}");
    let here = answer(&people, "amqp", &Peer::on_this_machine(), guest());
    assert!(matches!(here, Event::Authenticated { .. }), "{here:?}");
}

#[test]
fn a_wrong_or_blank_password_and_an_unknown_user_look_the_same() {
    let people = directory(&Config::default());
    for (user, secret) in [
        ("guest", "Guest"),
        ("guest", ""),
        ("nobody", ""),
        ("nobody", "guest"),
        ("", ""),
    ] {
        let answer = login(&people, "stomp", HERE, password(user, secret));
        assert_eq!(answer, Err(LoginFailure::BadCredentials), "{user}:{secret}");
    }
    // A wrong password from far away must not reveal that the user exists.
    assert_eq!(
        login(&people, "stomp", FAR, password("guest", "x")),
        Err(LoginFailure::BadCredentials)
    );
}

/// Clients send any new secret, and RabbitMQ asks only the back ends whose users' logins expire.
#[test]
fn a_user_whose_login_does_not_expire_renews_it_with_any_secret() {
    let people = directory(&Config::default());
    let renewal = |user: &str| Login::Renewal {
        user: user.into(),
        secret: b"new".as_slice().into(),
    };
    assert_eq!(login(&people, "amqp", HERE, renewal("guest")), Ok("guest".to_owned()));
    // The user of a token, or a deleted user, is unknown.
    let unknown = login(&people, "amqp", HERE, renewal("nobody"));
    assert_eq!(unknown, Err(LoginFailure::BadCredentials));
}

#[test]
fn logins_without_a_name_follow_the_setting() {
    let mut config = Config::default();
    for (setting, here, far) in [
        (Anonymous::Deny, false, false),
        (Anonymous::Loopback, true, false),
        (Anonymous::Allow, true, true),
    ] {
        config.mqtt.anonymous = setting;
        let people = directory(&config);
        assert_eq!(
            login(&people, "mqtt", HERE, Login::Anonymous).is_ok(),
            here,
            "{setting:?}"
        );
        assert_eq!(
            login(&people, "mqtt", HERE_MAPPED, Login::Anonymous).is_ok(),
            here,
            "{setting:?}"
        );
        assert_eq!(
            login(&people, "mqtt", FAR, Login::Anonymous).is_ok(),
            far,
            "{setting:?}"
        );
        assert_eq!(
            login(&people, "stomp", HERE, Login::Anonymous).is_ok(),
            here,
            "{setting:?}"
        );
        assert!(login(&people, "amqp", HERE, Login::Anonymous).is_err());
    }
}

#[test]
fn a_certificate_logs_in_the_user_it_names() {
    let certificate = Certificate {
        common_name: Some("guest".into()),
        alternative_names: [
            AlternativeName::Uri("urn:x".into()),
            AlternativeName::Dns("edge".into()),
        ]
        .into(),
    };
    let mut peer = Peer::at(HERE.parse().expect("an address"), None);
    peer.certificate = Some(certificate.into());
    let mut config = Config::default();
    let log_in = |config: &Config, peer: &Peer, login: Login| {
        let people = directory(config);
        match answer(&people, "mqtt", peer, login) {
            Event::Authenticated { user, .. } => Ok(user.to_string()),
            Event::LoginRefused(refused) => Err((refused.user.to_string(), refused.why)),
            other => panic!("{other:?}"),
        }
    };
    let bad = |user: &str| Err((user.to_owned(), LoginFailure::BadCredentials));
    let guest = || Ok("guest".to_owned());
    let named = |user: &str| Login::Certificate {
        user: Some(user.into()),
    };
    assert_eq!(log_in(&config, &peer, Login::Certificate { user: None }), guest());
    assert_eq!(log_in(&config, &peer, Login::Anonymous), guest());
    assert_eq!(log_in(&config, &peer, named("guest")), guest());
    assert_eq!(log_in(&config, &peer, password("guest", "")), guest());
    // The certificate belongs to another user, and a password is required as usual.
    assert_eq!(log_in(&config, &peer, named("admin")), bad("guest"));
    assert_eq!(log_in(&config, &peer, password("admin", "")), bad("guest"));
    assert_eq!(log_in(&config, &peer, password("guest", "wrong")), bad("guest"));

    let far = Peer {
        certificate: peer.certificate.clone(),
        ..Peer::at(FAR.parse().expect("an address"), None)
    };
    let refused = Err(("guest".to_owned(), LoginFailure::LoopbackOnly));
    assert_eq!(log_in(&config, &far, Login::Anonymous), refused);

    // It names an unknown user, which is not an anonymous login either.
    config.certificate.identity = Identity::Dns;
    assert_eq!(log_in(&config, &peer, Login::Anonymous), bad("edge"));
    config.certificate.identity = Identity::Email;
    assert_eq!(log_in(&config, &peer, Login::Anonymous), bad(""));
    config.certificate.identity = Identity::None;
    assert_eq!(log_in(&config, &peer, Login::Anonymous), Ok("anonymous".to_owned()));
    assert_eq!(log_in(&config, &peer, named("guest")), bad("guest"));
    let nobody = Peer::at(HERE.parse().expect("an address"), None);
    assert_eq!(log_in(&Config::default(), &nobody, named("guest")), bad("guest"));
    assert_eq!(log_in(&Config::default(), &nobody, password("guest", "")), bad("guest"));
}

#[test]
fn the_default_user_takes_its_password_from_a_file() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "s3cret\n").expect("written");
    let mut config = Config::default();
    config.auth.default_user = "edge".to_owned();
    config.auth.default_password_file = file.path().display().to_string();
    let people = directory(&config);
    assert_eq!(
        login(&people, "amqp", FAR, password("edge", "s3cret")),
        Ok("edge".to_owned())
    );
    std::fs::write(file.path(), "").expect("written");
    assert!(Directory::new(&config).is_err());
}

#[test]
fn a_name_that_nobody_has_is_as_good_as_none_until_there_are_users() {
    let config = Config::default();
    let people = directory(&config);
    let tasmota = || password("DVES_USER", "DVES_PASS");
    assert_eq!(login(&people, "mqtt", HERE, tasmota()), Ok("anonymous".to_owned()));
    // Anonymous clients come from this machine only, and the names of other protocols' clients are never ignored.
    assert_eq!(
        login(&people, "mqtt", FAR, tasmota()),
        Err(LoginFailure::BadCredentials)
    );
    assert_eq!(
        login(&people, "amqp", HERE, tasmota()),
        Err(LoginFailure::BadCredentials)
    );
    assert_eq!(
        login(&people, "stomp", HERE, tasmota()),
        Err(LoginFailure::BadCredentials)
    );
    let wrong = login(&people, "mqtt", HERE, password("guest", "wrong"));
    assert_eq!(wrong, Err(LoginFailure::BadCredentials));

    let dir = tempfile::tempdir().expect("a directory");
    let bench = Bench::start(dir.path());
    let log_in = |login| self::login(&bench.node.directory, "mqtt", HERE, login);
    assert_eq!(log_in(tasmota()), Ok("anonymous".to_owned()));
    bench
        .runtime
        .block_on(bench.node.add_user("plant", secret("s"), Vec::new()))
        .expect("a user");
    assert_eq!(log_in(tasmota()), Err(LoginFailure::BadCredentials));
    assert_eq!(log_in(Login::Anonymous), Ok("anonymous".to_owned()));
    bench.stop();
}

/// As in many a mosquitto.conf: `allow_anonymous true`, and an ACL for everybody.
#[test]
fn an_acl_without_passwords_makes_no_users() {
    let acl = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(acl.path(), "topic read plant/#\n").expect("written");
    let mut config = Config::default();
    config.auth.backends = vec!["internal".into(), "file".into()];
    config.auth_file.acl = acl.path().display().to_string();
    let people = directory(&config);
    for login in [Login::Anonymous, password("DVES_USER", "DVES_PASS")] {
        assert_eq!(self::login(&people, "mqtt", HERE, login), Ok("anonymous".to_owned()));
    }
}

fn secret(password: &str) -> Credential {
    Credential::Password(password.as_bytes().into())
}

/// Creates and changes users, and tries invalid names and credentials.
async fn change_users(node: &Node) {
    node.add_user("plant", secret("s3cret"), vec!["monitoring".into()])
        .await
        .expect("made");
    let again = node.add_user("plant", secret("other"), Vec::new()).await;
    assert_eq!(again, Err(DirectoryError::UserExists("plant".into())));
    assert_eq!(
        node.put_user("page", Credential::Nothing, Vec::new()).await,
        Ok(Put::Created)
    );
    assert_eq!(node.put_user("page", secret("p"), Vec::new()).await, Ok(Put::Changed));
    for name in ["", "a\0b", "tab\t"] {
        let none = node.add_user(name, Credential::Nothing, Vec::new()).await;
        assert_eq!(none, Err(DirectoryError::Name), "{name:?}");
    }
    let blank = node.add_user("x", secret(""), Vec::new()).await;
    assert_eq!(blank, Err(DirectoryError::Password));
    node.change_password("plant", secret("new")).await.expect("changed");
    node.set_user_tags("plant", vec!["administrator".into()])
        .await
        .expect("changed");
}

/// Sets permissions and limits, and deletes users.
async fn change_rights(node: &Node) {
    assert_eq!(
        node.set_permission("plant", "/", Permission::everything()).await,
        Ok(Put::Created)
    );
    assert_eq!(
        node.set_permission("plant", "/", Permission::everything()).await,
        Ok(Put::Changed)
    );
    let bad = Permission {
        read: "(".into(),
        ..Permission::everything()
    };
    assert!(matches!(
        node.set_permission("plant", "/", bad).await,
        Err(DirectoryError::Pattern(_))
    ));
    let nobody = node.set_permission("nobody", "/", Permission::everything()).await;
    assert_eq!(nobody, Err(DirectoryError::NoSuchUser("nobody".into())));
    let nowhere = node.set_permission("plant", "/none", Permission::everything()).await;
    assert_eq!(nowhere, Err(DirectoryError::NoSuchVhost("/none".into())));

    let set = node
        .set_topic_permission("plant", "/", "amq.topic", "plant/{client_id}/#", ".*")
        .await;
    assert_eq!(set, Ok(Put::Created));
    let set = node.set_topic_permission("plant", "/", "amq.topic", "a/#/b", "").await;
    assert!(matches!(set, Err(DirectoryError::Pattern(_))));
    node.set_user_limit("plant", "max-connections", 5).await.expect("set");
    node.set_user_limit("plant", "max-channels", -1).await.expect("set");
    node.set_vhost_limit("/", "max-queues", 7).await.expect("set");
    assert!(matches!(
        node.set_user_limit("plant", "max-queues", 1).await,
        Err(DirectoryError::Limit(_))
    ));
    node.delete_user("page").await.expect("deleted");
    node.delete_user("guest").await.expect("deleted");
    assert_eq!(
        node.delete_user("guest").await,
        Err(DirectoryError::NoSuchUser("guest".into()))
    );
}

/// Removes what [`change_rights`] set.
async fn clear_rights(node: &Node) {
    node.clear_topic_permission("plant", "/", None).await.expect("cleared");
    node.clear_permission("plant", "/").await.expect("cleared");
    node.clear_user_limit("plant", "max-connections")
        .await
        .expect("cleared");
    node.clear_user_limit("plant", "max-channels").await.expect("cleared");
    node.clear_vhost_limit("/", "max-queues").await.expect("cleared");
    let again = node.clear_permission("plant", "/").await;
    assert_eq!(again, Err(DirectoryError::NotSet("permission")));
    let again = node.clear_vhost_limit("/", "max-queues").await;
    assert_eq!(again, Err(DirectoryError::NotSet("limit")));
}

#[test]
fn what_the_verbs_change_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let bench = Bench::start(dir.path());
    let node = Arc::clone(&bench.node);
    let names = |bench: &Bench| {
        bench
            .node
            .users()
            .into_iter()
            .map(|u| u.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&bench), ["anonymous", "guest"]);
    bench.runtime.block_on(async {
        change_users(&node).await;
        change_rights(&node).await;
    });
    let listed = |bench: &Bench| {
        let node = &bench.node;
        (
            node.users(),
            node.permissions(),
            node.topic_permissions(),
            node.user_limits(),
            node.vhost_limits(),
        )
    };
    let before = listed(&bench);
    drop(node);
    bench.stop();
    let bench = Bench::start(dir.path());
    assert_eq!(listed(&bench), before);
    // Deleted users stay deleted.
    assert_eq!(names(&bench), ["anonymous", "plant"]);
    assert_eq!(before.1.len(), 2);
    assert_eq!(before.2[0].write, "plant/{client_id}/#");
    assert_eq!(before.3[0].1.len(), 2);
    assert_eq!(before.4, [("/".into(), vec![("max-queues".into(), 7)])]);
    let log_in = |password: &str| {
        bench
            .runtime
            .block_on(bench.node.log_in("plant", password.as_bytes(), false))
    };
    assert_eq!(log_in("new"), Ok(("plant".into(), vec!["administrator".into()])));
    assert_eq!(log_in("s3cret"), Err(LoginFailure::BadCredentials));
    let node = Arc::clone(&bench.node);
    bench.runtime.block_on(async {
        clear_rights(&node).await;
    });
    let after = listed(&bench);
    assert_eq!(
        (after.1.len(), after.2.len(), after.3.len(), after.4.len()),
        (1, 0, 0, 0)
    );
    drop(node);
    bench.stop();
}

/// The deleted user has all permissions, and a connection.
#[test]
fn a_deleted_user_s_connections_are_ended_and_nobody_else_s() {
    let dir = tempfile::tempdir().expect("a directory");
    let bench = Bench::start(dir.path());
    let (vhost, guest) = bench.declare("/", "orders");
    let node = Arc::clone(&bench.node);
    bench.runtime.block_on(node.delete_user("anonymous")).expect("deleted");
    assert!(bench.events(&vhost, guest).is_empty());
    bench.runtime.block_on(node.delete_user("guest")).expect("deleted");
    let told = bench.events(&vhost, guest);
    assert!(
        matches!(told[..], [Event::Closed(CloseReason::UserDeleted)]),
        "{told:?}"
    );
    // A client that logged in before cannot connect any more either.
    assert!(node.directory.enter(&"guest".into()).is_err());
    let refused = vhost.enter(|engine| engine.admit_link("guest"));
    let text = "access to vhost '/' refused for user 'guest'";
    assert_eq!(&*refused.expect_err("no rights").text, text);
    drop(node);
    bench.stop();
}

#[test]
fn what_was_granted_in_a_deleted_vhost_is_not_granted_in_the_next_of_its_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let bench = Bench::start(dir.path());
    let node = Arc::clone(&bench.node);
    bench.create("plant").expect("created");
    let admit = |vhost: &str| {
        let vhost = node.vhost(vhost).expect("a vhost");
        vhost.enter(|engine| engine.admit_link("guest").is_ok())
    };
    assert!(!admit("plant"), "the one who makes it grants it");
    bench
        .runtime
        .block_on(node.set_permission("guest", "plant", Permission::everything()))
        .expect("set");
    bench
        .runtime
        .block_on(node.set_vhost_limit("plant", "max-connections", 0))
        .expect("set");
    assert!(!admit("plant"), "its limit");
    bench
        .runtime
        .block_on(node.clear_vhost_limit("plant", "max-connections"))
        .expect("cleared");
    assert!(admit("plant"));
    bench.delete("plant").expect("deleted");
    assert_eq!(node.permissions().len(), 2, "those of the vhost / are left");
    bench.create("plant").expect("created");
    assert!(!admit("plant"));
    drop(node);
    bench.stop();
    let bench = Bench::start(dir.path());
    assert_eq!(bench.node.permissions().len(), 2);
    bench.stop();
}

#[test]
fn a_user_has_as_many_connections_as_its_limit_says() {
    let dir = tempfile::tempdir().expect("a directory");
    let bench = Bench::start(dir.path());
    let node = Arc::clone(&bench.node);
    let guest = "guest".into();
    let first = node.directory.enter(&guest).expect("no limit");
    bench
        .runtime
        .block_on(node.set_user_limit("guest", "max-connections", 1))
        .expect("set");
    let text = "Connection refused for user 'guest': user connection limit (1) is reached";
    assert_eq!(&*node.directory.enter(&guest).expect_err("a limit").text, text);
    assert_eq!(node.user("guest").expect("a user").connections, 1);
    // The count stays when the user is changed.
    bench
        .runtime
        .block_on(node.change_password("guest", secret("new")))
        .expect("changed");
    assert!(node.directory.enter(&guest).is_err());
    drop(first);
    assert!(node.directory.enter(&guest).is_ok());
    drop(node);
    bench.stop();
}

/// MD5 hashes can be imported from RabbitMQ, and are replaced.
#[test]
fn an_obsolete_hash_is_replaced_at_the_first_login() {
    let dir = tempfile::tempdir().expect("a directory");
    let bench = Bench::start(dir.path());
    let node = Arc::clone(&bench.node);
    let renewing = Arc::clone(&node);
    let obsolete = node.directory.obsolete().expect("once");
    let task = bench
        .runtime
        .spawn(async move { super::users::renew(&renewing, obsolete).await });
    let algorithm = || node.user("old").expect("a user").hashing_algorithm;
    bench.runtime.block_on(async {
        let md5 = Credential::Hash {
            scram: None,
            algorithm: "rabbit_password_hashing_md5".into(),
            hash: "kI3GCoeyNuatKbUF3hRPeQ6H5YU=".into(),
        };
        node.add_user("old", md5, Vec::new()).await.expect("imported");
        assert_eq!(
            node.log_in("old", b"wrong", false).await,
            Err(LoginFailure::BadCredentials)
        );
        assert_eq!(
            node.log_in("old", b"s3cret", false).await,
            Ok(("old".into(), Vec::new()))
        );
        while &*algorithm() != "argon2id" {
            tokio::task::yield_now().await;
        }
        assert_eq!(
            node.log_in("old", b"s3cret", false).await,
            Ok(("old".into(), Vec::new()))
        );
        let huge = Credential::Hash {
            scram: None,
            algorithm: String::new(),
            hash: "$argon2id$v=19$m=65536,t=1,p=1$AAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAA".into(),
        };
        assert!(matches!(
            node.add_user("huge", huge, Vec::new()).await,
            Err(DirectoryError::Hash(_))
        ));
    });
    task.abort();
    let _ = bench.runtime.block_on(task);
    drop(node);
    bench.stop();
}

fn hashing(threads: usize, queue_max: usize) -> Hashing {
    Hashing::new(Settings {
        threads,
        queue_max,
        remember: Duration::from_secs(3_600),
        cost: CHEAP,
        memory_kib_max: 64,
        iterations: None,
    })
}

const CHEAP: Cost = Cost {
    memory_kib: 64,
    passes: 1,
};

/// A check whose answer says whether the password was right.
fn check(password: &str, hash: &Arc<PasswordHash>, to: &Arc<dyn Answer>) -> super::hashing::Check {
    super::hashing::Check {
        user: "u".into(),
        password: password.as_bytes().into(),
        hash: Arc::clone(hash),
        to: Arc::downgrade(to),
        then: Box::new(|is_right| Event::authenticated(is_right.to_string().as_str())),
    }
}

#[test]
fn a_password_that_was_right_is_remembered_and_a_wrong_one_is_not() {
    let hashing = hashing(1, 10);
    let (sender, answers) = std::sync::mpsc::channel();
    let to: Arc<dyn Answer> = Arc::new(Waiting(sender));
    let hash = Arc::new(PasswordHash::make(b"s", CHEAP, &mut Workspace::default()));
    for password in ["wrong", "s", "s"] {
        assert!(hashing.check(check(password, &hash, &to)).is_ok());
    }
    let answer = || match answers.recv().expect("an answer") {
        Event::Authenticated { user, .. } => user.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!([answer(), answer(), answer()], ["false", "true", "true"]);
    // The third was not hashed.
    assert_eq!(hashing.figures().hashed.load(Ordering::Relaxed), 2);
    let user = "u".into();
    assert!(hashing.remembers(&user, b"s", &hash));
    assert!(!hashing.remembers(&user, b"wrong", &hash));
    assert!(!hashing.remembers(&"v".into(), b"s", &hash));
    // The user has a new password that happens to be the same.
    assert!(!hashing.remembers(&user, b"s", &Arc::new((*hash).clone())));
}

#[test]
fn the_memory_of_hashing_is_counted_while_a_thread_has_it() {
    let hashing = Arc::new(hashing(1, 10));
    assert_eq!(hashing.bytes(), 0);
    let (sender, answers) = std::sync::mpsc::channel();
    let to: Arc<dyn Answer> = Arc::new(Waiting(sender));
    let hash = Arc::new(PasswordHash::make(b"s", CHEAP, &mut Workspace::default()));
    // Asked on the thread itself, which has not ended yet.
    let asked = Arc::downgrade(&hashing);
    let then = move |_| {
        let bytes = asked.upgrade().map_or(0, |hashing| hashing.bytes());
        Event::authenticated(bytes.to_string().as_str())
    };
    let job = super::hashing::Check {
        then: Box::new(then),
        ..check("s", &hash, &to)
    };
    assert!(hashing.check(job).is_ok());
    match answers.recv().expect("an answer") {
        Event::Authenticated { user, .. } => assert_eq!(*user, *(64 << 10).to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn too_many_logins_at_once_are_refused_and_those_whose_connection_is_gone_are_not_hashed() {
    let hashing = hashing(1, 2);
    let (sender, answers) = std::sync::mpsc::channel();
    let to: Arc<dyn Answer> = Arc::new(Waiting(sender));
    let gone: Arc<dyn Answer> = Arc::new(Waiting(std::sync::mpsc::channel().0));
    let hash = Arc::new(PasswordHash::decoy(CHEAP));
    hashing.pause(true);
    assert!(hashing.check(check("a", &hash, &gone)).is_ok());
    assert!(hashing.check(check("b", &hash, &to)).is_ok());
    assert!(hashing.check(check("c", &hash, &to)).is_err());
    drop(gone);
    hashing.pause(false);
    answers.recv().expect("an answer to the second");
    let figures = hashing.figures();
    let count = |of: &std::sync::atomic::AtomicU64| of.load(Ordering::Relaxed);
    assert_eq!(
        (count(&figures.abandoned), count(&figures.hashed), count(&figures.busy)),
        (1, 1, 1)
    );
}

/// The bug: the second thread was started only when two jobs waited, so one login waited behind a slow one.
#[test]
fn a_login_does_not_wait_behind_a_slow_one_while_a_thread_may_be_started() {
    let hashing = hashing(2, 10);
    let to: Arc<dyn Answer> = Arc::new(Waiting(std::sync::mpsc::channel().0));
    let (second_ran, first_waits) = std::sync::mpsc::channel();
    let (begun, begins) = std::sync::mpsc::channel();
    let (ended, ends) = std::sync::mpsc::channel();
    let first = Box::new(move || {
        begun.send(()).expect("somebody waits");
        // This takes so long only if the second job waits for this one.
        let waited = first_waits.recv_timeout(Duration::from_secs(60));
        ended.send(waited.is_ok()).expect("somebody waits");
        None
    });
    hashing.work(0, Arc::downgrade(&to), first).expect("queued");
    begins.recv().expect("the first is at work");
    let second = Box::new(move || {
        second_ran.send(()).expect("the first waits");
        None
    });
    hashing.work(0, Arc::downgrade(&to), second).expect("queued");
    assert_eq!(ends.recv(), Ok(true));
}

/// The bug: an operator's new password waited for ever, and logins until their connections timed out.
#[test]
fn who_needs_a_thread_is_told_at_once_that_there_is_none() {
    let hashing = hashing(1, 10);
    let (sender, answers) = std::sync::mpsc::channel();
    let to: Arc<dyn Answer> = Arc::new(Waiting(sender));
    let hash = Arc::new(PasswordHash::decoy(CHEAP));
    hashing.starve(true);
    assert!(hashing.check(check("a", &hash, &to)).is_err());
    assert!(hashing.work(1, Arc::downgrade(&to), Box::new(|| None)).is_err());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    assert!(runtime.block_on(hashing.make(b"new")).is_err());
    let figures = hashing.figures();
    assert_eq!(
        (
            figures.busy.load(Ordering::Relaxed),
            figures.waiting.load(Ordering::Relaxed)
        ),
        (2, 0)
    );
    hashing.starve(false);
    assert!(hashing.check(check("b", &hash, &to)).is_ok());
    answers.recv().expect("an answer");
}

/// The bug: any change of a user, its tags for example, logged it out of the console.
#[test]
fn a_login_stays_valid_until_the_password_changes() {
    let dir = tempfile::tempdir().expect("a directory");
    let bench = Bench::start(dir.path());
    let node = Arc::clone(&bench.node);
    bench.runtime.block_on(async {
        node.add_user("ann", secret("one"), Vec::new()).await.expect("created");
        let standing = node.standing(&"ann".into());
        node.set_user_tags("ann", vec!["monitoring".into()])
            .await
            .expect("tagged");
        assert_eq!(node.still(&standing), Some(("ann".into(), vec!["monitoring".into()])));
        node.change_password("ann", secret("two")).await.expect("changed");
        assert_eq!(node.still(&standing), None);
    });
    drop(node);
    bench.stop();
}

/// The bug: tokens can bring any number of users, who were kept without a bound until they expired.
#[test]
fn users_of_tokens_are_bounded_in_memory() {
    let mut people = People {
        outside_bytes_max: 1_000,
        ..People::default()
    };
    let added = |bytes, until| TemporaryUser {
        grant: Grant::default(),
        quota: Arc::default(),
        until,
        by: Backend::Jwt,
        bytes,
    };
    people.add_temporary("a".into(), added(600, 10)).expect("room");
    assert!(people.add_temporary("b".into(), added(600, 10)).is_err());
    // A newer token replaces the one before, and open connections stay counted.
    let seat = people.quota("a").expect("a user").connect().expect("no limit");
    people.add_temporary("a".into(), added(1_000, 20)).expect("room");
    assert_eq!(people.quota("a").expect("a user").connections(), 1);
    assert!(people.add_temporary("a".into(), added(1_001, 30)).is_err());
    assert_eq!(people.tags("a"), Some(Vec::new()));
    assert_eq!(people.tags("b"), None);
    assert!(
        people.remove_expired(19).is_empty(),
        "the earlier token is not the one that counts"
    );
    assert_eq!(people.remove_expired(20), ["a".into()]);
    people.add_temporary("b".into(), added(1_000, 30)).expect("room again");
    drop(seat);
}
