//! Replies on their way to a client, in order.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::AsyncWrite;

/// Pieces that leave in one system call.
const MAX_SLICES: usize = 16;

/// A queue of replies. Those that are made at once stand back to back in one buffer that is kept and
/// never cleared; those that were made elsewhere keep their own memory.
#[derive(Debug, Default)]
pub(crate) struct Output {
    /// As long as it ever had to be; `start..end` waits to be sent.
    scratch: Vec<u8>,
    start: usize,
    end: usize,
    segments: VecDeque<Segment>,
    pending: usize,
}

#[derive(Debug)]
enum Segment {
    /// The next so many bytes of the scratch buffer.
    Scratch(usize),
    /// A reply made elsewhere, and how much of it was sent.
    Own { reply: Vec<u8>, sent: usize },
}

impl Output {
    /// Bytes that wait to be sent.
    pub(crate) fn pending(&self) -> usize {
        self.pending
    }

    /// Room for a reply of `len` bytes, with anything in it; [`commit`](Self::commit) makes it part of
    /// the queue.
    pub(crate) fn room(&mut self, len: usize) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.scratch.len() - self.end < len {
            self.scratch.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.scratch.len() - self.end < len {
                self.scratch.resize((self.end + len).next_power_of_two(), 0);
            }
        }
        &mut self.scratch[self.end..self.end + len]
    }

    /// Queues the first `len` bytes of the room handed out last.
    pub(crate) fn commit(&mut self, len: usize) {
        self.end += len;
        self.pending += len;
        match self.segments.back_mut() {
            Some(Segment::Scratch(bytes)) => *bytes += len,
            _ => self.segments.push_back(Segment::Scratch(len)),
        }
    }

    /// Queues a small reply by copying it.
    pub(crate) fn push(&mut self, reply: &[u8]) {
        self.room(reply.len()).copy_from_slice(reply);
        self.commit(reply.len());
    }

    /// Queues a reply that has memory of its own.
    pub(crate) fn push_own(&mut self, reply: Vec<u8>) {
        self.pending += reply.len();
        self.segments.push_back(Segment::Own { reply, sent: 0 });
    }

    /// Sends what the socket takes; ready once something was sent. Not to be called with nothing pending.
    pub(crate) fn poll_send<S: AsyncWrite + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut count = 0;
        let mut scratch = self.start;
        for (slice, segment) in slices.iter_mut().zip(&self.segments) {
            *slice = match segment {
                Segment::Scratch(len) => {
                    scratch += len;
                    IoSlice::new(&self.scratch[scratch - len..scratch])
                }
                Segment::Own { reply, sent } => IoSlice::new(&reply[*sent..]),
            };
            count += 1;
        }
        let socket = Pin::new(socket);
        let sent = ready!(match &slices[..count] {
            [one] => socket.poll_write(cx, one),
            many => socket.poll_write_vectored(cx, many),
        })?;
        if sent == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.advance(sent);
        Poll::Ready(Ok(sent))
    }

    /// Takes what was sent off the queue.
    fn advance(&mut self, mut done: usize) {
        self.pending -= done;
        while done > 0 {
            let Some(front) = self.segments.front_mut() else {
                debug_assert!(false, "no more is sent than was queued");
                return;
            };
            let finished = match front {
                Segment::Scratch(len) => {
                    let step = done.min(*len);
                    *len -= step;
                    self.start += step;
                    done -= step;
                    *len == 0
                }
                Segment::Own { reply, sent } => {
                    let step = done.min(reply.len() - *sent);
                    *sent += step;
                    done -= step;
                    *sent == reply.len()
                }
            };
            if finished {
                self.segments.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A socket that takes a few bytes at a time.
    struct Trickle {
        taken: Vec<u8>,
        step: usize,
    }

    impl AsyncWrite for Trickle {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let step = self.step.min(buf.len());
            self.taken.extend_from_slice(&buf[..step]);
            Poll::Ready(Ok(step))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter().copied()).collect();
            let step = self.step.min(all.len());
            self.taken.extend_from_slice(&all[..step]);
            Poll::Ready(Ok(step))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        /// Whatever is queued in whatever form, and however little the socket takes, leaves in order.
        #[test]
        fn replies_leave_whole_and_in_order(
            steps in prop::collection::vec((any::<bool>(), 1..200_usize, 0..4_usize), 1..60),
            step in 1..300_usize,
        ) {
            let mut output = Output::default();
            let mut socket = Trickle { taken: Vec::new(), step };
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let mut expected = Vec::new();
            for (at, (own, len, sends)) in steps.into_iter().enumerate() {
                let reply = vec![at as u8; len];
                expected.extend_from_slice(&reply);
                if own { output.push_own(reply) } else { output.push(&reply) }
                for _ in 0..sends {
                    if output.pending() > 0 {
                        prop_assert!(output.poll_send(&mut socket, &mut cx).is_ready());
                    }
                }
                prop_assert_eq!(output.pending(), expected.len() - socket.taken.len());
            }
            while output.pending() > 0 {
                prop_assert!(output.poll_send(&mut socket, &mut cx).is_ready());
            }
            prop_assert_eq!(socket.taken, expected);
        }
    }

    #[test]
    fn memory_follows_what_is_pending_not_what_passed() {
        let mut output = Output::default();
        let mut socket = Trickle { taken: Vec::new(), step: 1000 };
        let mut cx = Context::from_waker(std::task::Waker::noop());
        output.push(&[0; 1500]);
        for _ in 0..1000 {
            output.push(&[0; 1000]);
            assert!(output.poll_send(&mut socket, &mut cx).is_ready());
        }
        assert!(output.scratch.len() <= 4096, "{}", output.scratch.len());
    }
}
