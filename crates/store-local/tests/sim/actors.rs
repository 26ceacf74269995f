//! Who takes part: clients of the disk, who makes checkpoints, and another host. Each future is one thing that one of
//! them does; it tells the model when it begins and how it ends, and may be dropped at any moment.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{
    BLOCK_SIZE, BlockDevice, BlockRange, CheckpointId, ErrorKind, Store,
    clock::Clock,
    device::ZeroMode,
    index::NodeCache,
    ops::{
        ImageRef, Job, Revision, Side, TransferOptions, claim_as_found, open_checkpoint, remove, transfer,
    },
    overlay::MemoryOverlay,
    replicate::Replicator,
    stores::MemoryStore,
    testing::Rng,
    volume::{Append, Base, Home, IndexBase, Volume},
};
use gabion_store_local::{fs::Fs, store::LocalStore};
use parking_lot::Mutex;

use super::{
    facts::{Facts, Trouble, wrong},
    model::{End, Time},
    world::{self, IMAGE, STAGED, content, name, options, through},
};

/// Where a request of a client writes, for as long as it is in flight.
pub(crate) type Writing = Arc<Mutex<Option<(Time, usize, usize)>>>;

/// A client, for one request.
pub(crate) struct Client {
    pub(crate) number: usize,
    pub(crate) facts: Facts,
    pub(crate) device: Arc<dyn BlockDevice>,
    pub(crate) writing: Writing,
    pub(crate) rng: Rng,
    /// The home store, if a flush reaches it.
    pub(crate) home: Option<Store>,
}

impl Client {
    pub(crate) async fn request(mut self) -> Result<(), Trouble> {
        self.facts.count(|counts| counts.requests += 1);
        let (offset, len) = self.facts.model.lock().disk.range(&mut self.rng, 3 * BLOCK_SIZE);
        match self.rng.below(16) {
            0..=3 => self.read(offset, len).await,
            4..=6 => self.write(offset, len).await,
            7..=9 => {
                let size = self.facts.model.lock().disk.size();
                let block = offset / BLOCK_SIZE * BLOCK_SIZE;
                let len = (len.div_ceil(BLOCK_SIZE) * BLOCK_SIZE).min(size - block);
                self.write(block, len).await
            }
            10 => self.trim(offset, len).await,
            11 | 12 => self.zeroes(offset, len).await,
            13 => {
                // As with FUA: the request, and a flush of it.
                self.write(offset, len).await?;
                self.flush().await
            }
            _ => self.flush().await,
        }
    }

    fn note(&self, what: &str) {
        self.facts.note(format!("client {}: {what}", self.number));
    }

    async fn read(&self, offset: usize, len: usize) -> Result<(), Trouble> {
        self.note(&format!("reads {len} at {offset}"));
        let since = self.facts.model.lock().disk.look();
        let mut bytes = vec![0xEE; len];
        let read = match self.device.try_read(offset as u64, &mut bytes) {
            Some(read) => read,
            None => self.device.read(offset as u64, &mut bytes).await,
        };
        let model = &mut *self.facts.model.lock();
        let shown = model.disk.check_read(since, offset, &bytes);
        model.disk.seen(since);
        read?;
        shown.or_else(|why| wrong(format!("a read of {len} at {offset} since {since}: {why}")))
    }

    /// A range that can be written to.
    fn begin(
        &self,
        offset: usize,
        len: usize,
        bytes: impl FnOnce(usize) -> Vec<u8>,
    ) -> Option<(Time, usize, Vec<u8>)> {
        let model = &mut *self.facts.model.lock();
        let (offset, len) = model.disk.writable(offset, len)?;
        let bytes = bytes(len);
        let begin = model.disk.begin(offset, &bytes);
        *self.writing.lock() = Some((begin, offset, len));
        Some((begin, offset, bytes))
    }

