//! Bodies of answers: whole or cut, at the link's pace, without copies.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep, sleep_until};

use crate::{
    cloud::State,
    link::{Link, PIECE},
    operation::{Class, Operation},
};

/// Before a cut, so that what comes before it is sent.
const FLUSH: Duration = Duration::from_millis(5);

/// The body of an answer.
pub(crate) struct Body {
    rest: Bytes,
    /// What the answer says is the length.
    length: u64,
    cut: bool,
    counted: Option<(Arc<State>, Operation, Class)>,
    wait: Option<Pin<Box<Sleep>>>,
}

/// The body ended before its time, as it was told to.
#[derive(Debug)]
pub(crate) struct CutShort;

impl fmt::Display for CutShort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body is cut short")
    }
}

impl std::error::Error for CutShort {}

impl Body {
    /// A body that is neither counted nor held back.
    pub(crate) fn plain(bytes: Bytes) -> Self {
        Self { length: bytes.len() as u64, rest: bytes, cut: false, counted: None, wait: None }
    }

    /// A body that goes through the cloud's link, and is counted.
    pub(crate) fn new(bytes: Bytes, state: &Arc<State>, operation: Operation, class: Class) -> Self {
        Self { counted: Some((Arc::clone(state), operation, class)), ..Self::plain(bytes) }
    }

    /// The first half of it, and then the end of the connection.
    pub(crate) fn cut(mut self) -> Self {
        self.rest.truncate(self.rest.len() / 2);
        Self { cut: true, ..self }
    }

    fn link(&self) -> Option<&Link> {
        self.counted.as_ref().map(|(state, ..)| &state.down).filter(|link| link.is_limited())
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(context));
            self.wait = None;
        }
        if self.rest.is_empty() {
            return Poll::Ready(self.cut.then_some(Err(CutShort)));
        }
        let most = if self.link().is_some() { PIECE } else { usize::MAX };
        let at = self.rest.len().min(most);
        let piece = self.rest.split_to(at);
        self.wait = match self.link().and_then(|link| link.take(piece.len() as u64)) {
            Some(until) => Some(Box::pin(sleep_until(until))),
            None if self.cut && self.rest.is_empty() => Some(Box::pin(sleep(FLUSH))),
            None => None,
        };
        if let Some((state, operation, class)) = &self.counted {
            state.counters.sent(*operation, *class, piece.len() as u64);
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.length == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.length)
    }
}
