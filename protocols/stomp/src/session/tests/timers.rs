//! The login deadline and heart-beats.

use super::*;

fn beating(heart_beat: &str) -> Script {
    let mut script = Script::new();
    script.send(&format!(
        "CONNECT\naccept-version:1.2\nhost:/\nheart-beat:{heart_beat}\n\n\0"
    ));
    script.event(Event::authenticated("me"));
    script.event(Event::Attached);
    script
}

#[test]
fn a_login_that_takes_too_long_is_closed() {
    let mut script = Script::new();
    script.send("CONN");
    script.advance(9_999);
    assert_eq!(script.closed, None);
    script.advance(1);
    assert!(script.closed.is_some());
    assert_eq!(script.out(), "");
}

#[test]
fn the_deadline_covers_the_directory_and_ends_with_connected() {
    let mut script = Script::new();
    script.send("CONNECT\n\n\0");
    script.advance(10_000);
    assert!(script.closed.is_some());

    let mut script = Script::opened("1.2");
    script.advance(100_000);
    assert_eq!(script.closed, None);
    assert_eq!(script.session.poll_timeout(), None);
}

#[test]
fn line_feeds_come_at_half_the_interval_unless_a_frame_does() {
    let mut script = beating("0,2000");
    assert!(script.out().contains("heart-beat:2000,0\n"));
    script.advance(999);
    assert_eq!(script.out(), "");
    script.advance(1);
    assert_eq!(script.out(), "\n");
    script.advance(900);
    script.send("BEGIN\ntransaction:t\nreceipt:r\n\n\0");
    assert_eq!(script.out(), receipt("r"));
    script.advance(999);
    assert_eq!(script.out(), "");
    script.advance(2_001);
    assert_eq!(script.out(), "\n\n\n");
}

#[test]
fn a_silent_peer_is_closed_after_twice_its_interval() {
    let mut script = beating("1000,0");
    assert!(script.out().contains("heart-beat:0,1000\n"));
    script.advance(1_999);
    script.send("\n");
    script.advance(1_999);
    // Part of a frame counts as activity too.
    script.send("SEND\ndesti");
    script.advance(1_999);
    assert_eq!(script.closed, None);
    script.advance(1);
    assert!(script.closed.as_ref().is_some_and(|close| close.abnormal));
}

#[test]
fn a_heart_beat_interval_below_the_minimum_is_raised() {
    let mut script = beating("10,10");
    assert!(script.out().contains("heart-beat:1000,1000\n"));
}

#[test]
fn time_in_which_nothing_is_read_is_not_silence() {
    let mut script = beating("1000,0");
    script.session.set_paused(script.now, true);
    script.advance(60_000);
    script.session.set_paused(script.now, false);
    script.advance(1_999);
    assert_eq!(script.closed, None);
    script.advance(1);
    assert!(script.closed.is_some());
}

#[test]
fn octets_offered_again_do_not_count_as_activity() {
    let mut script = beating("1000,0");
    script.send("SEND\n");
    script.advance(1_500);
    script.pump();
    script.advance(500);
    assert!(script.closed.is_some());
}

#[test]
fn a_bad_heart_beat_is_refused() {
    for bad in ["-1,0", "1.5,2", "x", "1"] {
        let mut script = Script::new();
        script.send(&format!("CONNECT\nheart-beat:{bad}\n\n\0"));
        script.refused(
            "Invalid header",
            "\"CONNECT\" must include a valid \"heart-beat\" header\n",
        );
    }
}
