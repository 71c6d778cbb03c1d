//! STOMP 1.2 written by hand on a socket.

use super::raw::try_tcp;
use std::fmt::Write as _;
use std::io::{Error, ErrorKind, Read as _, Result, Write as _};
use std::net::TcpStream;

/// A connection as guest.
pub(crate) struct Stomp {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// A frame as received. Escapes are not decoded.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) command: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Frame {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }
}

impl Stomp {
    pub(crate) fn try_open(port: u16) -> Result<Stomp> {
        let mut stomp = Stomp {
            stream: try_tcp(port)?,
            input: Vec::new(),
            output: Vec::new(),
        };
        let login = [
            ("accept-version", "1.2"),
            ("host", "/"),
            ("login", "guest"),
            ("passcode", "guest"),
        ];
        stomp.frame("CONNECT", &login, b"");
        match stomp.next()? {
            frame if frame.command == "CONNECTED" => Ok(stomp),
            other => Err(Error::other(format!("expected CONNECTED and got {other:?}"))),
        }
    }

    /// Buffers a frame.
    pub(crate) fn frame(&mut self, command: &str, headers: &[(&str, &str)], body: &[u8]) {
        let mut head = format!("{command}\n");
        for (name, value) in headers {
            let _ = writeln!(head, "{name}:{value}");
        }
        let _ = write!(head, "content-length:{}\n\n", body.len());
        self.output.extend(head.as_bytes());
        self.output.extend(body);
        self.output.push(0);
    }

    /// Sends what is buffered and returns the next frame.
    pub(crate) fn next(&mut self) -> Result<Frame> {
        self.stream.write_all(&self.output)?;
        self.output.clear();
        loop {
            if let Some((frame, used)) = parse(&self.input) {
                self.input.drain(..used);
                return Ok(frame);
            }
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk)? {
                0 => return Err(Error::new(ErrorKind::UnexpectedEof, "the other side closed")),
                got => self.input.extend(&chunk[..got]),
            }
        }
    }
}

fn parse(input: &[u8]) -> Option<(Frame, usize)> {
    let start = input.iter().position(|&b| b != b'\n')?;
    let head_end = start + input[start..].windows(2).position(|w| w == b"\n\n")?;
    let head = String::from_utf8_lossy(&input[start..head_end]).into_owned();
    let mut lines = head.lines();
    let command = lines.next()?.to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let rest = &input[head_end + 2..];
    let announced = headers.iter().find(|(name, _)| name == "content-length");
    let len = match announced.and_then(|(_, value)| value.parse().ok()) {
        Some(len) => len,
        None => rest.iter().position(|&b| b == 0)?,
    };
    let body = rest.get(..len)?.to_vec();
    rest.get(len)?;
    let frame = Frame { command, headers, body };
    Some((frame, head_end + 2 + len + 1))
}
