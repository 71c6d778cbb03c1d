//! Requests to the back end `http`, and how its answers are read. The requests are those of RabbitMQ's
//! rabbitmq_auth_backend_http (3.10), field by field. With `style = "emqx"`, requests and answers are JSON objects with
//! EMQX's field names.
//!
//! | about | fields |
//! |---|---|
//! | a user | `username`, `password` (not with a certificate); of MQTT and STOMP `vhost`; of MQTT `client_id` |
//! | a vhost | `username`, `vhost`, `ip`, `tags`; of MQTT `client_id` |
//! | a queue or an exchange | `username`, `vhost`, `resource`, `name`, `permission`, `tags`; of MQTT `client_id` |
//! | a topic | the same with `resource=topic` and the exchange's name, `routing_key`, `variable_map.*` |

use crate::config::HttpStyle;
use gatepost_core::access::{Asked, Permission, Subject};
use gatepost_core::command::Said;
use gatepost_core::message::Dialect;
use gatepost_core::properties::Name;
use gatepost_core::topic::translate;
use serde_json::{Map, Value};
use std::fmt::Write as _;
use std::net::IpAddr;

/// The subject of a request. Each has its own URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum About {
    User,
    Vhost,
    Resource,
    Topic,
}

impl About {
    /// The configuration key of its URL.
    pub(crate) fn key(self) -> &'static str {
        match self {
            About::User => "user_url",
            About::Vhost => "vhost_url",
            About::Resource => "resource_url",
            About::Topic => "topic_url",
        }
    }
}

/// A request, before it is encoded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ask {
    pub(super) about: About,
    fields: Vec<(&'static str, String)>,
}

/// The user and connection that a request is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who<'a> {
    pub(super) user: &'a str,
    pub(super) vhost: &'a str,
    pub(super) tags: &'a [Name],
    pub(super) client_id: Option<&'a str>,
}

impl Ask {
    /// Asks whether the password is the user's; without one, whether the user exists.
    pub(super) fn user(user: &str, password: Option<&str>, said: &Said) -> Ask {
        let mut fields = vec![("username", user.to_owned())];
        fields.extend(password.map(|password| ("password", password.to_owned())));
        fields.extend(said.vhost.as_ref().map(|vhost| ("vhost", vhost.to_string())));
        fields.extend(said.client_id.as_ref().map(|id| ("client_id", id.to_string())));
        Ask {
            about: About::User,
            fields,
        }
    }

    /// Asks whether the user may use the vhost.
    pub(super) fn vhost(who: Who<'_>, ip: Option<IpAddr>) -> Ask {
        let ip = ip.map_or_else(|| "unknown".to_owned(), |ip| ip.to_canonical().to_string());
        let mut fields = vec![
            ("username", who.user.to_owned()),
            ("vhost", who.vhost.to_owned()),
            ("ip", ip),
            ("tags", who.tags.join(" ")),
        ];
        fields.extend(who.client_id.map(|id| ("client_id", id.to_owned())));
        Ask {
            about: About::Vhost,
            fields,
        }
    }

    /// An engine's question about a right.
    pub(super) fn question(who: Who<'_>, asked: &Asked) -> Ask {
        let question = &asked.question;
        let resource = match question.subject {
            Subject::Exchange => "exchange",
            Subject::Queue => "queue",
            Subject::Topic => "topic",
        };
        let mut fields = vec![
            ("username", who.user.to_owned()),
            ("vhost", who.vhost.to_owned()),
            ("resource", resource.to_owned()),
            ("name", question.name.to_string()),
            ("permission", question.permission.to_string()),
            ("tags", who.tags.join(" ")),
        ];
        let client_id = who.client_id.map(str::to_owned);
        let Some(key) = &question.key else {
            fields.extend(client_id.map(|id| ("client_id", id)));
            return Ask {
                about: About::Resource,
                fields,
            };
        };
        fields.push(("routing_key", key.to_string()));
        fields.extend(client_id.map(|id| ("variable_map.client_id", id)));
        fields.push(("variable_map.username", who.user.to_owned()));
        fields.push(("variable_map.vhost", who.vhost.to_owned()));
        let is_read = question.permission == Permission::Read;
        fields.push(("topic", in_slashes(key, is_read)));
        fields.push(("action", if is_read { "subscribe" } else { "publish" }.to_owned()));
        Ask {
            about: About::Topic,
            fields,
        }
    }

