//! Rights that somebody outside knows: what has to be asked, and what a link remembers of the answers.
//!
//! ```text
//!   command ─► door ─► known? ──yes──► decided
//!      ▲                 └──no──► question ─► the command goes back, and is its link's first ─► pump ─► whoever knows
//!      └──────────────────── tried again ◄── wake ◄── answer, with a time until which it counts ◄──────────┘
//! ```
//!
//! A link asks one question at a time, for its first command; all others of the link wait behind that one, so nothing
//! overtakes. Nobody else waits. Answers are the link's own, because they may depend on its client id: a bounded number
//! of bytes, the oldest of which are forgotten first. Where a question cannot be asked, the answer is no.

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

/// Something that a user wants to do, of which the engine does not know whether it may.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// What it wants to do.
    pub permission: Permission,
    /// With what.
    pub subject: Subject,
    /// The name of that; the default exchange is called `amq.default`.
    pub name: Name,
    /// Of a topic: its key, or the key of a binding, in the dot dialect.
    pub key: Option<Name>,
}

/// A question, and the client id of whoever wants to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Whose rights they are.
    pub user: Name,
    /// What is asked.
    pub question: Question,
    /// The client id, where its protocol's clients have one.
    pub client_id: Option<Name>,
}

/// A [`Question`] that need not be one yet. Hashed alike.
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

/// What is known of a [`Sought`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Permitted,
    Refused,
    /// It is to be asked; the command waits.
    Unknown,
}

#[cfg(any(test, feature = "testing"))]
impl super::Rights {
    /// The answer to a question, by one who has these rights in mind.
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
            (Subject::Topic, Some(key), _) => self.permit_topic(*permission, name, (key.as_bytes(), Dialect::Dot), who),
            _ => self.permit(*permission, name),
        }
    }
}

/// See the module.
pub(crate) struct Asking {
    answers: Answers,
    /// What the link's first command waits for.
    pending: Option<Pending>,
    /// Questions that were asked for the first command since it last got on.
    asked: usize,
    /// The name that was made up for the queue that the first command declares.
    pub(crate) made_up: Option<Name>,
}

struct Pending {
    question: Question,
    /// Whoever knows has been told.
    taken: bool,
}

/// Questions of one command, without one that is not new: a message may name thousands of topics. Those beyond are refused.
const QUESTIONS_MAX: usize = 100;
/// Bytes of the texts of a question. What is longer is refused.
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

    /// The question that nobody has been told of yet.
    pub(crate) fn take_question(&mut self) -> Option<Question> {
        let pending = self.pending.as_mut().filter(|pending| !pending.taken)?;
        pending.taken = true;
        Some(pending.question.clone())
    }

    /// The answer to a question. Returns whether it is the one that the first command waits for.
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

    /// The first command got on, or is gone.
    pub(crate) fn go_on(&mut self) {
        self.pending = None;
        self.asked = 0;
        self.made_up = None;
    }
}

#[derive(Clone, Copy)]
struct Answer {
    is_permitted: bool,
    /// It counts before that.
    until: Time,
}

/// What is known, in two generations: what nobody has asked for since the last change of generations is forgotten at the next.
struct Answers {
    young: HashMap<Question, Answer>,
    old: HashMap<Question, Answer>,
    young_bytes: usize,
    old_bytes: usize,
    charge: Charge,
}

/// Bytes of one generation.
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
        // Of an earlier command, whose question had to wait for too long.
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
    fn what_is_remembered_is_bounded_and_what_is_used_stays() {
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
