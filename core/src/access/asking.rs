//! Rights that an external server knows: the questions for it, and a link's cache of the answers.
//!
//! ```text
//!   command ─► check ─► cached? ──yes──► decided
//!      ▲                  └──no──► question ─► the command stays its link's first ─► pump ─► external server
//!      └───────────────────── tried again ◄── wake ◄── answer, with its time of expiry ◄─────┘
//! ```
//!
//! A link asks one question at a time, for its first command. The link's other commands wait behind it, so their order is kept.
//! Other links do not wait. Answers are cached per link, because they may depend on its client id. The cache is bounded
//! in bytes and drops the oldest answers first. A question that cannot be asked is answered with no.

use super::Permission;
use crate::ledger::{Charge, hashed, text};
use crate::properties::Name;
use crate::time::Time;
use hashbrown::{Equivalent, HashMap};

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// An exchange of that name.
    Exchange,
    /// A queue of that name.
    Queue,
    /// A topic of the exchange of that name.
    Topic,
}

/// A right that the engine has to ask about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// The permission.
    pub permission: Permission,
    /// The kind of object.
    pub subject: Subject,
    /// The object's name; the default exchange is named `amq.default`.
    pub name: Name,
    /// For a topic: the routing key, or the binding key, in the dot dialect.
    pub key: Option<Name>,
}

/// A question with the user and client id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The user whose right it is.
    pub user: Name,
    /// The question.
    pub question: Question,
    /// The client id, where its protocol's clients have one.
    pub client_id: Option<Name>,
}

/// A borrowed [`Question`], for look-ups without an allocation. Hashes to the same value.
#[derive(Clone, Copy, Debug, Hash)]
pub(crate) struct Sought<'a> {
    pub(crate) permission: Permission,
    pub(crate) subject: Subject,
    pub(crate) name: &'a str,
    pub(crate) key: Option<&'a str>,
}

impl Equivalent<Question> for Sought<'_> {
    fn equivalent(&self, question: &Question) -> bool {
        (self.permission, self.subject) == (question.permission, question.subject)
            && *self.name == *question.name
            && self.key == question.key.as_deref()
    }
}

impl Sought<'_> {
    fn to_question(self) -> Question {
        Question {
            permission: self.permission,
            subject: self.subject,
            name: self.name.into(),
            key: self.key.map(Name::from),
        }
    }
}

/// The cached answer to a [`Sought`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Permitted,
    Refused,
    /// There is none; the command must wait for it.
    Unknown,
}

#[cfg(any(test, feature = "testing"))]
impl super::Rights {
    /// Answers a question from these rights, for the simulated world.
    pub(crate) fn permits(&self, asked: &Asked, user: &str, vhost: &str) -> bool {
        use crate::message::Dialect;
        use crate::topic::Pattern;
        let who = super::Who {
            user,
            client_id: asked.client_id.as_deref(),
            vhost,
        };
        let Question {
            permission,
            subject,
            name,
            key,
        } = &asked.question;
        match (subject, key, permission) {
            (Subject::Topic, Some(key), Permission::Read) => Pattern::parse(key, Dialect::Dot)
                .is_ok_and(|pattern| self.permit_filter(*permission, name, &pattern, who)),
            (Subject::Topic, Some(key), _) => {
                self.permit_topic(*permission, name.as_bytes(), (key.as_bytes(), Dialect::Dot), who)
            }
            _ => self.permit(*permission, name),
        }
    }
}

/// A link's question and answers.
pub(crate) struct Asking {
    answers: Answers,
    /// The question that the link's first command waits for.
    pending: Option<Pending>,
    /// Number of questions asked for the first command so far.
    asked: usize,
    /// The generated name of the queue that the first command declares, kept because the command is tried again.
    pub(crate) made_up: Option<Name>,
}

struct Pending {
    question: Question,
    /// The question was handed out.
    taken: bool,
}

/// The most new questions of one command; further ones are refused. A message may name thousands of topics.
const QUESTIONS_MAX: usize = 100;
/// The most bytes of a question's texts. Longer questions are refused.
const QUESTION_BYTES_MAX: usize = 4 << 10;

impl Asking {
    pub(crate) fn new(charge: Charge) -> Asking {
        Asking {
            answers: Answers {
                young: HashMap::new(),
                old: HashMap::new(),
                young_bytes: 0,
                old_bytes: 0,
                charge,
            },
            pending: None,
            asked: 0,
            made_up: None,
        }
    }

    pub(crate) fn verdict(&mut self, sought: Sought<'_>, now: Time) -> Verdict {
        match self.answers.get(sought, now) {
            Some(true) => return Verdict::Permitted,
            Some(false) => return Verdict::Refused,
            None => {}
        }
        if self
            .pending
            .as_ref()
            .is_some_and(|pending| sought.equivalent(&pending.question))
        {
            return Verdict::Unknown;
        }
        let bytes = sought.name.len() + sought.key.map_or(0, str::len);
        if self.asked >= QUESTIONS_MAX || bytes > QUESTION_BYTES_MAX {
            return Verdict::Refused;
        }
        self.asked += 1;
        self.pending = Some(Pending {
            question: sought.to_question(),
            taken: false,
        });
        Verdict::Unknown
    }

    /// Whether the first command waits for an answer.
    pub(crate) fn is_pending(&self) -> bool {
        self.pending.is_some()
    }

    /// Hands out the question, once.
    pub(crate) fn take_question(&mut self) -> Option<Question> {
        let pending = self.pending.as_mut().filter(|pending| !pending.taken)?;
        pending.taken = true;
        Some(pending.question.clone())
    }

