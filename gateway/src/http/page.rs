//! A page in Prometheus's text format. Families appear in the order in which they were first written, each with its help and
//! type once, so two pages compared line by line differ in the numbers only.

use std::collections::HashMap;
use std::fmt::{self, Write as _};

/// A page that is being written.
pub(super) struct Page {
    families: Vec<Family>,
    places: HashMap<String, usize>,
    /// Replaces `rabbitmq_` at the beginning of RabbitMQ's names.
    prefix: Option<&'static str>,
    help: fn(&str) -> &'static str,
}

struct Family {
    name: String,
    help: &'static str,
    kind: &'static str,
    samples: String,
}

/// A label and its value.
pub(super) type Label<'a> = (&'a str, &'a str);

impl Page {
    /// An empty page. `help` returns the help text of a family.
    pub(super) fn new(help: fn(&str) -> &'static str) -> Page {
        Page {
            families: Vec::new(),
            places: HashMap::new(),
            prefix: None,
            help,
        }
    }

    /// Writes `prefix` instead of `rabbitmq_` from now on.
    pub(super) fn prefixed(mut self, prefix: &'static str) -> Page {
        self.prefix = Some(prefix);
        self
    }

    /// Appends a sample of a counter.
    pub(super) fn counter(&mut self, name: &str, labels: &[Label<'_>], value: u64) {
        self.sample("counter", name, labels, &value);
    }

    /// Appends a sample of a family of times that only grow.
    pub(super) fn seconds(&mut self, name: &str, labels: &[Label<'_>], value: f64) {
        self.sample("counter", name, labels, &value);
    }

    /// Appends a sample of a gauge.
    pub(super) fn gauge(&mut self, name: &str, labels: &[Label<'_>], value: f64) {
        self.sample("gauge", name, labels, &value);
    }

    /// Appends a histogram. `buckets` are upper bounds and counts, not cumulative; the last bound is `+Inf`.
    pub(super) fn histogram(&mut self, name: &str, buckets: impl Iterator<Item = (impl fmt::Display, u64)>, sum: f64) {
        let family = self.family("histogram", name);
        let name = family.name.clone();
        let mut total = 0;
        for (le, count) in buckets {
            total += count;
            let _ = writeln!(family.samples, "{name}_bucket{{le=\"{le}\"}} {total}");
        }
        let _ = writeln!(family.samples, "{name}_sum {sum}\n{name}_count {total}");
    }

    /// The text.
    pub(super) fn into_text(self) -> String {
        let mut text = String::with_capacity(self.families.iter().map(|family| family.samples.len() + 128).sum());
        for Family {
            name,
            help,
            kind,
            samples,
        } in self.families
        {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            text.push_str(&samples);
        }
        text
    }

    fn sample(&mut self, kind: &'static str, name: &str, labels: &[Label<'_>], value: &dyn fmt::Display) {
        let family = self.family(kind, name);
        family.samples.push_str(&family.name);
        for (number, (label, value)) in labels.iter().enumerate() {
            let open = if number == 0 { '{' } else { ',' };
            let _ = write!(family.samples, "{open}{label}=\"");
            escape(value, &mut family.samples);
            family.samples.push('"');
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(family.samples, "{close} {value}");
    }

    fn family(&mut self, kind: &'static str, name: &str) -> &mut Family {
        let place = match self.places.get(name) {
            Some(place) => *place,
            None => {
                let shown = match (self.prefix, name.strip_prefix("rabbitmq_")) {
                    (Some(prefix), Some(rest)) if !rest.ends_with("_info") && !rest.starts_with("cluster_") => {
                        format!("{prefix}{rest}")
                    }
                    _ => name.to_owned(),
                };
                self.families.push(Family {
                    name: shown,
                    help: (self.help)(name),
                    kind,
                    samples: String::new(),
                });
                self.places.insert(name.to_owned(), self.families.len() - 1);
                self.families.len() - 1
            }
        };
        &mut self.families[place]
    }
}

/// Escapes a label's value. Names of queues may contain any character.
fn escape(value: &str, onto: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => onto.push_str("\\\\"),
            '"' => onto.push_str("\\\""),
            '\n' => onto.push_str("\\n"),
            other => onto.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_stay_together_in_the_order_of_their_first_sample() {
        let mut page = Page::new(|_| "Help.");
        page.gauge("b", &[], 1.5);
        page.counter("a_total", &[("queue", "x\"y\\z\n"), ("vhost", "/")], 7);
        page.gauge("b", &[("l", "2")], 2.0);
        page.histogram("h", [("0.1", 1), ("+Inf", 2)].into_iter(), 3.0);
        let expected = "\
# HELP b Help.
# TYPE b gauge
b 1.5
b{l=\"2\"} 2
# HELP a_total Help.
# TYPE a_total counter
a_total{queue=\"x\\\"y\\\\z\\n\",vhost=\"/\"} 7
# HELP h Help.
# TYPE h histogram
h_bucket{le=\"0.1\"} 1
h_bucket{le=\"+Inf\"} 3
h_sum 3
h_count 3
";
        assert_eq!(page.into_text(), expected);
    }

    #[test]
    fn a_prefix_is_for_names_of_rabbitmq_but_not_for_who_this_is() {
        let mut page = Page::new(|_| "Help.").prefixed("rabbitmq_detailed_");
        page.gauge("rabbitmq_identity_info", &[], 1.0);
        page.gauge("rabbitmq_queue_messages", &[], 1.0);
        page.gauge("gatepost_x", &[], 1.0);
        let text = page.into_text();
        for line in [
            "rabbitmq_identity_info 1",
            "rabbitmq_detailed_queue_messages 1",
            "gatepost_x 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in:\n{text}");
        }
    }
}
