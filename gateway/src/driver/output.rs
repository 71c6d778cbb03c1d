//! Bytes the socket did not take yet.

use gatepost_core::time::Time;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;

/// What is still to be written, in order. Nothing for all but slow peers, and then it is one word.
#[derive(Default)]
pub(super) struct Output(Option<Box<Backlog>>);

struct Backlog {
    bytes: Vec<u8>,
    /// Of `bytes`, what is written already: never all.
    written: usize,
    /// When the socket last took something, or the first byte came to wait.
    progress: Time,
}

/// Written bytes are moved away once they are this many.
const COMPACT: usize = 64 << 10;

impl Output {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.0
            .as_ref()
            .map_or(0, |backlog| backlog.bytes.len() - backlog.written)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Since when nothing moves; `None` if nothing waits.
    pub(super) fn stalled_since(&self) -> Option<Time> {
        self.0.as_ref().map(|backlog| backlog.progress)
    }

    /// Writes what waits, as far as the socket takes it; else it will wake the task. Returns the bytes written.
    pub(super) fn flush<W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        socket: Pin<&mut W>,
        now: Time,
    ) -> io::Result<usize> {
        let Some(backlog) = &mut self.0 else { return Ok(0) };
        let waiting = backlog.bytes.get(backlog.written..).unwrap_or_default();
        let taken = write(cx, socket, waiting)?;
        if taken > 0 {
            backlog.progress = now;
        }
        if taken == waiting.len() {
            // Freed: a peer that was slow once does not keep its buffer.
            self.0 = None;
            return Ok(taken);
        }
        backlog.written += taken;
        if backlog.written >= COMPACT {
            backlog.bytes.drain(..backlog.written);
            backlog.written = 0;
        }
        Ok(taken)
    }

    /// Writes `fresh` after what waits, and leaves it empty; what the socket does not take waits. Returns the bytes
    /// written.
    pub(super) fn send<W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        socket: Pin<&mut W>,
        fresh: &mut Vec<u8>,
        now: Time,
    ) -> io::Result<usize> {
        if fresh.is_empty() {
            return Ok(0);
        }
        if let Some(backlog) = &mut self.0 {
            backlog.bytes.append(fresh);
            return Ok(0);
        }
        let taken = write(cx, socket, fresh)?;
        if let Some(rest) = fresh.get(taken..).filter(|rest| !rest.is_empty()) {
            self.0 = Some(Box::new(Backlog {
                bytes: rest.to_vec(),
                written: 0,
                progress: now,
            }));
        }
        fresh.clear();
        Ok(taken)
    }
}

/// Writes until the socket is full.
fn write<W: AsyncWrite>(cx: &mut Context<'_>, mut socket: Pin<&mut W>, bytes: &[u8]) -> io::Result<usize> {
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        match socket.as_mut().poll_write(cx, rest) {
            Poll::Pending => break,
            Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Poll::Ready(Ok(n)) => at += n,
            Poll::Ready(Err(error)) => return Err(error),
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    /// Takes a few bytes at a time, then is full.
    struct Narrow {
        room: usize,
        got: Vec<u8>,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let n = bytes.len().min(self.room).min(3);
            if n == 0 {
                return Poll::Pending;
            }
            self.room -= n;
            self.got.extend_from_slice(&bytes[..n]);
            Poll::Ready(Ok(n))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn bytes_leave_in_order_through_a_narrow_socket() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut socket = Narrow {
            room: 4,
            got: Vec::new(),
        };
        let mut output = Output::default();
        output
            .send(&mut cx, Pin::new(&mut socket), &mut b"abcdef".to_vec(), Time(1))
            .expect("sent");
        assert_eq!((output.len(), output.stalled_since()), (2, Some(Time(1))));
        // More must not overtake what waits, even if there is room by now.
        socket.room = 1;
        output
            .send(&mut cx, Pin::new(&mut socket), &mut b"ghi".to_vec(), Time(2))
            .expect("sent");
        assert_eq!((output.len(), output.stalled_since()), (5, Some(Time(1))));
        output.flush(&mut cx, Pin::new(&mut socket), Time(3)).expect("flushed");
        assert_eq!((output.len(), output.stalled_since()), (4, Some(Time(3))));
        socket.room = 100;
        output.flush(&mut cx, Pin::new(&mut socket), Time(4)).expect("flushed");
        assert!(output.is_empty() && output.stalled_since().is_none());
        assert_eq!(socket.got, b"abcdefghi");
    }
}
