//! What was asked of a cloud, counted.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use serde::Serialize;

use crate::{Class, Operation};

/// Requests kept one by one; later ones are only counted.
const MAX_ENTRIES: usize = 100_000;

/// Requests of one operation on one kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The operation.
    pub operation: Operation,
    /// The kind of object.
    pub class: Class,
    /// Requests, answered or not.
    pub requests: u64,
    /// Those that were answered with an error, or not at all.
    pub failed: u64,
    /// Bytes of bodies received.
    pub bytes_in: u64,
    /// Bytes of bodies sent.
    pub bytes_out: u64,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// What it did.
    pub operation: Operation,
    /// To which key, or below which prefix.
    pub key: String,
    /// Value of its `Range` header.
    pub range: Option<String>,
    /// The status of the answer; 0 if there was none.
    pub status: u16,
}

/// What was asked since the start or the last reset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// One row per operation and kind of object that was asked for.
    pub rows: Vec<Row>,
    /// Connections accepted.
    pub connections: u64,
    /// Faults that happened.
    pub faults: u64,
    /// The first 100,000 requests, in the order of their answers.
    #[serde(skip)]
    pub entries: Vec<Entry>,
}

impl Stats {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.rows.iter().map(|row| row.requests).sum()
    }

    /// Requests of one operation.
    pub fn of(&self, operation: Operation) -> u64 {
        self.rows.iter().filter(|row| row.operation == operation).map(|row| row.requests).sum()
    }

    /// Requests on one kind of object.
    pub fn on(&self, class: Class) -> u64 {
        self.rows.iter().filter(|row| row.class == class).map(|row| row.requests).sum()
    }

    /// Requests of one operation on one kind of object.
    pub fn of_on(&self, operation: Operation, class: Class) -> u64 {
        let row = self.rows.iter().find(|row| (row.operation, row.class) == (operation, class));
        row.map_or(0, |row| row.requests)
    }

    /// Bytes of bodies received.
    pub fn bytes_in(&self) -> u64 {
        self.rows.iter().map(|row| row.bytes_in).sum()
    }

    /// Bytes of bodies sent.
    pub fn bytes_out(&self) -> u64 {
        self.rows.iter().map(|row| row.bytes_out).sum()
    }
}

/// Where a cloud counts.
#[derive(Debug, Default)]
pub(crate) struct Counters(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    rows: BTreeMap<(Operation, Class), Row>,
    connections: u64,
    faults: u64,
    entries: Vec<Entry>,
}

impl Counted {
    fn row(&mut self, operation: Operation, class: Class) -> &mut Row {
        let empty = Row { operation, class, requests: 0, failed: 0, bytes_in: 0, bytes_out: 0 };
        self.rows.entry((operation, class)).or_insert(empty)
    }
}

impl Counters {
    pub(crate) fn connection(&self) {
        self.0.lock().connections += 1;
    }

    pub(crate) fn fault(&self) {
        self.0.lock().faults += 1;
    }

    /// A request has arrived whole.
    pub(crate) fn asked(&self, operation: Operation, class: Class, bytes: u64) {
        let mut counted = self.0.lock();
        let row = counted.row(operation, class);
        row.requests += 1;
        row.bytes_in += bytes;
    }

    /// A request is about to be answered, or (status 0) not.
    pub(crate) fn answered(&self, entry: Entry) {
        let mut counted = self.0.lock();
        // A read of what has not changed is no failure.
        if !(200..400).contains(&entry.status) {
            counted.row(entry.operation, Class::of(&entry.key)).failed += 1;
        }
        if counted.entries.len() < MAX_ENTRIES {
            counted.entries.push(entry);
        }
    }

    pub(crate) fn sent(&self, operation: Operation, class: Class, bytes: u64) {
        self.0.lock().row(operation, class).bytes_out += bytes;
    }

    pub(crate) fn read(&self) -> Stats {
        let counted = self.0.lock();
        Stats {
            rows: counted.rows.values().copied().collect(),
            connections: counted.connections,
            faults: counted.faults,
            entries: counted.entries.clone(),
        }
    }

    pub(crate) fn reset(&self) {
        *self.0.lock() = Counted::default();
    }
}
