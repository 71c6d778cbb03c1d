//! Bytes the socket did not take yet.

use gatepost_core::time::Time;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;

/// What is still to be written, in order. Empty for all but slow peers.
#[derive(Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// Of `bytes`, what is written already.
    written: usize,
    /// When the socket last took something, or the first byte came to wait.
    progress: Time,
}

/// Written bytes are moved away once they are this many.
const COMPACT: usize = 64 << 10;

impl Output {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Since when nothing moves; `None` if nothing waits.
    pub(super) fn stalled_since(&self) -> Option<Time> {
        (!self.is_empty()).then_some(self.progress)
    }

    /// Writes what waits, as far as the socket takes it; else it will wake the task. Returns the bytes written.
    pub(super) fn flush<W: AsyncWrite>(
        &mut self,
        cx: &mut Context<'_>,
        socket: Pin<&mut W>,
        now: Time,
    ) -> io::Result<usize> {
        if self.is_empty() {
            return Ok(0);
        }
        let waiting = self.bytes.get(self.written..).unwrap_or_default();
        let taken = write(cx, socket, waiting)?;
        self.written += taken;
        if taken > 0 {
            self.progress = now;
        }
        if self.written == self.bytes.len() {
            // Freed: a peer that was slow once does not keep its buffer.
            *self = Output {
                progress: now,
                ..Output::default()
            };
        } else if self.written >= COMPACT {
            self.bytes.drain(..self.written);
            self.written = 0;
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
        if !self.is_empty() {
            self.bytes.append(fresh);
            return Ok(0);
        }
        let taken = write(cx, socket, fresh)?;
        if taken < fresh.len() {
            self.progress = now;
            self.bytes = fresh.get(taken..).unwrap_or_default().to_vec();
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
