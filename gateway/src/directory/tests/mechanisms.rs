//! Logins in rounds: who has a verifier, what challenge each client gets, and who is accepted.

use super::{Waiting, secret};
use crate::config::Config;
use crate::directory::hashing::Answer;
use crate::directory::mechanisms::Round;
use crate::directory::scram::Exchange;
use crate::directory::scram::tests::respond;
use crate::directory::users::Credential;
use crate::node::Node;
use crate::vhosts::tests::Bench;
use gatepost_core::event::{Event, LoginFailure};
use std::path::Path;
use std::sync::Arc;

fn config(data: &Path) -> Config {
    let mut config = Config::default();
    config.node.data_dir = data.to_owned();
    config.mqtt.auth_methods = vec!["SCRAM-SHA-256".to_owned()];
    config
}

fn begin(node: &Node, mechanism: &str, data: &str) -> Round {
    let (sender, _) = std::sync::mpsc::channel();
    let to: Arc<dyn Answer> = Arc::new(Waiting(sender));
    node.directory
        .begin_rounds(&mechanism.into(), data.as_bytes().into(), &to)
}

/// The challenge for `user`, and the exchange that continues.
fn asked(node: &Node, user: &str) -> (Box<Exchange>, String) {
    match begin(node, "SCRAM-SHA-256", &format!("n,,n={user},r=client")) {
        Round::Ask(exchange, question) => (exchange, question),
        Round::Over(answer) => panic!("{answer:?}"),
        Round::Later => panic!("SCRAM is answered at once"),
    }
}

fn said(event: Event) -> Result<String, LoginFailure> {
    match event {
        Event::Authenticated { user, data, .. } => {
            assert!(data.starts_with(b"v="), "the gateway proves itself");
            Ok(user.to_string())
        }
        Event::LoginRefused(refused) => Err(refused.why),
        other => panic!("{other:?}"),
    }
}

fn log_in(node: &Node, user: &str, password: &str, is_local: bool) -> Result<String, LoginFailure> {
    let (exchange, question) = asked(node, user);
    let last = respond(password, &format!("n={user},r=client"), &question);
    said(node.directory.proceed(&exchange, last.as_bytes(), is_local))
}

/// Salt and iterations of a challenge.
fn salt(question: &str) -> &str {
    question.split_once(",s=").expect("a salt").1
}

#[test]
fn a_password_logs_in_without_being_sent_over_a_restart_too() {
    let dir = tempfile::tempdir().expect("a directory");
    for start in 0..2 {
        let bench = Bench::start_with(config(dir.path()));
        let node = Arc::clone(&bench.node);
        if start == 0 {
            let add = node.add_user("ann", secret("pencil"), Vec::new());
            bench.runtime.block_on(add).expect("made");
            bench
                .runtime
                .block_on(node.set_user_tags("ann", vec!["monitoring".into()]))
                .expect("changed");
        }
        assert_eq!(log_in(&node, "ann", "pencil", false), Ok("ann".to_owned()));
        assert_eq!(log_in(&node, "ann", "Pencil", false), Err(LoginFailure::BadCredentials));
        // The default user has a verifier from the first start on, and only this machine may use it.
        assert_eq!(log_in(&node, "guest", "guest", true), Ok("guest".to_owned()));
        assert_eq!(log_in(&node, "guest", "guest", false), Err(LoginFailure::LoopbackOnly));
        assert_eq!(
            log_in(&node, "guest", "wrong", false),
            Err(LoginFailure::BadCredentials)
        );
        drop(node);
        bench.stop();
    }
}

/// The bug: an import of the hash alone, as from an older file, removed the verifier of the same password.
#[test]
fn a_hash_that_is_imported_again_without_its_verifier_keeps_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let bench = Bench::start_with(config(dir.path()));
    let node = &bench.node;
    let made = bench
        .runtime
        .block_on(node.add_user("ann", secret("pencil"), Vec::new()));
    made.expect("made");
    let import = |hash: &str| {
        let hash = Credential::Hash {
            scram: None,
            algorithm: String::new(),
            hash: hash.to_owned(),
        };
        let put = bench.runtime.block_on(node.put_user("ann", hash, Vec::new()));
        put.expect("imported");
    };
    let hash = node.user("ann").expect("the user").password_hash;
    import(std::str::from_utf8(&hash).expect("argon2id is text"));
    assert!(log_in(node, "ann", "pencil", true).is_ok());
    // Another hash belongs to another password.
    import("kI3GCkwidbNLQtNlauSvDxHDzz3IO+MCqP9YQ8IPMmUonl9G");
    assert_eq!(log_in(node, "ann", "pencil", true), Err(LoginFailure::BadCredentials));
    let cleared = bench.runtime.block_on(node.change_password("ann", Credential::Nothing));
    cleared.expect("cleared");
    assert!(node.user("ann").expect("the user").scram.is_none());
    bench.stop();
}