    /// Estimated memory.
    pub(super) fn bytes(&self) -> usize {
        let of = |(_, value): &(&str, String)| value.len() + size_of::<(&str, String)>();
        self.fields.iter().map(of).sum()
    }

    /// Content type and body.
    pub(super) fn body(&self, style: HttpStyle) -> (&'static str, String) {
        match style {
            HttpStyle::RabbitMq => {
                let mut text = String::new();
                for (name, value) in self.fields.iter().filter(|(name, _)| !OF_EMQX.contains(name)) {
                    if !text.is_empty() {
                        text.push('&');
                    }
                    let _ = write!(text, "{name}=");
                    quote(value, &mut text);
                }
                ("application/x-www-form-urlencoded", text)
            }
            HttpStyle::Emqx => {
                let mut object = Map::new();
                for (name, value) in &self.fields {
                    let name = match *name {
                        "client_id" | "variable_map.client_id" => "clientid",
                        name if name.starts_with("variable_map.") => continue,
                        name => name,
                    };
                    object.insert(name.to_owned(), value.clone().into());
                }
                ("application/json", Value::Object(object).to_string())
            }
        }
    }
}

/// Fields that are sent to EMQX's servers only.
const OF_EMQX: [&str; 2] = ["topic", "action"];

/// Translates a routing key to an MQTT topic, or a binding key to a filter.
fn in_slashes(key: &str, is_filter: bool) -> String {
    let level = |level: &str| match level {
        "*" if is_filter => "+".to_owned(),
        "#" if is_filter => "#".to_owned(),
        // An empty level is valid inside a topic, but `translate` would refuse it as an empty topic.
        "" => String::new(),
        level => translate(level, Dialect::Dot, Dialect::Slash)
            .unwrap_or_default()
            .into_owned(),
    };
    key.split('.').map(level).collect::<Vec<_>>().join("/")
}

fn quote(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'~' | b'_' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Allow {
        tags: Vec<Name>,
        /// The user may do everything; the server is not asked about its rights.
        superuser: bool,
    },
    /// With the server's reason, for the log.
    Deny(Option<String>),
}

/// Maximum tags of one user.
const TAGS_MAX: usize = 16;
/// Maximum bytes of a tag, and maximum characters of a reason in the log.
const TEXT_MAX: usize = 255;

impl Verdict {
    /// Reads an answer. `None`: it is not valid.
    pub(super) fn parse(style: HttpStyle, body: &[u8]) -> Option<Verdict> {
        match style {
            HttpStyle::RabbitMq => Verdict::of_text(std::str::from_utf8(body).ok()?.trim()),
            HttpStyle::Emqx => Verdict::of_json(body),
        }
    }

    fn of_text(text: &str) -> Option<Verdict> {
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        if word.eq_ignore_ascii_case("deny") {
            return Some(Verdict::Deny(reason(rest)));
        }
        if !word.eq_ignore_ascii_case("allow") {
            return None;
        }
        let tags = rest.split_ascii_whitespace().filter(|tag| tag.len() <= TEXT_MAX);
        Some(Verdict::Allow {
            tags: tags.take(TAGS_MAX).map(Name::from).collect(),
            superuser: false,
        })
    }

    fn of_json(body: &[u8]) -> Option<Verdict> {
        if body.is_empty() {
            // Status 204: EMQX takes it as "allow".
            return Some(Verdict::allow());
        }
        let object: Value = serde_json::from_slice(body).ok()?;
        match object["result"].as_str()? {
            "allow" => {
                let superuser = object["is_superuser"].as_bool().unwrap_or(false);
                let tags = if superuser {
                    vec!["administrator".into()]
                } else {
                    Vec::new()
                };
                Some(Verdict::Allow { tags, superuser })
            }
            "deny" | "ignore" => Some(Verdict::Deny(None)),
            _ => None,
        }
    }

