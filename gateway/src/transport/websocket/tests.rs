use super::frame::{Control, Decoder, End, Fault, Opcode, head};
use super::sender::Sender;
use crate::transport::Transport;
use crate::transport::unix::Unix;
use gatepost_core::session;
use gatepost_core::time::Time;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;
use tokio::io::ReadBuf;

const MAX: u64 = 1 << 20;
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// A masked frame, its length in the shortest form.
fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let (head, size) = head(0, payload.len());
    let mut frame = head[..size].to_vec();
    frame[0] = first;
    frame[1] |= 0x80;
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Decodes `pieces` one after another. Returns the payload, and why decoding ended.
fn decode<'a>(decoder: &mut Decoder, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, Option<End>) {
    let mut payload = Vec::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let size = decoder.decode(&mut piece);
        payload.extend_from_slice(&piece[..size]);
    }
    (payload, decoder.end())
}

fn whole(text: bool, bytes: &[u8]) -> (Vec<u8>, Option<End>) {
    decode(&mut Decoder::new(text, MAX), std::iter::once(bytes))
}

fn code(end: Option<End>) -> Option<u16> {
    match end {
        Some(End::Fault(Fault { code, .. })) => Some(code),
        _ => None,
    }
}

#[test]
fn the_examples_of_the_rfc_are_read() {
    // RFC 6455 5.7.
    let hello = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(whole(true, &hello), (b"Hello".to_vec(), None));
    let mut ping = hello;
    ping[0] = 0x89;
    let mut decoder = Decoder::new(true, MAX);
    assert_eq!(decode(&mut decoder, [&ping[..]].into_iter()).0, b"");
    let mut pong = Vec::new();
    assert!(decoder.answer_ping(&mut pong));
    assert_eq!(pong, [0x8a, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    assert!(!decoder.answer_ping(&mut pong), "once");
    assert_eq!(head(Opcode::BINARY, 256), ([0x82, 126, 1, 0, 0, 0, 0, 0, 0, 0], 4));
    assert_eq!(head(Opcode::BINARY, 65536), ([0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0], 10));
    assert_eq!(head(Opcode::TEXT, 125).1, 2);
    assert_eq!(head(Opcode::TEXT, 126).1, 4);
}

/// Fragmented messages with control frames in between, with all three forms of length.
fn conversation() -> (Vec<u8>, Vec<u8>) {
    let long = vec![b'l'; 70_000];
    let mut bytes = masked(0x01, "gr\u{fc}".as_bytes());
    bytes.extend(masked(0x89, b"are you there"));
    bytes.extend(masked(0x00, b""));
    bytes.extend(masked(0x80, "n\u{1f980}".as_bytes()));
    bytes.extend(masked(0x8A, b"unasked"));
    bytes.extend(masked(0x82, &[0xFF; 300]));
    bytes.extend(masked(0x82, b""));
    bytes.extend(masked(0x82, &long));
    bytes.extend(masked(0x88, &[0x03, 0xE9, b'b', b'y', b'e']));
    bytes.extend(masked(0x82, b"after the end"));
    let payload = ["gr\u{fc}n\u{1f980}".as_bytes(), &[0xFF; 300], &long].concat();
    (bytes, payload)
}

#[test]
fn a_conversation_reads_the_same_however_it_is_cut() {
    let (bytes, payload) = conversation();
    let expected = (payload, Some(End::Closed(Some(1001))));
    assert!(whole(true, &bytes) == expected);
    // Cut at every byte, except within the long run of one letter.
    for cut in (0..500).chain(bytes.len() - 40..bytes.len()) {
        let (head, tail) = bytes.split_at(cut);
        let read = decode(&mut Decoder::new(true, MAX), [head, tail].into_iter());
        assert!(read == expected, "cut at {cut}");
    }
    for size in [1, 2, 3, 7, 13, 1000] {
        let read = decode(&mut Decoder::new(true, MAX), bytes.chunks(size));
        assert!(read == expected, "in pieces of {size}");
    }
}

#[test]
fn a_mistake_has_its_close_code() {
    let unmasked = vec![0x82, 0x01, b'x'];
    let long_form = [&[0x82, 0x80 | 126, 0, 5][..], &MASK, b"hello"].concat();
    let longer_form = [&[0x82, 0xFF, 0, 0, 0, 0, 0, 0, 0xFF, 0xFF][..], &MASK].concat();
    let negative = [&[0x82, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0][..], &MASK].concat();
    let over = [&[0x82, 0xFF, 0, 0, 0, 0, 0, 0x10, 0, 1][..], &MASK].concat();
    let mut in_parts = masked(0x02, &vec![0; 1 << 19]);
    in_parts.extend(masked(0x00, &vec![0; 1 << 19]));
    in_parts.extend(masked(0x80, b"x"));
    let cases: [(&str, Vec<u8>, u16); 19] = [
        ("not masked", unmasked, 1002),
        ("a reserved bit, of compression", masked(0xC2, b"x"), 1002),
        ("an unknown opcode", masked(0x83, b"x"), 1002),
        ("an unknown control opcode", masked(0x8B, b"x"), 1002),
        ("a continuation of nothing", masked(0x80, b"x"), 1002),
        (
            "a message in a message",
            [masked(0x02, b"x"), masked(0x82, b"y")].concat(),
            1002,
        ),
        ("a ping in parts", masked(0x09, b"x"), 1002),
        ("a long ping", masked(0x89, &[0; 126]), 1002),
        ("a length in two bytes for one", long_form, 1002),
        ("a length in eight bytes for two", longer_form, 1002),
        ("a negative length", negative, 1002),
        ("half a close code", masked(0x88, &[3]), 1002),
        ("a code not for sending", masked(0x88, &1005u16.to_be_bytes()), 1002),
        ("a code of nobody", masked(0x88, &999u16.to_be_bytes()), 1002),
        ("a reason that is not UTF-8", masked(0x88, &[3, 0xE8, 0xFF]), 1007),
        ("text that is not UTF-8", masked(0x81, &[b'a', 0xFF, 0, 0xFE]), 1007),
        ("text that ends in a character", masked(0x81, &[0xE2, 0x82]), 1007),
        ("a message over the limit", over, 1009),
        ("parts over the limit", in_parts, 1009),
    ];
    for (what, bytes, expected) in cases {
        assert_eq!(code(whole(true, &bytes).1), Some(expected), "{what}");
        let in_bytes = decode(&mut Decoder::new(true, MAX), bytes.chunks(1)).1;
        assert_eq!(code(in_bytes), Some(expected), "{what}, byte by byte");
    }
    assert_eq!(
        code(whole(false, &masked(0x81, b"x")).1),
        Some(1003),
        "text to a binary protocol"
    );
    // Payload before the mistake is returned.
    let after = [masked(0x82, b"fine"), masked(0x80, b"x")].concat();
    assert_eq!(whole(false, &after).0, b"fine");
}

#[test]
fn a_close_frame_may_say_nothing() {
    assert_eq!(whole(false, &masked(0x88, b"")).1, Some(End::Closed(None)));
}

/// Writes through a sink that takes `room` bytes at a time, as the pump does. Returns the output.
fn write(sender: &mut Sender, decoder: &mut Decoder, outputs: &[&[u8]], room: usize) -> Vec<u8> {
    let sent = RefCell::new(Vec::new());
    let mut waiting = Vec::new();
    let mut outputs = outputs.iter();
    loop {
        let mut left = room;
        let mut take = |bytes: &[u8]| {
            let size = bytes.len().min(left);
            left -= size;
            sent.borrow_mut().extend_from_slice(&bytes[..size]);
            size
        };
        let taken = sender
            .write(decoder, &waiting, |head, bytes| {
                let size = take(head);
                Ok(if size < head.len() { size } else { size + take(bytes) })
            })
            .expect("written");
        waiting.drain(..taken);
        match outputs.next() {
            Some(output) => waiting.extend_from_slice(output),
            None if waiting.is_empty() => {
                let done = sender.write_control(decoder, |bytes| {
                    sent.borrow_mut().extend_from_slice(bytes);
                    Ok(bytes.len())
                });
                if done.expect("written") {
                    return sent.into_inner();
                }
            }
            None => {}
        }
    }
}

/// The messages of a server, as (opcode, payload).
fn messages(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut messages = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        assert_eq!((first & 0xF0, second & 0x80), (0x80, 0), "whole, and not masked");
        let (size, rest) = match second {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            127 => (
                usize::try_from(u64::from_be_bytes(rest[..8].try_into().expect("eight"))).expect("small"),
                &rest[8..],
            ),
            short => (usize::from(*short), rest),
        };
        messages.push((first & 0x0F, rest[..size].to_vec()));
        bytes = &rest[size..];
    }
    messages
}

#[test]
fn output_leaves_in_order_through_a_narrow_socket() {
    let long = vec![b'x'; 200];
    for room in 1..40 {
        let mut decoder = Decoder::new(false, MAX);
        let mut sender = Sender::new(false);
        let sent = write(&mut sender, &mut decoder, &[b"one", b"two", &long, b"four"], room);
        let messages = messages(&sent);
        let joined: Vec<u8> = messages.iter().flat_map(|(_, payload)| payload.clone()).collect();
        assert_eq!(joined, [b"onetwo", &long[..], b"four"].concat(), "{room}");
        assert!(messages.iter().all(|(opcode, _)| *opcode == Opcode::BINARY));
    }
}

#[test]
fn a_binary_stream_goes_out_in_messages_that_every_client_takes() {
    let mut sender = Sender::new(false);
    let sent = write(&mut sender, &mut Decoder::new(false, MAX), &[&[7; 200_000]], usize::MAX);
    let sizes: Vec<usize> = messages(&sent).iter().map(|(_, payload)| payload.len()).collect();
    assert_eq!(sizes, [65_536, 65_536, 65_536, 3_392]);
}

#[test]
fn text_goes_out_as_text_unless_it_is_none_or_the_client_sends_binary() {
    let mut decoder = Decoder::new(true, MAX);
    let mut sender = Sender::new(true);
    let sent = write(
        &mut sender,
        &mut decoder,
        &["MESSAGE\n\ngr\u{fc}n\0".as_bytes()],
        usize::MAX,
    );
    assert_eq!(messages(&sent)[0].0, Opcode::TEXT);
    let sent = write(&mut sender, &mut decoder, &[&[b'a', 0xFF, 0, 0xFE]], usize::MAX);
    assert_eq!(messages(&sent)[0].0, Opcode::BINARY);
    decode(&mut decoder, [&masked(0x82, b"\n")[..]].into_iter());
    let sent = write(&mut sender, &mut decoder, &[b"MESSAGE"], usize::MAX);
    assert_eq!(messages(&sent)[0].0, Opcode::BINARY);
}

#[test]
fn control_frames_go_between_messages_and_the_close_is_last() {
    let mut decoder = Decoder::new(false, MAX);
    let mut sender = Sender::new(false);
    // A message is begun and not finished.
    let taken = sender.write(&mut decoder, b"abcdef", |_, _| Ok(3));
    assert_eq!(taken.expect("written"), 1);
    decode(&mut decoder, [&masked(0x89, b"1")[..], &masked(0x89, b"2")].into_iter());
    assert!(
        !sender
            .write_control(&mut decoder, |_| panic!("within a message"))
            .expect("nothing")
    );
    sender.close(decoder.end());
    let rest = RefCell::new(Vec::new());
    let sink = |head: &[u8], bytes: &[u8]| {
        rest.borrow_mut().extend_from_slice(head);
        rest.borrow_mut().extend_from_slice(bytes);
        Ok(head.len() + bytes.len())
    };
    assert_eq!(sender.write(&mut decoder, b"bcdef", sink).expect("written"), 5);
    assert_eq!(rest.into_inner(), [b"bcdef", &[0x88, 2, 0x03, 0xE8][..]].concat());
}

#[test]
fn the_last_ping_is_answered_once_the_message_is_out() {
    let mut decoder = Decoder::new(false, MAX);
    decode(&mut decoder, [&masked(0x89, b"1")[..], &masked(0x89, b"2")].into_iter());
    let sent = write(&mut Sender::new(false), &mut decoder, &[b"x"], usize::MAX);
    let expected = [(Opcode::PONG, b"2".to_vec()), (Opcode::BINARY, b"x".to_vec())];
    assert_eq!(messages(&sent), expected);
}

#[test]
fn a_close_frame_says_why() {
    let closing = |end, abnormal: bool| {
        let mut sender = Sender::new(false);
        if abnormal {
            sender.ends_abnormally();
        }
        sender.close(end);
        sender.close(None);
        messages(&write(&mut sender, &mut Decoder::new(false, MAX), &[], usize::MAX))
    };
    let with = |code: u16| vec![(Opcode::CLOSE, code.to_be_bytes().to_vec())];
    assert_eq!(closing(None, false), with(1000));
    assert_eq!(closing(None, true), with(1008));
    assert_eq!(closing(Some(End::Closed(Some(1001))), true), with(1001));
    assert_eq!(closing(Some(End::Closed(None)), true), [(Opcode::CLOSE, Vec::new())]);
    let fault = Fault { code: 1009, text: "" };
    assert_eq!(closing(Some(End::Fault(fault)), true), with(1009));
}

#[test]
fn a_control_frame_is_small() {
    assert!(size_of::<Control>() <= 126);
    assert!(
        size_of::<super::WebSocket>() <= 600,
        "{}",
        size_of::<super::WebSocket>()
    );
}

/// Records that it was woken.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_turn_takes_few_of_many_pings() {
    const PINGS: usize = 20_000;
    let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let under = Transport::Unix(Unix::new(ours).unwrap());
    let protocol = session::WebSocket {
        port: None,
        tls_port: None,
        paths: &[],
        subprotocols: &[],
        subprotocol_optional: true,
        text: false,
    };
    let limits = super::Limits {
        message_max: MAX,
        ping_after: Duration::ZERO,
    };
    // Bytes that came with the upgrade are read like those from the socket.
    let early = [masked(0x89, b"").repeat(PINGS), masked(0x82, b"payload")].concat();
    let mut websocket = super::WebSocket::new(under, &protocol, limits, &early, Time::default());
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut space = [0; 4096];
    let mut turns = 0;
    let payload = loop {
        let mut buffer = ReadBuf::new(&mut space);
        let before = websocket.early.len();
        let read = websocket.poll_read(&mut Context::from_waker(&waker), &mut buffer);
        assert!(before - websocket.early.len() <= super::SILENT_BYTES, "turn {turns}");
        if read.is_ready() {
            break buffer.filled().to_vec();
        }
        // Nothing else wakes it: the socket is silent.
        assert!(woken.0.swap(false, Ordering::Relaxed), "turn {turns}");
        turns += 1;
    };
    assert_eq!(payload, b"payload");
    assert_eq!(turns, early.len() / super::SILENT_BYTES);
}
