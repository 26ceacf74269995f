//! Finding entries and reading them: what this handle put, what image maps tell, what the locators say.

use bytes::Bytes;
use gabion_store_core::{
    ChunkId, ChunkKind, Error, ErrorKind, IndexStore as _, Result,
    format::{codec::Encoded, rows::EntryKey},
    store::Placement,
};

use super::{RemoteStore, blocking, writer::Recent};

/// Stored bytes above which a batch is decoded off the runtime's own threads.
const DECODE_INLINE_MAX: usize = 256 << 10;

/// Entries that are being read: an answer or a question in each place.
struct Batch {
    keys: Vec<EntryKey>,
    answers: Vec<Option<Result<Encoded>>>,
    /// Where each was last looked for.
    places: Vec<Option<Placement>>,
}

impl Batch {
    fn new(kind: ChunkKind, ids: &[ChunkId]) -> Self {
        Self {
            keys: ids.iter().map(|id| EntryKey::new(kind, *id)).collect(),
            answers: vec![None; ids.len()],
            places: vec![None; ids.len()],
        }
    }

    /// Those without an answer that have no place, too.
    fn lost(&self) -> Vec<usize> {
        let lost = |&n: &usize| self.answers[n].is_none() && self.places[n].is_none();
        (0..self.keys.len()).filter(lost).collect()
    }

    /// Those without an answer that have a place.
    fn placed(&self) -> Vec<usize> {
        (0..self.keys.len()).filter(|&n| self.answers[n].is_none() && self.places[n].is_some()).collect()
    }

    /// Entries with their places, of those that have one.
    fn wanted(&self, of: &[usize]) -> Vec<(EntryKey, Placement)> {
        of.iter().filter_map(|&n| Some((self.keys[n], self.places[n]?))).collect()
    }

    fn keys(&self, of: &[usize]) -> Vec<EntryKey> {
        of.iter().map(|&n| self.keys[n]).collect()
    }

    /// Answers that say the store does not hold what it should, where it should.
    fn damaged(&self) -> Vec<usize> {
        let damaged = |&n: &usize| {
            matches!(&self.answers[n], Some(Err(e)) if e.kind() == ErrorKind::Corrupt)
                && self.places[n].is_some()
        };
        (0..self.keys.len()).filter(damaged).collect()
    }
}

impl RemoteStore {
    /// Entries in the form they are stored in, one result each in the order asked.
    pub(super) async fn fetch(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        let mut batch = Batch::new(kind, ids);
        for n in 0..ids.len() {
            match self.0.writer.recent(&batch.keys[n]) {
                Some(Recent::Memory(entry, _)) => batch.answers[n] = Some(Ok(entry)),
                Some(Recent::Placed(place)) => batch.places[n] = Some(place),
                None if kind == ChunkKind::Data => {}
                None => batch.answers[n] = self.0.windows.peek(&batch.keys[n]).map(Ok),
            }
        }
        if let Err(e) = self.fetch_placed(kind, &mut batch).await {
            for answer in batch.answers.iter_mut().filter(|answer| answer.is_none()) {
                *answer = Some(Err(e.clone()));
            }
        }
        let answers = batch.answers.into_iter().zip(batch.keys);
        answers.map(|(answer, key)| answer.unwrap_or_else(|| Err(self.absent(&key)))).collect()
    }

    async fn fetch_placed(&self, kind: ChunkKind, batch: &mut Batch) -> Result<()> {
        // Maps first: they are in disk order, and those of an image are in memory soon.
        let lost = batch.lost();
        let keys = batch.keys(&lost);
        let mapped = match kind {
            _ if lost.is_empty() => Vec::new(),
            ChunkKind::Data => {
                let ids: Vec<ChunkId> = keys.iter().map(|key| key.id).collect();
                self.0.maps.find_chunks(&ids).await?
            }
            _ => self.0.maps.find_nodes(&keys).await?,
        };
        for (n, place) in lost.into_iter().zip(mapped) {
            batch.places[n] = place.filter(|place| !self.0.damaged.is(&batch.keys[n], place.pack));
        }
        let lost = batch.lost();
        if !lost.is_empty() {
            if self.0.locators.live().is_none() {
                self.read_catalog().await?;
            }
            self.find(batch, &lost).await?;
        }
        self.read(batch).await;
        // What was not there may have been repacked or added since the catalog was read.
        let mut again = batch.damaged();
        let before: Vec<_> = again.iter().map(|&n| (n, batch.places[n], batch.answers[n].take())).collect();
        again.iter().for_each(|&n| batch.places[n] = None);
        again.extend(batch.lost());
        again.sort_unstable();
        again.dedup();
        if again.is_empty() {
            return Ok(());
        }
        let reloaded = self.read_catalog().await;
        let found = match reloaded {
            Ok(_) => self.find(batch, &again).await,
            Err(e) => Err(e),
        };
        // A place that failed and is still the only one has failed for good.
        for (n, place, answer) in before {
            if batch.places[n].is_none() || batch.places[n] == place {
                batch.answers[n] = answer;
                batch.places[n] = place;
            }
        }
        found?;
        self.read(batch).await;
        for n in batch.damaged() {
            if let Some(place) = batch.places[n] {
                self.0.damaged.add(batch.keys[n], place.pack);
                self.0.writer.forget(&batch.keys[n], place.pack);
            }
        }
        Ok(())
    }

    /// Looks for entries in the locators.
    async fn find(&self, batch: &mut Batch, which: &[usize]) -> Result<()> {
        let found = self.0.locators.find(&batch.keys(which)).await?;
        for (&n, place) in which.iter().zip(found) {
            match place {
                Ok(place) => batch.places[n] = place,
                Err(e) => batch.answers[n] = Some(Err(e)),
            }
        }
        Ok(())
    }

    /// Reads what has a place and no answer.
    async fn read(&self, batch: &mut Batch) {
        let mut open = batch.placed();
        if batch.keys.first().is_some_and(|key| key.kind != ChunkKind::Data) {
            for (n, found) in open.iter().zip(self.0.windows.get(&batch.wanted(&open)).await) {
                batch.answers[*n] = found.map(Ok);
            }
            open = batch.placed();
        }
        for (n, answer) in open.iter().zip(self.0.packs.read(&batch.wanted(&open)).await) {
            batch.answers[*n] = Some(answer);
        }
    }

    fn absent(&self, key: &EntryKey) -> Error {
        Error::not_found(format!("entry {} is not in the store {}", key.id, self.0.objects.place()))
    }
}

/// Decodes entries; many of them where blocking is allowed.
pub(super) async fn decode(ids: &[ChunkId], entries: Vec<Result<Encoded>>) -> Vec<Result<Bytes>> {
    let stored: usize = entries.iter().flatten().map(|entry| entry.bytes.len()).sum();
    let ids = ids.to_vec();
    let count = ids.len();
    let decode = move || -> Vec<Result<Bytes>> {
        let decode = |(id, entry): (ChunkId, Result<Encoded>)| {
            entry?.decode().map_err(|e| e.context(format!("entry {id} can't be decoded")))
        };
        ids.into_iter().zip(entries).map(decode).collect()
    };
    if stored <= DECODE_INLINE_MAX {
        return decode();
    }
    blocking(move || Ok(decode())).await.unwrap_or_else(|e| vec![Err(e); count])
}