    fn end(&self, done: gabion_store_core::Result<()>) -> Result<(), Trouble> {
        let how = if done.is_ok() { End::Done } else { End::Unknown };
        if let Some((begin, offset, len)) = self.writing.lock().take() {
            self.facts.model.lock().disk.end(begin, offset, len, how);
            self.note(&format!("that of {begin} is {how:?}"));
        }
        Ok(done?)
    }

    async fn write(&mut self, offset: usize, len: usize) -> Result<(), Trouble> {
        let mut rng = Rng::new(self.rng.next());
        let Some((begin, offset, bytes)) = self.begin(offset, len, |len| rng.bytes(len)) else {
            return Ok(());
        };
        self.note(&format!("{begin}: writes {} at {offset}", bytes.len()));
        let at_once =
            if self.rng.below(2) == 0 { self.device.try_write(offset as u64, &bytes) } else { None };
        let done = match at_once {
            Some(done) => done,
            None => self.device.write(offset as u64, Bytes::from(bytes)).await,
        };
        self.end(done)
    }

    async fn trim(&self, offset: usize, len: usize) -> Result<(), Trouble> {
        let size = self.facts.model.lock().disk.size();
        let whole = BlockRange::within(offset as u64, len as u64, size as u64);
        let from = whole.start as usize * BLOCK_SIZE;
        let zeros = (whole.end as usize * BLOCK_SIZE).min(size).saturating_sub(from);
        if zeros == 0 {
            return Ok(self.device.trim(offset as u64, len as u64).await?);
        }
        let Some((begin, ..)) = self.begin(from, zeros, |len| vec![0; len]) else { return Ok(()) };
        self.note(&format!("{begin}: trims {len} at {offset}, which are {zeros} at {from}"));
        let done = self.device.trim(offset as u64, len as u64).await;
        self.end(done)
    }

    async fn zeroes(&mut self, offset: usize, len: usize) -> Result<(), Trouble> {
        let Some((begin, offset, zeros)) = self.begin(offset, len, |len| vec![0; len]) else { return Ok(()) };
        let mode = ZeroMode { no_hole: self.rng.below(2) == 0, fast: false };
        self.note(&format!("{begin}: zeroes {} at {offset}, {mode:?}", zeros.len()));
        let done = self.device.write_zeroes(offset as u64, zeros.len() as u64, mode).await;
        self.end(done)
    }

    async fn flush(&self) -> Result<(), Trouble> {
        let (begin, from) = {
            let model = &mut *self.facts.model.lock();
            (model.disk.tick(), self.home.is_some().then(|| model.begin_cut()))
        };
        self.note(&format!("{begin}: flushes"));
        let done = self.device.flush().await;
        let cut = {
            let model = &mut *self.facts.model.lock();
            if done.is_ok() {
                model.disk.flushed(begin);
            }
            from.map(|from| model.end_cut(from))
        };
        done?;
        self.note(&format!("that of {begin} is flushed"));
        self.facts.count(|counts| counts.flushes += 1);
        let (Some(cut), Some(home)) = (cut, &self.home) else { return Ok(()) };
        // It has reached home, too, if nobody took the image away meanwhile.
        let Some(found) = home.index.read_image(&name(IMAGE)).await? else { return Ok(()) };
        if self.facts.model.lock().displaced.is_some() {
            return Ok(());
        }
        let newest = found.value.history[0].checkpoint;
        let held = content(home, newest).await.map_err(|e| Trouble::Wrong(e.report()))?;
        // Others may have published more of it since.
        let later = self.facts.is_asked(&held, begin);
        cut.check(&held).or(later).or_else(|why| wrong(format!("home has {newest} after a flush: {why}")))
    }
}

/// Who makes checkpoints of the volume.
pub(crate) struct Keeper {
    pub(crate) facts: Facts,
    pub(crate) volume: Volume,
    pub(crate) home: Home,
    pub(crate) replicator: Arc<Replicator>,
    /// The home store as another host sees it.
    pub(crate) truth: Store,
}

