//! Splits the input into frames. Limits are checked on the seven octets before a payload, before the rest is waited
//! for.

use crate::error::{Code, Reply, Snippet};
use crate::frame::{FRAME_END, Frame, HEAD, OVERHEAD};

/// Octets of the protocol header.
pub(crate) const PROTOCOL_HEADER: usize = 8;
/// The protocol header of AMQP 0-9-1. Also our answer to any other header (AMQP 0-9-1 4.2.2).
pub(crate) const AMQP_0_9_1: [u8; PROTOCOL_HEADER] = *b"AMQP\x00\x00\x09\x01";
/// The protocol header of AMQP 0-9. Some clients send it, although what they speak after it is 0-9-1.
pub(crate) const AMQP_0_9: [u8; PROTOCOL_HEADER] = *b"AMQP\x01\x01\x00\x09";

/// Finds the first frame of `input`. Returns it with its length in octets, or `None` if the frame is not complete yet.
///
/// # Errors
/// The frame is larger than `frame_max`, or its last octet is not the frame end. The start of the next frame is then
/// unknown.
pub(crate) fn split(input: &[u8], frame_max: u32) -> Result<Option<(Frame<'_>, usize)>, Reply> {
    let [kind, c0, c1, s0, s1, s2, s3, after @ ..] = input else {
        return Ok(None);
    };
    let size = u32::from_be_bytes([*s0, *s1, *s2, *s3]);
    // RabbitMQ compares frame-max with the payload alone, so it accepts frames that are 8 octets too long. We do the
    // same: some clients miscount, and would lose their connection.
    if size > frame_max {
        let allowed = frame_max.saturating_sub(OVERHEAD as u32);
        let detail = format!("type {kind}, {}: {{frame_too_large,{size},{allowed}}}", Snippet(&[]));
        return Err(Reply::frame(Code::FrameError, detail));
    }
    let size = size as usize;
    let Some((payload, [end, ..])) = after.split_at_checked(size) else {
        return Ok(None);
    };
    if *end != FRAME_END {
        let detail = format!("type {kind}, {}: {{invalid_frame_end_marker,{end}}}", Snippet(payload));
        return Err(Reply::frame(Code::FrameError, detail));
    }
    let frame = Frame {
        kind: *kind,
        channel: u16::from_be_bytes([*c0, *c1]),
        payload,
    };
    Ok(Some((frame, HEAD + size + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_found_only_when_all_of_it_is_there() {
        let octets = [1, 0, 5, 0, 0, 0, 2, 7, 8, 0xCE, 99];
        for end in 0..10 {
            assert_eq!(split(&octets[..end], 4096), Ok(None), "{end}");
        }
        let frame = Frame {
            kind: 1,
            channel: 5,
            payload: &[7, 8],
        };
        assert_eq!(split(&octets, 4096), Ok(Some((frame, 10))));
    }

    #[test]
    fn oversized_frame_501_from_its_first_seven_octets() {
        let head = [3, 0, 1, 0, 3, 0x0D, 0x40];
        let reply = split(&head, 131_072).unwrap_err();
        assert_eq!(
            reply.to_string(),
            "FRAME_ERROR - type 3, all octets = <<>>: {frame_too_large,200000,131064}"
        );
    }

    #[test]
    fn a_payload_of_frame_max_passes_and_one_octet_more_does_not() {
        assert_eq!(split(&[3, 0, 1, 0, 2, 0, 0], 131_072), Ok(None));
        assert!(split(&[3, 0, 1, 0, 2, 0, 1], 131_072).is_err());
    }

    #[test]
    fn wrong_end_octet_501() {
        let reply = split(b"\x01\0\0\0\0\0\x04abcd\0", 4096).unwrap_err();
        let text = "FRAME_ERROR - type 1, all octets = <<\"abcd\">>: {invalid_frame_end_marker,0}";
        assert_eq!(reply.to_string(), text);
    }
}
