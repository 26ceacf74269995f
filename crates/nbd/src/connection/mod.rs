//! The transmission phase of one connection.
//!
//! One task owns the socket in both directions. It reads what is there, answers every whole request in
//! it, and sends all answers together. What the device can do at once is done in place: a warm read is
//! a copy out of the device into the buffer that is sent, with no allocation, no channel and no other
//! task. Everything else runs as a task of its own, whose reply comes back here.
//!
//! **Memory** of a connection is bounded by its buffers (some 5 MiB when used to the full) and
//! [`Limits::connection_bytes`]: a connection that holds that much reads nothing until it holds less, so
//! a client that does not read its replies stalls itself alone.
//!
//! **Cancel safety**: dropping the future of [`serve`] closes the socket and cancels what is in flight,
//! within what [`BlockDevice`] promises for that.

mod input;
mod ops;
mod output;

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use gabion_store_core::BlockDevice;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::{
    input::{Input, MAX_BUFFERED},
    ops::{Answer, Job},
    output::Output,
};
use crate::{
    limits::Limits,
    proto::{
        cmd, cmd_flag,
        reply::{SimpleReply, empty},
        request::Request,
    },
    terms::{Op, Terms},
};

/// Unsent replies beyond which no further request is looked at, in bytes.
const HIGH_WATER: usize = 1 << 20;
/// Largest read that is answered in place, in bytes: with [`HIGH_WATER`], the bound of the reply buffer.
const MAX_READ_IN_PLACE: u32 = 2 << 20;
/// Bytes received and sent after which other tasks get a turn.
const TURN: usize = 8 << 20;

/// A finished request: its reply, and the bytes it was charged with.
struct Done {
    reply: Vec<u8>,
    charge: usize,
}

/// One connection, from the end of its handshake.
struct Connection<'a, S> {
    socket: &'a mut S,
    device: Arc<dyn BlockDevice>,
    answer: Answer,
    terms: Terms,
    limits: Limits,
    input: Input,
    output: Output,
    in_flight: JoinSet<Done>,
    /// Bytes charged to requests in flight.
    charged: usize,
    /// Payload of a refused write that is still to be drained, in bytes.
    skip: u64,
    /// The write whose payload the input gathers.
    large: Option<Request>,
    /// The next request has to wait for room.
    blocked: bool,
    /// No further request is taken: what is in flight is finished and answered, then the socket closes.
    closing: bool,
}