    /// Stores an answer. Returns whether the first command waits for it.
    pub(crate) fn answer(&mut self, question: Question, is_permitted: bool, until: Time) -> bool {
        let is_pending = self
            .pending
            .as_ref()
            .is_some_and(|pending| pending.question == question);
        if is_pending {
            self.pending = None;
        }
        self.answers.insert(question, Answer { is_permitted, until });
        is_pending
    }

    /// Notes that the first command was applied, or is gone.
    pub(crate) fn go_on(&mut self) {
        self.pending = None;
        self.asked = 0;
        self.made_up = None;
    }
}

#[derive(Clone, Copy)]
struct Answer {
    is_permitted: bool,
    /// When the answer expires.
    until: Time,
}

/// Cached answers in two generations: when the young one is full it becomes the old one, and the old one is dropped with the
/// answers that were not used meanwhile.
struct Answers {
    young: HashMap<Question, Answer>,
    old: HashMap<Question, Answer>,
    young_bytes: usize,
    old_bytes: usize,
    charge: Charge,
}

/// The most bytes of one generation.
const GENERATION_BYTES_MAX: usize = 16 << 10;

impl Answers {
    fn get(&mut self, sought: Sought<'_>, now: Time) -> Option<bool> {
        let known = match self.young.get(&sought) {
            Some(known) => *known,
            None => {
                let (question, known) = self.old.remove_entry(&sought)?;
                let bytes = bytes_of(&question);
                self.old_bytes -= bytes;
                self.charge.shrink(bytes);
                self.insert(question, known);
                known
            }
        };
        (now < known.until).then_some(known.is_permitted)
    }

    fn insert(&mut self, question: Question, answer: Answer) {
        let bytes = bytes_of(&question);
        if self.young.insert(question, answer).is_some() {
            return;
        }
        self.young_bytes += bytes;
        self.charge.grow(bytes);
        if self.young_bytes > GENERATION_BYTES_MAX {
            self.charge.shrink(self.old_bytes);
            self.old = std::mem::take(&mut self.young);
            self.old_bytes = std::mem::take(&mut self.young_bytes);
        }
    }
}

fn bytes_of(question: &Question) -> usize {
    let key = question.key.as_ref().map_or(0, |key| text(key.len()));
    hashed::<(Question, Answer)>() + text(question.name.len()) + key
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Time = Time(1_000_000);

    fn topic(key: &str) -> Sought<'_> {
        Sought {
            permission: Permission::Write,
            subject: Subject::Topic,
            name: "amq.topic",
            key: Some(key),
        }
    }

    #[test]
    fn one_question_is_asked_once_and_its_answer_counts_until_its_time() {
        let mut asking = Asking::new(Charge::default());
        assert_eq!(asking.verdict(topic("a"), Time(0)), Verdict::Unknown);
        assert_eq!(
            asking.verdict(topic("a"), Time(0)),
            Verdict::Unknown,
            "it is asked already"
        );
        let question = asking.take_question().expect("a question");
        assert_eq!((question.key.as_deref(), asking.take_question()), (Some("a"), None));
        // An answer to an earlier command's question, which came too late.
        let other = topic("b").to_question();
        assert!(!asking.answer(other, true, FAR) && asking.is_pending());
        assert!(asking.answer(question, false, Time(10)) && !asking.is_pending());
        assert_eq!(asking.verdict(topic("a"), Time(9)), Verdict::Refused);
        assert_eq!(asking.verdict(topic("b"), Time(9)), Verdict::Permitted);
        assert_eq!(
            asking.verdict(topic("a"), Time(10)),
            Verdict::Unknown,
            "its time is over"
        );
    }

    #[test]
    fn the_cache_of_answers_is_limited_and_used_answers_stay() {
        let mut asking = Asking::new(Charge::default());
        asking.answer(topic("often").to_question(), true, FAR);
        for n in 0..10_000 {
            asking.answer(topic(&format!("{n}")).to_question(), n % 2 == 0, FAR);
            assert_eq!(asking.verdict(topic("often"), Time(0)), Verdict::Permitted);
            let answers = &asking.answers;
            assert!(answers.young_bytes + answers.old_bytes <= 2 * GENERATION_BYTES_MAX + 200);
            assert!(answers.young.len() + answers.old.len() < 1_000);
        }
        assert_eq!(asking.verdict(topic("9999"), Time(0)), Verdict::Refused);
        assert_eq!(asking.verdict(topic("0"), Time(0)), Verdict::Unknown, "it is forgotten");
    }

    #[test]
    fn a_command_asks_a_bounded_number_of_questions() {
        let mut asking = Asking::new(Charge::default());
        let ask = |asking: &mut Asking, n: usize| {
            let key = format!("{n}");
            let verdict = asking.verdict(topic(&key), Time(0));
            if let Some(question) = asking.take_question() {
                asking.answer(question, true, FAR);
            }
            verdict
        };
        for n in 0..QUESTIONS_MAX {
            assert_eq!(ask(&mut asking, n), Verdict::Unknown);
        }
        assert_eq!(ask(&mut asking, QUESTIONS_MAX), Verdict::Refused);
        asking.go_on();
        assert_eq!(ask(&mut asking, QUESTIONS_MAX), Verdict::Unknown);
        let long = "x".repeat(QUESTION_BYTES_MAX);
        assert_eq!(asking.verdict(topic(&long), Time(0)), Verdict::Refused);
    }
}
