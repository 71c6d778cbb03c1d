//! A socket, with or without TLS, as the `Read` and `Write` that hyper needs.

use super::Tcp;
use super::tls::{Handshake, Progress, Refused, Tls};
use crate::tls::Port;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// A connection of the HTTP server.
pub(crate) enum HttpStream {
    Plain(TcpStream),
    Tls(Box<Tls>),
}

impl HttpStream {
    /// Takes the socket; with a `port`, returns when the TLS handshake is done.
    ///
    /// # Errors
    /// The peer has gone, or the TLS handshake failed.
    pub(crate) async fn open(stream: TcpStream, port: Option<Arc<Port>>) -> io::Result<HttpStream> {
        let Some(port) = port else {
            return Ok(HttpStream::Plain(stream));
        };
        let tcp = Tcp::new(stream.into_std()?)?;
        let mut handshake = Some(Box::new(Handshake::new(tcp, port)));
        poll_fn(|cx| {
            let Some(now) = handshake.take() else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            match now.poll(cx) {
                Progress::Pending(later) => {
                    handshake = Some(later);
                    Poll::Pending
                }
                Progress::Done((tls, _)) => Poll::Ready(Ok(HttpStream::Tls(Box::new(tls)))),
                // The TLS alert has already been written, if the socket took it.
                Progress::Refused(_, Refused::Gone(error)) => Poll::Ready(Err(error)),
                Progress::Refused(..) => Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
        })
        .await
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            HttpStream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            HttpStream::Tls(tls) => tls.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            HttpStream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            HttpStream::Tls(tls) => tls.poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            HttpStream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            HttpStream::Tls(tls) => tls.poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            HttpStream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            HttpStream::Tls(tls) => tls.poll_close(cx),
        }
    }
}