#[test]
fn who_is_not_there_or_has_no_verifier_looks_like_a_wrong_password() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut before = Vec::new();
    for start in 0..2 {
        let bench = Bench::start_with(config(dir.path()));
        let node = Arc::clone(&bench.node);
        if start == 0 {
            let imported = Credential::Hash {
                scram: None,
                algorithm: String::new(),
                hash: "kI3GCkwidbNLQtNlauSvDxHDzz3IO+MCqP9YQ8IPMmUonl9G".into(),
            };
            let users = [
                ("imported", imported),
                ("bare", Credential::Nothing),
                ("ann", secret("pencil")),
            ];
            for (user, credential) in users {
                bench
                    .runtime
                    .block_on(node.add_user(user, credential, Vec::new()))
                    .expect("made");
            }
        }
        for user in ["imported", "bare", "nobody"] {
            assert_eq!(
                log_in(&node, user, "s3cret", true),
                Err(LoginFailure::BadCredentials),
                "{user}"
            );
        }
        // Asking twice, also over a restart, gives the same answer for everybody.
        let questions = ["imported", "bare", "nobody", "ann"].map(|user| asked(&node, user).1);
        let salts: Vec<String> = questions.iter().map(|question| salt(question).to_owned()).collect();
        assert!(
            salts
                .iter()
                .all(|salt| salt.ends_with(",i=4096") && salt.len() == salts[3].len())
        );
        let again = asked(&node, "nobody").1;
        assert_eq!(salt(&again), salts[2]);
        assert_ne!(again, questions[2], "the nonce is new");
        if start == 1 {
            assert_eq!(salts, before);
        }
        before = salts;
        drop(node);
        bench.stop();
    }
}

#[test]
fn a_user_without_a_verifier_gets_one_at_the_next_login_with_the_password() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut without = config(dir.path());
    without.mqtt.auth_methods.clear();
    let bench = Bench::start_with(without);
    let node = Arc::clone(&bench.node);
    bench
        .runtime
        .block_on(node.add_user("ann", secret("pencil"), Vec::new()))
        .expect("made");
    assert!(matches!(
        begin(&node, "SCRAM-SHA-256", "n,,n=ann,r=client"),
        Round::Over(Event::LoginRefused(refused)) if refused.why == LoginFailure::UnknownMechanism
    ));
    drop(node);
    bench.stop();
    let bench = Bench::start_with(config(dir.path()));
    let node = Arc::clone(&bench.node);
    let obsolete = node.directory.obsolete().expect("once");
    let renewing = Arc::clone(&node);
    let task = bench
        .runtime
        .spawn(async move { crate::directory::users::renew(&renewing, obsolete).await });
    assert_eq!(log_in(&node, "ann", "pencil", false), Err(LoginFailure::BadCredentials));
    bench.runtime.block_on(async {
        assert!(node.log_in("ann", b"wrong", false).await.is_err());
        assert!(node.log_in("ann", b"pencil", false).await.is_ok());
        while log_in(&node, "ann", "pencil", false).is_err() {
            tokio::task::yield_now().await;
        }
    });
    task.abort();
    let _ = bench.runtime.block_on(task);
    drop(node);
    bench.stop();
}

#[test]
fn a_password_that_changes_between_the_rounds_lets_nobody_in() {
    let dir = tempfile::tempdir().expect("a directory");
    let bench = Bench::start_with(config(dir.path()));
    let node = Arc::clone(&bench.node);
    let runtime = &bench.runtime;
    for user in ["ann", "bob"] {
        runtime
            .block_on(node.add_user(user, secret("pencil"), Vec::new()))
            .expect("made");
    }
    let questions = ["ann", "bob"].map(|user| (user, asked(&node, user)));
    runtime
        .block_on(node.change_password("ann", secret("other")))
        .expect("changed");
    runtime.block_on(node.delete_user("bob")).expect("deleted");
    for (user, (exchange, question)) in questions {
        let last = respond("pencil", &format!("n={user},r=client"), &question);
        let answer = said(node.directory.proceed(&exchange, last.as_bytes(), true));
        assert_eq!(answer, Err(LoginFailure::BadCredentials), "{user}");
    }
    assert_eq!(log_in(&node, "ann", "other", false), Ok("ann".to_owned()));
    drop(node);
    bench.stop();
}

#[test]
fn what_is_not_spoken_is_refused_as_that() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = config(dir.path());
    // A token, with no back end that accepts tokens.
    config.mqtt.auth_methods.push("OAUTH2-JWT".to_owned());
    let bench = Bench::start_with(config);
    for mechanism in [
        "",
        "SCRAM-SHA-1",
        "scram-sha-256",
        "SCRAM-SHA-256-PLUS",
        "OAUTH2-JWT",
        "PLAIN",
    ] {
        let answer = begin(&bench.node, mechanism, "n,,n=guest,r=client");
        let Round::Over(answer) = answer else {
            panic!("{mechanism}")
        };
        assert_eq!(said(answer), Err(LoginFailure::UnknownMechanism), "{mechanism}");
    }
    for first in ["", "n,,n=guest", "p=tls-unique,,n=guest,r=client"] {
        let Round::Over(answer) = begin(&bench.node, "SCRAM-SHA-256", first) else {
            panic!("{first}")
        };
        assert_eq!(said(answer), Err(LoginFailure::BadCredentials), "{first}");
    }
    bench.stop();
}
