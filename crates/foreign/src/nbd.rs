//! A client of an NBD server.

use std::{
    collections::BTreeSet,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use gabion_nbd::{
    Limits, Server,
    proto::{
        BASE_ALLOCATION, IHAVEOPT, NBDMAGIC, OPTION_REPLY_MAGIC, REQUEST_MAGIC, chunk, cmd, opt, rep,
        reply::{ChunkHeader, SimpleReply},
        request::Request,
    },
};
use gabion_store_core::{
    BlockDevice, Error, ErrorKind, Result,
    device::{Allocation, DeviceInfo, StatusExtent, ZeroMode},
};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::{Builder, Runtime},
};

/// Size of the exports.
const SIZE: u64 = 1 << 14;
/// Bytes that waiting requests may hold: few, so that they wait for each other.
const HELD: usize = 4 << 10;
/// Times that the server gets a turn before the client hangs up.
const LAST_TURNS: u32 = 4;

/// A client from its first byte on.
pub(crate) fn handshake(bytes: &[u8]) {
    let sent = serve(&[bytes]);
    let greeting = [NBDMAGIC.to_be_bytes(), IHAVEOPT.to_be_bytes()].concat();
    assert!(sent.starts_with(&greeting));
}

/// A client that has chosen an export; the first byte says how replies are to look. Whatever it asks for, what it is
/// answered are whole replies to requests that it made.
pub(crate) fn requests(bytes: &[u8]) {
    let [choice, bytes @ ..] = bytes else { return };
    let structured = choice & 1 == 1;
    let sent = serve(&[&hello(structured, choice & 2 == 2), bytes]);
    let replies = after_handshake(&sent).expect("the export was granted");
    if structured { check_chunks(replies) } else { check_simple(replies, bytes) }
}

/// What a client sends to choose the default export.
fn hello(structured: bool, allocation: bool) -> Vec<u8> {
    let option = |code: u32, payload: &[u8]| {
        [&IHAVEOPT.to_be_bytes()[..], &code.to_be_bytes(), &(payload.len() as u32).to_be_bytes(), payload]
            .concat()
    };
    let mut bytes = vec![0, 0, 0, 3]; // fixed newstyle, no zeroes
    if structured {
        bytes.extend(option(opt::STRUCTURED_REPLY, &[]));
        if allocation {
            let query = BASE_ALLOCATION.as_bytes();
            let payload = [&[0; 4], &1_u32.to_be_bytes(), &(query.len() as u32).to_be_bytes(), query];
            bytes.extend(option(opt::SET_META_CONTEXT, &payload.concat()));
        }
    }
    bytes.extend(option(opt::GO, &[0; 6]));
    bytes
}

/// What follows the replies to the options, the last of which was granted.
fn after_handshake(sent: &[u8]) -> Option<&[u8]> {
    let mut rest = sent.get(8 + 8 + 2..)?;
    loop {
        let (head, behind) = rest.split_first_chunk::<20>()?;
        assert!(head.starts_with(&OPTION_REPLY_MAGIC.to_be_bytes()));
        let number = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
        rest = behind.get(number(16) as usize..)?;
        if (number(8), number(12)) == (opt::GO, rep::ACK) {
            return Some(rest);
        }
    }
}

/// Structured replies: whole chunks, each of a known kind, and simple replies to requests that ask for no bytes.
fn check_chunks(mut replies: &[u8]) {
    loop {
        while let Some((head, behind)) = replies.split_first_chunk()
            && SimpleReply::parse(head).is_ok()
        {
            replies = behind;
        }
        let Some((head, behind)) = replies.split_first_chunk() else { break };
        let header = ChunkHeader::parse(head).expect("a chunk");
        let (flags, length) = (header.flags, header.length as usize);
        let payload = behind.get(..length).expect("a chunk is whole");
        let right = match header.kind {
            chunk::NONE => length == 0,
            chunk::OFFSET_DATA => (9..=8 + SIZE as usize).contains(&length),
            chunk::BLOCK_STATUS => length >= 12 && length % 8 == 4,
            // An errno, and a text with its length.
            chunk::ERROR => payload.get(4..6).is_some_and(|text| {
                length == 6 + usize::from(u16::from_be_bytes(text.try_into().expect("two bytes")))
            }),
            _ => false,
        };
        assert!(right && flags == chunk::DONE, "a chunk {header:?}");
        replies = &behind[length..];
    }
    assert!(replies.is_empty(), "{} bytes of a chunk", replies.len());
}

