//! What users may and may not do, through real clients of each protocol, with Mosquitto's files as they are.

use crate::support::{Gatepost, python};
use std::fs;

/// `s3cret`, as `mosquitto_passwd -H sha512-pbkdf2` hashed it.
const HASH: &str =
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
    assert!(log.contains("refused another user's session"), "it is logged");
    assert!(!log.contains("s3cret"), "no secret is");
}
