//! Runs the bodies of the fuzz targets over pseudo-random octets and over mutated conversations. The seeds are fixed,
//! so a failure repeats.

use gatepost_amqp::{fuzz_codec, fuzz_session};

/// xorshift64*: random enough to spread over the inputs.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn octets(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// `data` with a few octets changed, removed, doubled or inserted.
    fn mutate(&mut self, data: &[u8]) -> Vec<u8> {
        let mut data = data.to_vec();
        for _ in 0..1 + self.below(4) {
            let at = self.below(data.len());
            match self.below(4) {
                0 => data[at] = self.next() as u8,
                1 => data[at] ^= 1 << self.below(8),
                2 => drop(data.remove(at)),
                _ => data.insert(at, self.next() as u8),
            }
            if data.is_empty() {
                data.push(0);
            }
        }
        data
    }
}

fn frame(kind: u8, channel: u8, payload: &[u8]) -> Vec<u8> {
    let size = (payload.len() as u32).to_be_bytes();
    [&[kind, 0, channel], size.as_slice(), payload, &[0xCE]].concat()
}

/// Valid frames of channels 1 and 2, of every class that a client uses.
fn frames() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    // Two octets of body; headers with an empty array under CC, and delivery mode 2.
    let header = [
        0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0x30, 0, 0, 0, 0, 8, 2, b'C', b'C', b'A', 0, 0, 0, 0, 2,
    ];
    for channel in [1, 2] {
        let methods: [&[u8]; 18] = [
            &[0, 20, 0, 10, 0],
            &[0, 50, 0, 10, 0, 0, 1, b'q', 2, 0, 0, 0, 0],
            &[
                0, 40, 0, 10, 0, 0, 1, b'e', 5, b't', b'o', b'p', b'i', b'c', 0, 0, 0, 0, 0,
            ],
            &[0, 50, 0, 20, 0, 0, 1, b'q', 1, b'e', 1, b'k', 0, 0, 0, 0, 0],
            &[0, 40, 0, 30, 0, 0, 1, b'd', 1, b'e', 1, b'k', 0, 0, 0, 0, 0],
            &[0, 60, 0, 10, 0, 0, 0, 0, 0, 5, 0],
            &[0, 60, 0, 20, 0, 0, 1, b'q', 1, b't', 0, 0, 0, 0, 0],
            &[0, 60, 0, 20, 0, 0, 1, b'q', 0, 0, 0, 0, 0, 0],
            &[0, 60, 0, 30, 1, b't', 0],
            &[0, 85, 0, 10, 0],
            &[0, 60, 0, 40, 0, 0, 1, b'e', 1, b'k', 1],
            &[0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 1, 0],
            &[0, 60, 0, 70, 0, 0, 1, b'q', 0],
            &[0, 60, 0, 110, 1],
            &[0, 90, 0, 10],
            &[0, 90, 0, 20],
            &[0, 20, 0, 40, 0, 0, 0, 0, 0, 0, 0],
            &[0, 20, 0, 41],
        ];
        frames.extend(methods.iter().map(|method| frame(1, channel, method)));
        frames.push(frame(2, channel, &header));
        frames.push(frame(3, channel, b"ab"));
    }
    frames.push(frame(8, 0, &[]));
    frames
}

/// A script that logs in, opens a channel, and sends `frames` in random order with answers in between.
fn conversation(random: &mut Random, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut script = vec![0];
    let feed = |script: &mut Vec<u8>, octets: &[u8]| {
        script.extend([1, octets.len() as u8]);
        script.extend(octets);
    };
    feed(&mut script, &frames[0]);
    for _ in 0..random.below(60) {
        match random.below(8) {
            0..=4 => feed(&mut script, &frames[random.below(frames.len())]),
            5 => script.extend([4, random.next() as u8, random.next() as u8]),
            6 => script.extend([6, random.next() as u8, random.next() as u8, random.next() as u8, 9]),
            _ => {
                // A publish in one piece of input: method, header, body.
                let publish = [&frames[10][..], &frames[18], &frames[19]].concat();
                feed(&mut script, &publish);
            }
        }
    }
    script
}

#[test]
fn random_octets_break_nothing() {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for _ in 0..4000 {
        let length = random.below(300);
        let data = random.octets(length);
        fuzz_codec(&data);
        fuzz_session(&data);
    }
}

#[test]
fn mutated_frames_break_nothing() {
    let mut random = Random(7);
    let frames = frames();
    for _ in 0..8000 {
        let frame = &frames[random.below(frames.len())];
        fuzz_codec(frame);
        let mutated = random.mutate(frame);
        fuzz_codec(&mutated);
        // Without the seven octets of the frame's envelope, so that the payload itself is decoded.
        fuzz_codec(mutated.get(7..).unwrap_or_default());
    }
}

#[test]
fn conversations_whole_and_mutated_break_nothing() {
    let mut random = Random(11);
    let frames = frames();
    for _ in 0..4000 {
        let script = conversation(&mut random, &frames);
        fuzz_session(&script);
        fuzz_session(&random.mutate(&script));
    }
}