    /// Allowed, with nothing more.
    pub(super) fn allow() -> Verdict {
        Verdict::Allow {
            tags: Vec::new(),
            superuser: false,
        }
    }
}

/// A reason for a log line: without control characters, and not too long.
fn reason(text: &str) -> Option<String> {
    let clean: String = text.trim().chars().filter(|c| !c.is_control()).take(TEXT_MAX).collect();
    (!clean.is_empty()).then_some(clean)
}

/// The body of a fuzz target: answers of both styles.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_auth_answer(body: &[u8]) {
    for style in [HttpStyle::RabbitMq, HttpStyle::Emqx] {
        if let Some(Verdict::Allow { tags, .. }) = Verdict::parse(style, body) {
            assert!(tags.len() <= TAGS_MAX && tags.iter().all(|tag| tag.len() <= TEXT_MAX));
        }
    }
    if let Ok(text) = std::str::from_utf8(body) {
        let (_, form) = Ask::user(text, Some(text), &Said::default()).body(HttpStyle::RabbitMq);
        assert!(form.bytes().all(|byte| byte.is_ascii_graphic()) && form.matches('&').count() == 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepost_core::access::Question;

    const ANNA: Who<'_> = Who {
        user: "anna",
        vhost: "/",
        tags: &[],
        client_id: None,
    };

    fn form(ask: &Ask) -> String {
        ask.body(HttpStyle::RabbitMq).1
    }

    fn asked(permission: Permission, subject: Subject, name: &str, key: Option<&str>) -> Asked {
        Asked {
            user: "anna".into(),
            question: Question {
                permission,
                subject,
                name: name.into(),
                key: key.map(Name::from),
            },
            client_id: None,
        }
    }

    /// Recorded from RabbitMQ 3.10.8 and its plugin.
    #[test]
    fn requests_are_those_of_rabbitmq() {
        let tags = ["administrator".into()];
        let anna = Who { tags: &tags, ..ANNA };
        let mina = Who {
            user: "mina",
            client_id: Some("dev1"),
            ..anna
        };
        let said = Said {
            vhost: Some("/".into()),
            client_id: Some("dev1".into()),
        };
        let question =
            |who, permission, subject, name, key| form(&Ask::question(who, &asked(permission, subject, name, key)));
        let (write, read) = (Permission::Write, Permission::Read);
        for (ours, theirs) in [
            (
                form(&Ask::user("anna", Some("p&w d"), &Said::default())),
                "username=anna&password=p%26w+d",
            ),
            (
                form(&Ask::user("mina", Some("pw"), &said)),
                "username=mina&password=pw&vhost=%2F&client_id=dev1",
            ),
            (
                form(&Ask::vhost(anna, "127.0.0.1".parse().ok())),
                "username=anna&vhost=%2F&ip=127.0.0.1&tags=administrator",
            ),
            (
                form(&Ask::vhost(mina, "::ffff:127.0.0.1".parse().ok())),
                "username=mina&vhost=%2F&ip=127.0.0.1&tags=administrator&client_id=dev1",
            ),
            (
                question(anna, Permission::Configure, Subject::Queue, "q1", None),
                "username=anna&vhost=%2F&resource=queue&name=q1&permission=configure&tags=administrator",
            ),
            (
                question(mina, write, Subject::Exchange, "amq.topic", None),
                "username=mina&vhost=%2F&resource=exchange&name=amq.topic&permission=write&tags=administrator&client_id=dev1",
            ),
            (
                question(anna, write, Subject::Topic, "x1", Some("a.b")),
                "username=anna&vhost=%2F&resource=topic&name=x1&permission=write&tags=administrator&routing_key=a.b&\
                 variable_map.username=anna&variable_map.vhost=%2F",
            ),
            (
                question(mina, read, Subject::Topic, "amq.topic", Some("t.*")),
                "username=mina&vhost=%2F&resource=topic&name=amq.topic&permission=read&tags=administrator&routing_key=t.%2A&\
                 variable_map.client_id=dev1&variable_map.username=mina&variable_map.vhost=%2F",
            ),
        ] {
            assert_eq!(ours, theirs);
        }
    }

    #[test]
    fn emqx_is_asked_in_json_and_in_topics() {
        let mina = Who {
            client_id: Some("dev1"),
            ..ANNA
        };
        let ask = Ask::question(
            mina,
            &asked(Permission::Read, Subject::Topic, "amq.topic", Some("a..%2E.*.#")),
        );
        let (kind, body) = ask.body(HttpStyle::Emqx);
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(kind, "application/json");
        let field = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        assert_eq!((field("username"), field("clientid")), ("anna".into(), "dev1".into()));
        assert_eq!(
            (field("topic"), field("action")),
            ("a//./+/#".into(), "subscribe".into())
        );
        let (_, body) = Ask::user("a\"b", Some("p\nw"), &Said::default()).body(HttpStyle::Emqx);
        assert_eq!(body, "{\"password\":\"p\\nw\",\"username\":\"a\\\"b\"}");
    }

    #[test]
    fn answers_are_read_as_rabbitmq_reads_them_and_nothing_else_is_one() {
        let allow = |tags: &[&str]| {
            Some(Verdict::Allow {
                tags: tags.iter().map(|tag| Name::from(*tag)).collect(),
                superuser: false,
            })
        };
        let deny = |reason: Option<&str>| Some(Verdict::Deny(reason.map(str::to_owned)));
        for (body, expected) in [
            ("allow", allow(&[])),
            (" ALLOW\r\n", allow(&[])),
            (
                "allow administrator  monitoring",
                allow(&["administrator", "monitoring"]),
            ),
            ("deny", deny(None)),
            ("Deny not today\x07", deny(Some("not today"))),
            ("", None),
            ("allowed", None),
            ("allow:administrator", None),
            ("yes", None),
            ("<html>allow</html>", None),
            ("{\"result\":\"allow\"}", None),
        ] {
            assert_eq!(Verdict::parse(HttpStyle::RabbitMq, body.as_bytes()), expected, "{body}");
        }
        assert_eq!(Verdict::parse(HttpStyle::RabbitMq, b"allow \xff"), None);
        let superuser = Some(Verdict::Allow {
            tags: vec!["administrator".into()],
            superuser: true,
        });
        for (body, expected) in [
            ("{\"result\":\"allow\"}", allow(&[])),
            ("{\"result\":\"allow\",\"is_superuser\":true}", superuser),
            ("", allow(&[])),
            ("{\"result\":\"deny\"}", deny(None)),
            ("{\"result\":\"ignore\",\"is_superuser\":true}", deny(None)),
            ("{\"result\":\"perhaps\"}", None),
            ("{\"result\":1}", None),
            ("{}", None),
            ("[]", None),
            ("allow", None),
        ] {
            assert_eq!(Verdict::parse(HttpStyle::Emqx, body.as_bytes()), expected, "{body}");
        }
        let many = format!("allow {}", "tag ".repeat(1_000));
        assert_eq!(
            Verdict::parse(HttpStyle::RabbitMq, many.as_bytes()),
            allow(&["tag"; TAGS_MAX])
        );
    }

    #[test]
    fn the_corpus_of_answers_breaks_nothing() {
        gatepost_core::testing::corpus::replay_mutants("auth_answer", fuzz_auth_answer);
    }

    #[test]
    fn no_answer_and_no_name_breaks_the_parsers() {
        const OCTETS: &[u8] = b"allowdeny {}\":\xffresult&=%\n";
        let mut seed = 1_u64;
        for _ in 0..10_000 {
            let mut body = Vec::new();
            for _ in 0..seed % 40 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                body.push(OCTETS[(seed >> 33) as usize % OCTETS.len()]);
            }
            seed = seed.wrapping_add(0x9E37_79B9);
            fuzz_auth_answer(&body);
        }
    }
}