impl Keeper {
    /// A checkpoint by hand. The image gets it, or it is staged if home is out of reach.
    pub(crate) async fn checkpoint(self, image: &'static str, beside: Arc<dyn Fs>) -> Result<(), Trouble> {
        let own = image == IMAGE;
        if own && self.replicator.displaced().is_some() {
            return Ok(());
        }
        let append = if own { self.replicator.append() } else { Append::Any };
        let options = options(image, 7, append);
        let (from, removals) = {
            let model = &mut *self.facts.model.lock();
            (model.begin_cut(), model.removals(image))
        };
        self.facts.note(format!("keeper, {from}: a checkpoint of {image}"));
        let job = Job::default();
        let frozen = self.volume.freeze(&self.home, &options, &job).await;
        let cut = {
            let model = &mut *self.facts.model.lock();
            if frozen.is_ok() {
                model.disk.flushed(from);
            }
            model.end_cut(from)
        };
        let frozen = frozen?;
        self.facts.note(format!("keeper: that of {from} is frozen"));
        let error = match frozen.publish(&self.home, &options, &job).await {
            Ok(made) => {
                self.facts.note(format!("keeper: that of {from} is {}", made.checkpoint));
                let held = content(&self.truth, made.checkpoint).await;
                let held =
                    held.map_err(|e| Trouble::Wrong(format!("{}: {}", made.checkpoint, e.report())))?;
                if own && append == Append::Any {
                    // Whoever claims nothing may append to what others own.
                    self.facts.model.lock().displaced = None;
                }
                return self.reported(image, made.checkpoint, removals, held, |held| cut.check(held));
            }
            Err(error) => error,
        };
        if error.kind() != ErrorKind::Unavailable {
            return Err(error.into());
        }
        LocalStore::destroy(&*beside, Path::new(STAGED))?;
        let beside = LocalStore::init(beside, Path::new(STAGED), &*self.home.clock)?.into_store();
        let staging = through(&beside, &self.home)?;
        let made = frozen.stage(&staging, &options, &job).await?;
        self.facts.note(format!("keeper: that of {from} is staged as {}", made.checkpoint));
        self.facts.count(|counts| counts.staged += 1);
        // It is read with what can be had of home, which here is all.
        let home =
            Home { store: self.truth.clone(), nodes: nodes(&self.truth), clock: self.home.clock.clone() };
        let held = content(&through(&beside, &home)?.store, made.checkpoint).await?;
        cut.check(&held).or_else(|why| wrong(format!("staged {}: {why}", made.checkpoint)))
    }

    /// A round of replication.
    pub(crate) async fn round(self) -> Result<(), Trouble> {
        let (from, removals, displaced) = {
            let model = &mut *self.facts.model.lock();
            (model.begin_cut(), model.removals(IMAGE), model.displaced.clone())
        };
        self.facts.note(format!("replication, {from}: a round"));
        // Of a round that nobody waited for, too.
        let before = self.replicator.status().replicated.map(|before| before.checkpoint);
        let done = self.replicator.round().await;
        let cut = {
            let model = &mut *self.facts.model.lock();
            if done.is_ok() {
                model.disk.flushed(from);
            }
            model.end_cut(from)
        };
        done?;
        let Some(last) = self.replicator.status().replicated else {
            return wrong("a round published nothing");
        };
        if let (Some((other, owners)), Some(found)) =
            (displaced, self.truth.index.read_image(&name(IMAGE)).await?)
        {
            // Newest first.
            let place = |id| found.value.history.iter().position(|entry| entry.checkpoint == id);
            let above =
                place(last.checkpoint).is_some_and(|ours| place(other).is_some_and(|others| ours < others));
            if above && self.replicator.status().epoch.is_some_and(|ours| owners.contains(&ours)) {
                return wrong(format!(
                    "{} was published by a writer whom {other} displaced",
                    last.checkpoint
                ));
            }
        }
        self.facts.note(format!("replication: that of {from} is {}", last.checkpoint));
        let held = content(&self.truth, last.checkpoint).await;
        let held = held.map_err(|e| Trouble::Wrong(format!("{}: {}", last.checkpoint, e.report())))?;
        if before == Some(last.checkpoint) {
            // It found nothing to do, asked nobody, and would not hear of a removal.
            return cut.check(&held).or_else(|why| wrong(format!("checkpoint {}: {why}", last.checkpoint)));
        }
        self.reported(IMAGE, last.checkpoint, removals, held, |held| cut.check(held))
    }

