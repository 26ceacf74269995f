//! Connections and requests on their way to a bucket and back.

use std::{
    fmt,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::{Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::{
    body::Body,
    cloud::{Power, State},
    control,
    faults::Fault,
    operation::Class,
    rest::{Answer, Ask},
    stats::Entry,
};

/// Largest body that is read: as the largest single upload to S3.
const MAX_BODY: u64 = 5 << 30;
/// Reserved for a body before it has arrived, at most.
const RESERVED: u64 = 64 << 20;
/// A connection's buffer of what it reads.
const READ_BUFFER: usize = 1 << 20;

/// Serves until the power is off.
pub(crate) async fn run(state: Arc<State>, listener: TcpListener, mut power: watch::Receiver<Power>) {
    let mut connections = JoinSet::new();
    loop {
        let now = *power.borrow_and_update();
        if now != Power::On {
            // Sockets are reset, not closed: see `Wire`.
            connections.shutdown().await;
        }
        if now == Power::Off {
            return;
        }
        tokio::select! {
            changed = power.changed() => if changed.is_err() { return },
            accepted = listener.accept() => {
                let Ok((socket, _)) = accepted else { continue };
                let wire = Wire::new(socket);
                if now == Power::On {
                    state.counters.connection();
                    connections.spawn(connection(Arc::clone(&state), wire));
                }
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn connection(state: Arc<State>, wire: Wire) {
    let reset = Arc::clone(&wire.reset);
    let service = service_fn(move |request| {
        let (state, reset) = (Arc::clone(&state), Arc::clone(&reset));
        async move {
            reset.store(true, Ordering::Relaxed);
            let answer = handle(&state, request).await;
            reset.store(answer.is_err(), Ordering::Relaxed);
            answer
        }
    });
    // How it ended is the client's business.
    let _ =
        http1::Builder::new().max_buf_size(READ_BUFFER).serve_connection(TokioIo::new(wire), service).await;
}

/// A socket that is reset, not closed, when it is dropped while a request has no answer yet.
struct Wire {
    socket: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Wire {
    fn new(socket: TcpStream) -> Self {
        // Without it things are slower, and that is all.
        let _ = socket.set_nodelay(true);
        Self { socket, reset: Arc::new(AtomicBool::new(true)) }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            let _ = self.socket.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

/// A request is answered by a reset of its connection.
#[derive(Debug)]
struct Reset;

impl fmt::Display for Reset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("reset, as told")
    }
}

impl std::error::Error for Reset {}

async fn handle(state: &Arc<State>, request: Request<Incoming>) -> Result<Response<Body>, Reset> {
    let (head, body) = request.into_parts();
    let Some(ask) = Ask::read(&head.method, &head.uri, &head.headers) else {
        let Ok(body) = receive(body, None).await else { return Err(Reset) };
        return Ok(control::answer(state, &head.method, head.uri.path(), &body));
    };
    let class = Class::of(&ask.key);
    let body = receive(body, Some(state)).await.map_err(|_| Reset)?;
    state.counters.asked(ask.operation, class, body.len() as u64);
    let latency = *state.latency.lock();
    if !latency.is_zero() {
        tokio::time::sleep(latency).await;
    }
    let answered = answer(state, &ask, body).await;
    let status = answered.as_ref().map_or(0, |answered| answered.status().as_u16());
    let range = ask.range().map(str::to_owned);
    state.counters.answered(Entry { operation: ask.operation, key: ask.key, range, status });
    answered
}

async fn answer(state: &Arc<State>, ask: &Ask, body: Bytes) -> Result<Response<Body>, Reset> {
    if state.access_key.lock().as_ref().is_some_and(|key| !ask.is_signed_by(key)) {
        return Ok(respond(state, ask, ask.error(403, "InvalidAccessKeyId"), false));
    }
    let strikes = state.faults.strike(ask.operation, &ask.key);
    let (before, after) = match strikes {
        None => (None, None),
        Some(befalls) => {
            state.counters.fault();
            // These are about the answer, so there has to be one.
            let of_answer = matches!(befalls.fault, Fault::Cut | Fault::Short | Fault::Flip);
            if befalls.after || of_answer { (None, Some(befalls.fault)) } else { (Some(befalls.fault), None) }
        }
    };
    if let Some(instead) = instead(state, ask, before.as_ref()).await? {
        return Ok(respond(state, ask, instead, false));
    }
    let mut answer = ask.run(&state.buckets, body).await;
    if let Some(instead) = instead(state, ask, after.as_ref()).await? {
        answer = instead;
    }
    match after {
        Some(Fault::Short) => answer.body.truncate(answer.body.len() / 2),
        Some(Fault::Flip) => answer.body = flipped(&answer.body),
        _ => {}
    }
    Ok(respond(state, ask, answer, after == Some(Fault::Cut)))
}

/// What is answered instead of what was asked for, if anything.
async fn instead(state: &State, ask: &Ask, fault: Option<&Fault>) -> Result<Option<Answer>, Reset> {
    Ok(match fault {
        None | Some(Fault::Cut | Fault::Short | Fault::Flip) => None,
        Some(Fault::Reset) => return Err(Reset),
        Some(Fault::Stall) => {
            state.stalls.pass().await;
            None
        }
        Some(Fault::Error { status, code }) => Some(ask.error(*status, code)),
        Some(Fault::ErrorBody) => Some(Answer { status: StatusCode::OK, ..ask.error(500, "InternalError") }),
    })
}

fn flipped(bytes: &Bytes) -> Bytes {
    let mut bytes = BytesMut::from(&bytes[..]);
    let middle = bytes.len() / 2;
    if let Some(byte) = bytes.get_mut(middle) {
        *byte ^= 0x10;
    }
    bytes.freeze()
}

fn respond(state: &Arc<State>, ask: &Ask, answer: Answer, cut: bool) -> Response<Body> {
    let body = Body::new(answer.body, state, ask.operation, Class::of(&ask.key));
    let mut response = Response::new(if cut { body.cut() } else { body });
    *response.status_mut() = answer.status;
    for (name, value) in answer.headers {
        // What does not fit into a header is left out.
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// A body is too long, or its client is gone.
struct Gone;

/// Reads a body, at the pace of the link of `state`.
async fn receive(mut body: Incoming, state: Option<&Arc<State>>) -> Result<Bytes, Gone> {
    let expected = hyper::body::Body::size_hint(&body).exact().unwrap_or(0);
    if expected > MAX_BODY {
        return Err(Gone);
    }
    let mut bytes = BytesMut::with_capacity(usize::try_from(expected.min(RESERVED)).unwrap_or(0));
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Gone)?.into_data() else { continue };
        if (bytes.len() + data.len()) as u64 > MAX_BODY {
            return Err(Gone);
        }
        bytes.extend_from_slice(&data);
        if let Some(until) = state.and_then(|state| state.up.take(data.len() as u64)) {
            tokio::time::sleep_until(until).await;
        }
    }
    Ok(bytes.freeze())
}
