//! The bodies of the fuzz targets for the stages before a session and the transports below it, and tests that replay
//! their corpora.

use super::proxy;
use super::websocket::frame::{Decoder, End, INVALID};
use super::websocket::upgrade::{self, Rules};

/// Reads `data` as a PROXY header.
///
/// # Panics
/// If reading piece by piece, as the driver does, gives another result than reading all at once.
pub fn fuzz_proxy(data: &[u8]) {
    let whole = proxy::read(data);
    let mut at = 0;
    let stepwise = loop {
        match proxy::read(data.get(..at).unwrap_or_default()) {
            proxy::Verdict::More(more) => {
                assert!(more > 0, "nothing is asked for");
                if at + more > data.len() {
                    break proxy::Verdict::More(more);
                }
                at += more;
                assert!(at <= proxy::HEADER_MAX, "a header without bounds");
            }
            verdict => break verdict,
        }
    };
    if matches!(whole, proxy::Verdict::Done(_)) || matches!(stepwise, proxy::Verdict::Done(_)) {
        assert_eq!(whole, stepwise);
    }
}

/// Reads `data` as a client's WebSocket frames; its first octet chooses the settings, its second the size of the
/// pieces.
///
/// # Panics
/// If reading in pieces gives another result than reading all at once, or more bytes come out than went in.
pub fn fuzz_frames(data: &[u8]) {
    let [settings, size, input @ ..] = data else { return };
    let decode = |size: usize| {
        let mut decoder = Decoder::new(settings & 1 == 1, 1 << (8 + settings % 8));
        let (mut payload, mut answers) = (Vec::new(), Vec::new());
        for piece in input.chunks(size.max(1)) {
            let mut piece = piece.to_vec();
            let decoded = decoder.decode(&mut piece);
            payload.extend_from_slice(&piece[..decoded]);
        }
        decoder.answer_ping(&mut answers);
        (payload, answers, decoder.end())
    };
    let whole = decode(input.len());
    assert!(whole.0.len() <= input.len(), "more comes out than went in");
    let pieces = decode(usize::from(*size));
    assert_eq!(whole.1, pieces.1, "pieces and whole answer differently");
    assert_eq!(whole.2, pieces.2, "pieces and whole end differently");
    if matches!(whole.2, Some(End::Fault(fault)) if fault.code == INVALID) {
        // How much of an invalid text is passed on depends on where it was cut.
        let common = whole.0.len().min(pieces.0.len());
        assert_eq!(whole.0[..common], pieces.0[..common], "pieces and whole differ");
    } else {
        assert_eq!(whole.0, pieces.0, "pieces and whole differ");
    }
}

/// Reads `data` as the request for a WebSocket.
///
/// # Panics
/// If the outcome depends on bytes after the request, or an answer is not a valid HTTP head.
pub fn fuzz_upgrade(data: &[u8]) {
    let rules = Rules {
        paths: &["/mqtt", "/ws"],
        subprotocols: &["mqtt", "v12.stomp"],
        subprotocol_optional: data.len() % 2 == 1,
        origins: match data.len() % 3 {
            0 => vec!["https://panel.example".to_owned(), "null".to_owned()],
            _ => Vec::new(),
        },
    };
    match upgrade::read(data, &rules) {
        upgrade::Verdict::More => assert!(data.len() < upgrade::HEAD_BYTES_MAX, "a head without bounds"),
        upgrade::Verdict::Accept { used, ref answer, .. } => {
            assert!(answer.starts_with("HTTP/1.1 101 ") && answer.ends_with("\r\n\r\n"));
            let alone = upgrade::read(data.get(..used).unwrap_or_default(), &rules);
            assert!(matches!(alone, upgrade::Verdict::Accept { answer: same, .. } if same == *answer));
        }
        upgrade::Verdict::Refuse { answer, .. } => {
            let (head, text) = answer.split_once("\r\n\r\n").expect("a head");
            assert!(head.starts_with("HTTP/1.1 4"), "{head}");
            assert!(
                head.contains(&format!("\r\nContent-Length: {}\r\n", text.len())),
                "{head}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepost_core::testing::corpus;

    #[test]
    fn the_corpus_of_proxy_headers_breaks_nothing() {
        corpus::replay_mutants("proxy", fuzz_proxy);
    }

    #[test]
    fn the_corpus_of_websocket_frames_breaks_nothing() {
        corpus::replay_mutants("websocket_frames", fuzz_frames);
    }

    #[test]
    fn the_corpus_of_upgrades_breaks_nothing() {
        corpus::replay_mutants("websocket_upgrade", fuzz_upgrade);
    }
}