/// Simple replies: what follows one depends on the request, which is looked for in what was sent. Cookies may be used
/// more than once, so that there may be several ways to read the replies: one of them has to end where they end.
fn check_simple(replies: &[u8], asked: &[u8]) {
    let requests: Vec<Request> = asked
        .windows(Request::LEN)
        .filter(|bytes| bytes.starts_with(&REQUEST_MAGIC.to_be_bytes()))
        .filter_map(|bytes| Request::parse(bytes.try_into().expect("its length")).ok())
        .collect();
    let mut ends = BTreeSet::from([0]);
    while let Some(end) = ends.pop_first() {
        if end == replies.len() {
            return;
        }
        let Some((head, behind)) = replies[end..].split_first_chunk() else { continue };
        let Ok(reply) = SimpleReply::parse(head) else { continue };
        for request in requests.iter().filter(|request| request.cookie == reply.cookie) {
            let data = if request.command == cmd::READ && reply.error == 0 { request.length } else { 0 };
            if data as usize <= behind.len() {
                ends.insert(end + SimpleReply::LEN + data as usize);
            }
        }
    }
    panic!("replies that nobody can read");
}

/// Sends the parts to a server one after the other and hangs up. The server ends; what it has sent.
fn serve(parts: &[&[u8]]) -> Vec<u8> {
    let limits = Limits { in_flight: 4, connection_bytes: HELD, ..Limits::default() };
    let disk = Arc::new(Memory::default());
    let exports = Server::builder()
        .export("", disk.clone())
        .export("other", disk)
        .description("the same again")
        .limits(limits);
    let questions = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    let mut client = Client { questions, turns: LAST_TURNS, answers: Vec::new() };
    // A client that does not speak the protocol is told so, by an error to the caller.
    let _ = block_on(exports.serve_stream(&mut client));
    client.answers
}

/// Runs a future to its end, on a runtime that is kept.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// The client's end of a stream.
#[derive(Debug)]
struct Client<'a> {
    /// What is to be sent.
    questions: Vec<&'a [u8]>,
    /// Turns that the server gets when all was sent.
    turns: u32,
    /// What came back.
    answers: Vec<u8>,
}

impl AsyncRead for Client<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(part) = self.questions.first_mut() else {
            // What is under way comes to its end before the client hangs up.
            if self.turns > 0 {
                self.turns -= 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(Ok(()));
        };
        let (now, later) = part.split_at(part.len().min(to.remaining()));
        to.put_slice(now);
        *part = later;
        if later.is_empty() {
            self.questions.remove(0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Client<'_> {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.answers.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A disk in memory that insists on what a device may rely on. Its first half answers at once, and a request that
/// touches its last byte fails.
#[derive(Debug)]
struct Memory(Mutex<Vec<u8>>);

impl Default for Memory {
    fn default() -> Self {
        Self(Mutex::new(vec![0; SIZE as usize]))
    }
}

/// The range of a request.
fn range(offset: u64, length: u64) -> Result<std::ops::Range<usize>> {
    assert!(length > 0 && offset <= SIZE && length <= SIZE - offset, "{offset}+{length} got past the server");
    if offset + length == SIZE {
        return Err(Error::new(ErrorKind::NoSpace, "the last byte of the disk is not there"));
    }
    Ok(offset as usize..(offset + length) as usize)
}

impl Memory {
    fn get(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        buf.copy_from_slice(&self.0.lock()[range(offset, buf.len() as u64)?]);
        Ok(())
    }

    fn put(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.0.lock()[range(offset, data.len() as u64)?].copy_from_slice(data);
        Ok(())
    }

    fn clear(&self, offset: u64, length: u64) -> Result<()> {
        self.0.lock()[range(offset, length)?].fill(0);
        Ok(())
    }
}

#[async_trait]
impl BlockDevice for Memory {
    fn info(&self) -> DeviceInfo {
        DeviceInfo { size: SIZE, read_only: false, durable_flush: true, fast_zero: true }
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Option<Result<()>> {
        (offset < SIZE / 2).then(|| self.get(offset, buf))
    }

    async fn read(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.get(offset, buf)
    }

    fn try_write(&self, offset: u64, data: &[u8]) -> Option<Result<()>> {
        (offset < SIZE / 2).then(|| self.put(offset, data))
    }

    async fn write(&self, offset: u64, data: Bytes) -> Result<()> {
        self.put(offset, &data)
    }

    async fn trim(&self, offset: u64, length: u64) -> Result<()> {
        self.clear(offset, length)
    }

    async fn write_zeroes(&self, offset: u64, length: u64, mode: ZeroMode) -> Result<()> {
        if mode.fast {
            return Err(Error::new(ErrorKind::Unsupported, "not any faster"));
        }
        self.clear(offset, length)
    }

    async fn flush(&self) -> Result<()> {
        Ok(())
    }

    async fn status(&self, offset: u64, length: u64, max: usize) -> Result<Vec<StatusExtent>> {
        range(offset, length)?;
        assert!(max > 0);
        let kinds = [Allocation::Data, Allocation::Hole, Allocation::Zero];
        let pieces = (0..length).step_by(512).zip(kinds.iter().cycle()).take(max);
        let extents =
            pieces.map(|(at, kind)| StatusExtent { length: (length - at).min(512), allocation: *kind });
        Ok(extents.collect())
    }
}
