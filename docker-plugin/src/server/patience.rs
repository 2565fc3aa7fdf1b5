//! Ends connections that send a request too slowly, and no others: one that is idle stays as
//! long as its owner likes, one that waits for an answer as long as the answer takes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long the head of a request may take to arrive after its first byte.
pub const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// Knows whether a request of this connection is being answered.
#[derive(Clone, Debug, Default)]
pub struct Patience(Arc<AtomicUsize>);

/// As long as it lives, a request is being answered.
#[derive(Debug)]
pub struct Answering(Arc<AtomicUsize>);

impl Patience {
    /// A request has arrived and is being answered.
    pub fn answering(&self) -> Answering {
        self.0.fetch_add(1, Ordering::SeqCst);
        Answering(Arc::clone(&self.0))
    }

    fn is_answering(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A stream that fails when the head of a request stays half-sent.
pub struct Patient<S> {
    stream: S,
    patience: Patience,
    /// Runs from the first byte of a request until the request is being answered.
    limit: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Watches `stream`.
    pub fn new(stream: S, patience: Patience) -> Patient<S> {
        Patient { stream, patience, limit: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let this = &mut *self;
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        if this.patience.is_answering() {
            this.limit = None;
            return read;
        }
        match read {
            Poll::Ready(Ok(())) if buffer.filled().len() > before => {
                this.limit.get_or_insert_with(|| Box::pin(sleep(HEAD_PATIENCE)));
                Poll::Ready(Ok(()))
            }
            Poll::Ready(outcome) => Poll::Ready(outcome),
            Poll::Pending => {
                let Some(limit) = &mut this.limit else { return Poll::Pending };
                ready!(limit.as_mut().poll(context));
                let why = "the head of the request did not arrive in time";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        // An answer goes out: what was read so far has been dealt with.
        self.limit = None;
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.limit = None;
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_head_that_stays_half_sent_ends_the_connection() {
        let (mut near, far) = duplex(64);
        let mut far = Patient::new(far, Patience::default());
        near.write_all(b"POST /Plug").await.expect("written");
        let mut buffer = [0; 64];
        assert_eq!(far.read(&mut buffer).await.expect("read"), 10);
        let error = far.read(&mut buffer).await.expect_err("ended");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_and_one_that_waits_are_left_alone() {
        let (mut near, far) = duplex(64);
        let patience = Patience::default();
        let mut far = Patient::new(far, patience.clone());
        let mut buffer = [0; 64];
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, far.read(&mut buffer)).await.is_err(), "idle");
        near.write_all(b"POST").await.expect("written");
        assert_eq!(far.read(&mut buffer).await.expect("read"), 4);
        let _answering = patience.answering();
        assert!(tokio::time::timeout(hour, far.read(&mut buffer)).await.is_err(), "waiting");
    }
}