/// Serves a connection until the client disconnects or hangs up, or until `stop`, which finishes what is
/// in flight. An `InvalidData` error is a client that does not speak the protocol.
pub(crate) async fn serve<S>(
    socket: &mut S,
    device: Arc<dyn BlockDevice>,
    terms: Terms,
    limits: Limits,
    stop: &CancellationToken,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = Connection {
        socket,
        device,
        answer: Answer { structured: terms.structured },
        terms,
        limits,
        input: Input::new(),
        output: Output::default(),
        in_flight: JoinSet::new(),
        charged: 0,
        skip: 0,
        large: None,
        blocked: false,
        closing: false,
    };
    let mut stopped = pin!(stop.cancelled());
    poll_fn(|cx| {
        if !connection.closing && stopped.as_mut().poll(cx).is_ready() {
            connection.closing = true;
        }
        connection.poll(cx)
    })
    .await
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    /// Does all that can be done now. Pending only when everything that is waited for is.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut turn = 0;
        loop {
            self.serve_received()?;
            // Behind what starts requests: an empty set would wake nobody.
            let mut progress = self.poll_finished(cx)?;
            if self.output.pending() > 0
                && let Poll::Ready(sent) = self.output.poll_send(self.socket, cx)?
            {
                turn += sent;
                progress = true;
            }
            if self.closing {
                if self.in_flight.is_empty() && self.output.pending() == 0 {
                    return Poll::Ready(Ok(()));
                }
            } else if !self.blocked
                && let Poll::Ready(received) = self.input.poll_receive(self.socket, cx)?
            {
                if received == 0 {
                    debug!("client hung up without a disconnect");
                    return Poll::Ready(Ok(()));
                }
                turn += received;
                progress = true;
            }
            if !progress {
                return Poll::Pending;
            }
            if turn >= TURN {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    /// Queues the replies of requests that finished elsewhere.
    fn poll_finished(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut progress = false;
        while let Poll::Ready(Some(finished)) = self.in_flight.poll_join_next(cx) {
            // Without its reply the client would wait for ever.
            let Done { reply, charge } =
                finished.map_err(|error| io::Error::other(format!("a request did not finish: {error}")))?;
            self.charged -= charge;
            self.output.push_own(reply);
            progress = true;
        }
        Ok(progress)
    }

    /// Answers or starts every request that is there whole, as far as there is room for more.
    fn serve_received(&mut self) -> io::Result<()> {
        self.blocked = false;
        while !self.closing {
            if self.skip > 0 {
                let here = self.input.bytes().len();
                let step = usize::try_from(self.skip).map_or(here, |skip| skip.min(here));
                self.input.consume(step);
                self.skip -= step as u64;
                if self.skip > 0 {
                    break;
                }
            }
            if let Some(request) = self.large {
                let Some(payload) = self.input.take_large() else { break };
                self.large = None;
                self.charged -= payload.len();
                self.start_write(&request, payload);
            }
            let Some(header) = self.input.bytes().first_chunk() else { break };
            if self.output.pending() >= HIGH_WATER || self.in_flight.len() >= self.limits.in_flight.max(1) {
                self.blocked = true;
                break;
            }
            let request = Request::parse(header)
                .map_err(|violation| io::Error::new(io::ErrorKind::InvalidData, violation))?;
            if !self.serve_request(&request) {
                break;
            }
        }
        Ok(())
    }

    /// Answers or starts the request whose header stands first in the input. False if it is left there,
    /// for want of the rest of it or (blocked) of room.
    fn serve_request(&mut self, request: &Request) -> bool {
        let length = request.length as usize;
        match self.terms.check(request) {
            Err(refusal) => {
                debug!(?request, why = refusal.why, "request refused");
                self.input.consume(Request::LEN);
                if request.command == cmd::WRITE {
                    self.skip = u64::from(request.length);
                }
                let reply = self.answer.failure(request.cookie, refusal.errno, refusal.why);
                self.output.push(&reply);
            }
            Ok(Op::Read) if length == 0 => {
                self.input.consume(Request::LEN);
                if self.terms.structured {
                    self.output.push(&empty(request.cookie));
                } else {
                    self.push_success(request);
                }
            }
            Ok(Op::Write { .. }) if length > MAX_BUFFERED => {
                if !self.affords(length) {
                    return false;
                }
                self.input.consume(Request::LEN);
                self.input.begin_large(length);
                self.charged += length;
                self.large = Some(*request);
            }
            Ok(Op::Write { fua }) => {
                let whole = Request::LEN + length;
                let Some(payload) = self.input.bytes().get(Request::LEN..whole) else { return false };
                if length == 0 {
                    self.input.consume(whole);
                    self.push_success(request);
                } else if !fua && let Some(result) = self.device.try_write(request.offset, payload) {
                    self.input.consume(whole);
                    match result {
                        Ok(()) => self.push_success(request),
                        Err(error) => {
                            let reply = self.answer.device_failure(request, &error);
                            self.output.push(&reply);
                        }
                    }
                } else {
                    if !self.affords(length) {
                        return false;
                    }
                    let payload = Bytes::copy_from_slice(&self.input.bytes()[Request::LEN..whole]);
                    self.input.consume(whole);
                    self.start_write(request, payload);
                }
            }
            Ok(Op::Read) => {
                if !self.read_in_place(request) {
                    if !self.affords(length) {
                        return false;
                    }
                    self.start(request, Job::Read, length);
                }
                self.input.consume(Request::LEN);
            }
            Ok(Op::Disconnect) => self.closing = true,
            Ok(op) => {
                self.input.consume(Request::LEN);
                match Job::of(op) {
                    // Nothing to do, so nothing to wait for.
                    Some(job) if length > 0 || matches!(job, Job::Flush) => self.start(request, job, 0),
                    _ => self.push_success(request),
                }
            }
        }
        true
    }

    /// Answers a read that needs no waiting. False if it needs some.
    fn read_in_place(&mut self, request: &Request) -> bool {
        if request.length > MAX_READ_IN_PLACE {
            return false;
        }
        let prefix = self.answer.read_prefix_len();
        let whole = prefix + request.length as usize;
        let room = self.output.room(whole);
        match self.device.try_read(request.offset, &mut room[prefix..]) {
            None => return false,
            Some(Ok(())) => {
                self.answer.write_read_prefix(request, &mut room[..prefix]);
                self.output.commit(whole);
            }
            // Nothing was committed: the room is used again for the error.
            Some(Err(error)) => {
                let reply = self.answer.device_failure(request, &error);
                self.output.push(&reply);
            }
        }
        true
    }

    /// Whether a request may hold `length` bytes more. If not, it has to wait.
    fn affords(&mut self, length: usize) -> bool {
        let held = self.charged + self.output.pending();
        self.blocked = held > 0 && held + length > self.limits.connection_bytes;
        !self.blocked
    }

    fn push_success(&mut self, request: &Request) {
        self.output.push(&SimpleReply { error: 0, cookie: request.cookie }.encode());
    }

    fn start_write(&mut self, request: &Request, payload: Bytes) {
        let charge = payload.len();
        let fua = request.flags & cmd_flag::FUA != 0;
        self.start(request, Job::Write { payload, fua }, charge);
    }

    /// Runs a request as a task of its own.
    fn start(&mut self, request: &Request, job: Job, charge: usize) {
        self.charged += charge;
        let (device, answer, request) = (Arc::clone(&self.device), self.answer, *request);
        self.in_flight.spawn(async move {
            let reply = job.run(&*device, answer, &request).await;
            Done { reply, charge }
        });
    }
}