    fn reported(
        &self,
        image: &str,
        id: CheckpointId,
        removals: usize,
        held: Vec<u8>,
        check: impl FnOnce(&[u8]) -> Result<(), String>,
    ) -> Result<(), Trouble> {
        check(&held).or_else(|why| wrong(format!("checkpoint {id} of '{image}': {why}")))?;
        // A round that finds nothing to do asks nobody, and would not hear of a removal.
        if self.facts.contents.lock().insert(id, Arc::new(held)).is_none() {
            self.facts.model.lock().reported(image, id, removals);
        }
        self.facts.count(|counts| {
            counts.checkpoints += 1;
            counts.compared += 1;
        });
        Ok(())
    }
}

fn nodes(store: &Store) -> Arc<NodeCache> {
    Arc::new(NodeCache::new(store.chunks.clone(), 1 << 20))
}

/// Another host, which sees the home store and nothing of the machine.
pub(crate) struct Other {
    pub(crate) facts: Facts,
    pub(crate) truth: Store,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) rng: Rng,
}

impl Other {
    /// Looks at an image: what was reported is there, and all of it is what was asked for.
    pub(crate) async fn look(self, image: &'static str) -> Result<(), Trouble> {
        let before = self.facts.model.lock().images.get(image).cloned().unwrap_or_default();
        let found = self.truth.index.read_image(&name(image)).await?;
        let history: Vec<_> =
            found.iter().flat_map(|found| &found.value.history).rev().map(|entry| entry.checkpoint).collect();
        let complete = before.must.iter().all(|id| history.contains(id));
        if !complete && self.facts.model.lock().removals(image) == before.removals {
            return wrong(format!("'{image}' has {history:?}, and {:?} were reported", before.must));
        }
        for id in history {
            let known = self.facts.contents.lock().get(&id).cloned();
            if known.is_some() && self.rng.clone().below(8) > 0 {
                continue;
            }
            let held = content(&self.truth, id).await;
            let held =
                held.map_err(|e| Trouble::Wrong(format!("checkpoint {id} of '{image}': {}", e.report())))?;
            self.facts.count(|counts| counts.compared += 1);
            match known {
                Some(known) if *known == held => {}
                Some(_) => return wrong(format!("checkpoint {id} of '{image}' has changed")),
                None => {
                    self.facts
                        .is_asked(&held, 0)
                        .or_else(|why| wrong(format!("checkpoint {id} of '{image}': {why}")))?;
                    self.facts.contents.lock().insert(id, Arc::new(held));
                }
            }
        }
        Ok(())
    }

    /// Pulls the newest checkpoint of an image, and reads it from there alone.
    pub(crate) async fn pull(self, image: &'static str) -> Result<(), Trouble> {
        let Some(found) = self.truth.index.read_image(&name(image)).await? else { return Ok(()) };
        let id = found.value.history[0].checkpoint;
        let here = Arc::new(MemoryStore::new(&*self.clock)?).store();
        let what = ImageRef { name: name(image), revision: Revision::Id(id.to_string()) };
        let (from, to) = (Side { store: &self.truth, place: "home" }, Side { store: &here, place: "here" });
        let job = Job::default();
        let pulled =
            transfer(from, to, &what, &name(image), &*self.clock, TransferOptions::default(), &job).await;
        if self.truth.index.read_image(&name(image)).await?.is_none() {
            // It was removed meanwhile.
            return Ok(());
        }
        pulled.map_err(|e| Trouble::Wrong(format!("a pull of '{image}': {}", e.report())))?;
        let (held, known) = (content(&here, id).await?, content(&self.truth, id).await?);
        self.facts.count(|counts| counts.compared += 1);
        if held == known { Ok(()) } else { wrong(format!("{id} was pulled, and is another disk")) }
    }

