//! Flushing: from "answered" to "survives a crash".
//!
//! A flush of a layer captures the changed blocks, syncs their bytes, and journals exactly what it
//! captured. Callers share flushes: at most one runs and one waits. Whoever arrives while one runs joins
//! the one that waits, since the running one may have captured before that caller's writes.

use std::sync::Arc;

use gabion_store_core::{
    Error, ErrorKind, Result, blocking::spawn_blocking, overlay::BlockStates, sync::Mutex,
};
use tokio::sync::watch;

use super::{
    Inner, io_error,
    journal::Journal,
    layer::{Captured, LocalLayer},
};

/// Tells those who wait how a flush ended.
type Outcome = watch::Receiver<Option<Result<()>>>;

/// The flush that runs and the one that waits.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// A thread is flushing, and will take what waits.
    running: bool,
    waiting: Option<Waiting>,
}

/// A flush that has captured nothing yet.
#[derive(Debug)]
struct Waiting {
    sender: watch::Sender<Option<Result<()>>>,
    outcome: Outcome,
}

impl Default for Waiting {
    fn default() -> Self {
        let (sender, outcome) = watch::channel(None);
        Self { sender, outcome }
    }
}

/// The thread that flushes. If it never starts, or panics, the gate is freed and those who wait hear of
/// it, because their sender goes.
struct Running {
    gate: Arc<Gate>,
    /// It left the gate in order; since then another thread may run.
    ended: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let mut state = self.gate.0.lock();
            state.running = false;
            state.waiting = None;
        }
    }
}

/// Flushes, or joins a flush that has captured nothing yet. The flush goes on if the caller does not.
pub(super) async fn flush(inner: &Arc<Inner>) -> Result<()> {
    let mut outcome = {
        let mut state = inner.gate.0.lock();
        let outcome = state.waiting.get_or_insert_default().outcome.clone();
        if !std::mem::replace(&mut state.running, true) {
            let running = Running { gate: inner.gate.clone(), ended: false };
            let inner = inner.clone();
            // Detached: its outcome reaches all who wait through the channel.
            drop(spawn_blocking(move || run(running, inner)));
        }
        outcome
    };
    let stopped = || Error::new(ErrorKind::Unavailable, "the flush was stopped with its runtime");
    let done = outcome.wait_for(Option::is_some).await.map_err(|_| stopped())?;
    done.clone().unwrap_or_else(|| Err(stopped()))
}

/// Runs what waits until nothing does.
fn run(mut running: Running, inner: Arc<Inner>) {
    let mut next = running.gate.0.lock().waiting.take();
    while let Some(Waiting { sender, outcome }) = next {
        // Taken, so that nobody joins any more; only now are blocks captured.
        drop(outcome);
        let result = flush_layers(&inner);
        {
            let mut state = running.gate.0.lock();
            next = state.waiting.take();
            state.running = next.is_some();
        }
        if next.is_none() {
            running.ended = true;
            // Before the answer: whoever then drops the overlay has released its lock.
            drop(inner);
            sender.send_replace(Some(result));
            return;
        }
        sender.send_replace(Some(result));
    }
}

fn flush_layers(inner: &Inner) -> Result<()> {
    inner.health.check()?;
    let layers = inner.layers.read().clone();
    // Oldest first: what is above may rest on it.
    layers.iter().rev().try_for_each(|layer| flush_layer(inner, layer))
}

fn flush_layer(inner: &Inner, layer: &LocalLayer) -> Result<()> {
    let Some(captured) = layer.capture() else { return Ok(()) };
    make_durable(inner, layer, &captured).map_err(|error| {
        layer.restore(&captured);
        match error.kind() {
            // No sync failed: the next flush does it all again.
            ErrorKind::NoSpace | ErrorKind::Poisoned => error,
            _ => inner.health.poison(error),
        }
    })
}

fn make_durable(inner: &Inner, layer: &LocalLayer, captured: &Captured) -> Result<()> {
    if captured.has_data() {
        // Before the journal says so, the bytes must be there.
        layer.sync_data()?;
    }
    if let Some(snapshot) = &captured.snapshot {
        match compact(inner, layer, snapshot) {
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                tracing::warn!(%error, "no space to compact the journal; going on with the long one");
            }
            done => return done,
        }
    }
    layer.append(captured)
}

/// Writes the layer's whole state into a new journal instead of a batch into the old one.
fn compact(inner: &Inner, layer: &LocalLayer, snapshot: &BlockStates) -> Result<()> {
    let mut record = inner.record.lock();
    let number = record.next_number;
    record.next_number += 1;
    let mut next = record.clone();
    let Some(at) = next.layers.iter().position(|files| files.layer == layer.number()) else {
        // Dropped meanwhile, because a store has all of it: nothing is owed.
        return Ok(());
    };
    next.layers[at].journal = number;
    let path = inner.folder.join(next.layers[at].journal_name());
    let switched = Journal::create(&*inner.fs, path.clone(), layer.number()).and_then(|journal| {
        layer.switch_journal(journal, snapshot, |batches| {
            next.layers[at].batches = batches;
            // The new name must be durable before the record leads to it.
            inner.fs.sync_dir(&inner.folder).map_err(|e| io_error("syncing", &inner.folder, e))?;
            inner.save(&mut record, next)
        })
    });
    match switched {
        Ok(old) => {
            inner.remove_file(old.path());
            Ok(())
        }
        Err(error) => {
            if inner.health.check().is_ok() {
                inner.remove_file(&path);
            }
            Err(error)
        }
    }
}
