//! The settings of a `rabbitmq.conf`, as RabbitMQ reads them.

/// `key = value`, with its line.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Setting {
    pub line: usize,
    pub key: String,
    pub value: String,
}

/// Reads all settings, and the numbers of lines that are not settings. If a key is set twice, the later line counts.
pub(super) fn read(text: &str) -> (Vec<Setting>, Vec<usize>) {
    let (mut settings, mut strange): (Vec<Setting>, Vec<usize>) = (Vec::new(), Vec::new());
    for (line, text) in (1..).zip(text.lines().map(str::trim)) {
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        let Some((key, value)) = text.split_once('=') else {
            strange.push(line);
            continue;
        };
        let key = key.trim().to_owned();
        settings.retain(|before| before.key != key);
        settings.push(Setting {
            line,
            key,
            value: value_of(value.trim()),
        });
    }
    (settings, strange)
}

/// A value without its quotes and without a comment after it. A `#` belongs to the value only between quotes.
fn value_of(text: &str) -> String {
    if let Some((quoted, _)) = text.strip_prefix('\'').and_then(|rest| rest.split_once('\'')) {
        return quoted.to_owned();
    }
    let (value, _) = text.split_once('#').unwrap_or((text, ""));
    value.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bug: comments after values were part of them, so `fail_if_no_peer_cert = true # …` was not `true`, and
    /// clients needed no certificate any more.
    #[test]
    fn a_comment_behind_a_value_is_no_part_of_it() {
        let (settings, strange) = read(
            "a = true            # a comment\n  # another\nb = 'x # y' # z\nc=1\nnonsense\na.b = ::1:5672\nc = 2#x\n",
        );
        let settings: Vec<_> = settings.iter().map(|s| (s.line, &*s.key, &*s.value)).collect();
        assert_eq!(
            settings,
            [
                (1, "a", "true"),
                (3, "b", "x # y"),
                (6, "a.b", "::1:5672"),
                (7, "c", "2")
            ]
        );
        assert_eq!(strange, [5]);
    }
}