    /// Takes the volume's image over, and goes on from it.
    pub(crate) async fn take_over(mut self) -> Result<(), Trouble> {
        let Some(found) = self.truth.index.read_image(&name(IMAGE)).await? else { return Ok(()) };
        let removals = self.facts.model.lock().removals(IMAGE);
        let (epoch, before) = loop {
            let Some(found) = self.truth.index.read_image(&name(IMAGE)).await? else { return Ok(()) };
            let before = found.value.writer_epoch;
            match claim_as_found(&self.truth, found).await {
                Ok(epoch) => break (epoch, before),
                Err(e) if e.kind() == ErrorKind::Conflict => {}
                Err(e) => return Err(e.into()),
            }
        };
        // Whatever was under way may have been published before.
        let found = self.truth.index.read_image(&name(IMAGE)).await?.unwrap_or(found);
        let newest = found.value.history[0].checkpoint;
        self.facts.note(format!("another host takes over {newest} with epoch {epoch}, after {before}"));
        let nodes = nodes(&self.truth);
        let (checkpoint, index) = open_checkpoint(&nodes, newest).await?;
        let mut held = content(&self.truth, newest).await?;
        let overlay = Arc::new(MemoryOverlay::new(checkpoint.size));
        let base = Base::Index(IndexBase::new(index));
        let volume = Volume::writable("another volume", overlay, base, Some(newest), checkpoint.size);
        let bytes = self.rng.bytes(600);
        held[..600].copy_from_slice(&bytes);
        volume.write(0, Bytes::from(bytes)).await?;
        self.facts.foreign.lock().push(Arc::new(held.clone()));
        let home = Home { store: self.truth.clone(), nodes, clock: self.clock.clone() };
        let made =
            volume.checkpoint(&home, &options(IMAGE, 9, Append::Owner(epoch)), &Job::default()).await?;
        self.facts.note(format!("another host has published {}", made.checkpoint));
        self.facts.count(|counts| counts.displaced += 1);
        if content(&self.truth, made.checkpoint).await? != held {
            return wrong(format!("{} of another host holds something else", made.checkpoint));
        }
        self.facts.contents.lock().insert(made.checkpoint, Arc::new(held));
        let model = &mut *self.facts.model.lock();
        model.reported(IMAGE, made.checkpoint, removals);
        let mut owners = model.displaced.take().map_or_else(BTreeSet::new, |(_, owners)| owners);
        owners.insert(before);
        model.displaced = Some((made.checkpoint, owners));
        Ok(())
    }

    /// Removes an image.
    pub(crate) async fn remove(self, image: &'static str) -> Result<(), Trouble> {
        {
            let model = &mut *self.facts.model.lock();
            let image = model.images.entry(image.to_owned()).or_default();
            image.must.clear();
            image.removals += 1;
        }
        self.facts.note(format!("another host removes {image}"));
        let removed = remove(&self.truth, &name(image)).await;
        let model = &mut *self.facts.model.lock();
        let entry = model.images.entry(image.to_owned()).or_default();
        entry.must.clear();
        entry.removals += 1;
        if image == IMAGE {
            model.displaced = None;
        }
        Ok(removed?)
    }
}

/// Everything that a volume shows.
pub(crate) async fn show(volume: &Volume) -> Result<Vec<u8>, Trouble> {
    Ok(world::whole(volume).await?)
}
