//! Bytes that came from a client and are not yet understood.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::poll_read_buf;

use crate::proto::request::Request;

/// Largest payload of a write that is gathered in the buffer, in bytes; larger ones get memory of their
/// own, so that they are not copied.
///
/// Under a fuzzer so few that its inputs, which are short, reach both ways.
pub(crate) const MAX_BUFFERED: usize = if cfg!(fuzzing) { 1 << 10 } else { 256 << 10 };
/// Room for a gathered write and as much of what follows. Zeroed memory that the system hands out only
/// as it is touched.
const CAPACITY: usize = 2 * (MAX_BUFFERED + Request::LEN);

/// A buffer of fixed size, and the payload of a large write on its way in.
#[derive(Debug)]
pub(crate) struct Input {
    buf: Vec<u8>,
    start: usize,
    end: usize,
    large: Option<Large>,
}

/// The payload of a large write, until it is whole.
#[derive(Debug)]
struct Large {
    bytes: BytesMut,
    missing: usize,
}

impl Input {
    pub(crate) fn new() -> Self {
        Self { buf: vec![0; CAPACITY], start: 0, end: 0, large: None }
    }

    /// What is there, unconsumed.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    /// Gives up the first `len` bytes, which are there.
    pub(crate) fn consume(&mut self, len: usize) {
        self.start += len;
        debug_assert!(self.start <= self.end, "only what is there is consumed");
    }

    /// Begins to gather a payload of `len` bytes, first from what is there, then from the socket.
    pub(crate) fn begin_large(&mut self, len: usize) {
        let mut bytes = BytesMut::with_capacity(len);
        let here = len.min(self.bytes().len());
        bytes.put_slice(&self.bytes()[..here]);
        self.consume(here);
        self.large = Some(Large { bytes, missing: len - here });
    }

    /// The large payload, if it is whole.
    pub(crate) fn take_large(&mut self) -> Option<Bytes> {
        self.large.take_if(|large| large.missing == 0).map(|large| large.bytes.freeze())
    }

    /// Reads what the socket has; 0 is its end. The caller has consumed whole requests, so there is room.
    pub(crate) fn poll_receive<S: AsyncRead + Unpin>(
        &mut self,
        socket: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Some(large) = &mut self.large {
            let mut rest = (&mut large.bytes).limit(large.missing);
            let read = ready!(poll_read_buf(Pin::new(socket), cx, &mut rest))?;
            large.missing -= read;
            return Poll::Ready(Ok(read));
        }
        self.make_room();
        debug_assert!(self.end < self.buf.len(), "a read into no room would look like the end");
        let mut room = ReadBuf::new(&mut self.buf[self.end..]);
        ready!(Pin::new(socket).poll_read(cx, &mut room))?;
        let read = room.filled().len();
        self.end += read;
        Poll::Ready(Ok(read))
    }

    /// Moves what is there to the front when less than half of the buffer is free behind it.
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.start > 0 && self.buf.len() - self.end < CAPACITY / 2 {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }
}
