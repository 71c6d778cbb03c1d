//! Sockets without a client library.

use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// A connection to a port of the daemon. Reads and writes on it have a time limit.
pub(crate) fn tcp(port: u16) -> TcpStream {
    try_tcp(port).unwrap_or_else(|e| panic!("port {port}: {e}"))
}

pub(crate) fn try_tcp(port: u16) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Reads to the end of the stream and returns the bytes. Fails if the other side keeps it open.
pub(crate) fn read_to_end(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    match stream.read_to_end(&mut all) {
        Ok(_) => {}
        // The other side had unread bytes of ours when it closed.
        Err(e) if e.kind() == ErrorKind::ConnectionReset => {}
        Err(e) => panic!(
            "the other side does not close: {e}; so far it sent {:?}",
            String::from_utf8_lossy(&all)
        ),
    }
    all
}

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !condition() {
        assert!(
            began.elapsed() < PATIENCE,
            "{what} did not come true within {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

const PATIENCE: Duration = Duration::from_secs(30);
