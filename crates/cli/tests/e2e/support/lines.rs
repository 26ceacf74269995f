//! Lines of a child's output, awaited with a deadline and kept for the failure message.

use std::io::{BufRead, BufReader, Read};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

/// The lines that a reader yields, read by a thread of their own until its end.
#[derive(Debug)]
pub(crate) struct Lines {
    what: String,
    receiver: Receiver<String>,
    seen: Vec<String>,
}

impl Lines {
    pub(crate) fn of(what: impl Into<String>, reader: impl Read + Send + 'static) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            let mut line = Vec::new();
            while let Ok(1..) = reader.read_until(b'\n', &mut line) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if sender.send(text).is_err() {
                    return;
                }
            }
        });
        Self { what: what.into(), receiver, seen: Vec::new() }
    }

    /// The first value that `wanted` finds in a line from here on. An error tells why there is none, with all
    /// lines so far.
    pub(crate) fn find<T>(
        &mut self,
        timeout: Duration,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + timeout;
        loop {
            let why = match self.receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    let found = wanted(&line);
                    self.seen.push(line);
                    match found {
                        Some(found) => return Ok(found),
                        None => continue,
                    }
                }
                Err(RecvTimeoutError::Timeout) => format!("nothing that was waited for in {timeout:?}"),
                Err(RecvTimeoutError::Disconnected) => "ended".to_owned(),
            };
            return Err(self.tell(&why));
        }
    }

    /// Waits for the end of the output, which is that of the process unless it handed its output on.
    pub(crate) fn ended(&mut self, timeout: Duration) -> Result<(), String> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
                Err(RecvTimeoutError::Timeout) => {
                    return Err(self.tell(&format!("still there after {timeout:?}")));
                }
            }
        }
    }

    fn tell(&mut self, why: &str) -> String {
        let lines = self.all();
        format!("{}: {why}; its lines:\n{lines}", self.what)
    }

    /// Every line so far.
    pub(crate) fn all(&mut self) -> String {
        self.seen.extend(self.receiver.try_iter());
        self.seen.join("\n")
    }
}
