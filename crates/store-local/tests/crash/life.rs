//! A volume's life, and what is known of it: writes of every shape, flushes, checkpoints, growth, processes that die.

use std::{collections::VecDeque, path::Path, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{
    BLOCK_SIZE, BlockDevice as _, BlockRange, CheckpointId, ErrorKind, Result, device::ZeroMode, testing::Rng,
};
use gabion_store_local::fs::{CrashFs, CrashPoint, FaultFs, Fs, FsFault, MemFs, On};
use parking_lot::Mutex;

use super::{
    disk::Disk,
    rig::{self, Opened, whole},
};

/// What there is to hold an image against.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) disk: Disk,
    /// Checkpoints that were reported, oldest first.
    pub(crate) reported: Vec<CheckpointId>,
    /// What checkpoints may hold: one for each that was asked for.
    pub(crate) asked: Vec<Arc<Vec<u8>>>,
    /// One that is being made while others write may hold any of these.
    pub(crate) asking: Option<Disk>,
    /// The disk is being made larger, or its process died meanwhile.
    pub(crate) growing: Option<usize>,
}

impl Model {
    /// A write is on its way.
    pub(crate) fn begin(&mut self, offset: usize, bytes: &[u8]) {
        self.disk.begin(offset, bytes);
        if let Some(asking) = &mut self.asking {
            asking.begin(offset, bytes);
        }
    }
}

pub(crate) type Points = Arc<Mutex<VecDeque<(CrashPoint, Model)>>>;

/// A volume on a file system that can crash, and what is known of it.
pub(crate) struct Life {
    /// Faults of the disk: below what knows how a crash ends.
    pub(crate) below: FaultFs,
    pub(crate) crash: CrashFs,
    pub(crate) model: Arc<Mutex<Model>>,
    pub(crate) points: Points,
    pub(crate) rng: Rng,
}

/// A process that has the volume open, and its own faults: those of a system call.
pub(crate) struct Process {
    pub(crate) faults: FaultFs,
    pub(crate) opened: Opened,
}

impl Life {
    /// A store and a volume of `size` zero bytes. From now on every operation leaves a point.
    pub(crate) fn new(seed: u64, size: usize) -> Self {
        let below = FaultFs::new(Arc::new(MemFs::new()));
        let crash = CrashFs::new(Arc::new(below.clone()), Path::new("/"), seed).unwrap();
        rig::make(&(Arc::new(crash.clone()) as Arc<dyn Fs>), size).unwrap();
        let model = Model {
            disk: Disk::new(size),
            reported: Vec::new(),
            asked: Vec::new(),
            asking: None,
            growing: None,
        };
        let (model, points) = (Arc::new(Mutex::new(model)), Points::default());
        let life = Self { below, crash, model, points, rng: Rng::new(seed) };
        let (model, points) = (life.model.clone(), life.points.clone());
        life.crash.observe(move |point| points.lock().push_back((point, model.lock().clone())));
        life
    }

    /// A process starts and opens the volume, once the one before is gone.
    pub(crate) async fn start(&mut self) -> Process {
        let faults = FaultFs::new(Arc::new(self.crash.clone()));
        let fs: Arc<dyn Fs> = Arc::new(faults.clone());
        let opened = loop {
            match rig::open(&fs).await {
                // The last threads of a process that was stopped still hold its lock.
                Err(e) if e.kind() == ErrorKind::Conflict => tokio::task::yield_now().await,
                opened => break opened.unwrap(),
            }
        };
        Process { faults, opened }
    }

    /// The process is killed, and another one opens the volume; the machine goes on.
    pub(crate) async fn restart(&mut self, process: Process) -> Process {
        kill(&process, 0);
        drop(process);
        let process = self.start().await;
        let shown = whole(&process.opened.volume).await.unwrap();
        {
            let mut model = self.model.lock();
            if Some(shown.len()) == model.growing {
                model.disk.grow(shown.len());
            }
            model.growing = None;
            assert_eq!(shown.len(), model.disk.size());
            model.disk.check(&shown).unwrap();
            model.disk.recovered(&shown);
        }
        if self.rng.below(2) == 0 {
            // What was in memory only is seen from now on, so this flush is about it, too.
            self.flush(&process).await.unwrap();
        }
        process
    }

    /// Any step but an end of the process.
    pub(crate) async fn step(&mut self, process: &Process) -> Result<()> {
        match self.rng.below(12) {
            0..=6 => self.request(process).await,
            7 | 8 => self.flush(process).await,
            9 => self.checkpoint(process).await,
            10 => process.opened.overlay.record_journals(),
            _ => self.grow(process).await,
        }
    }

    /// A request that writes, of any kind.
    pub(crate) async fn request(&mut self, process: &Process) -> Result<()> {
        let volume = &process.opened.volume;
        let size = self.model.lock().disk.size();
        let offset = self.rng.below(size);
        let len = 1 + self.rng.below((size - offset).min(3 * BLOCK_SIZE));
        match self.rng.below(8) {
            0..=2 => self.write(process, offset, len).await,
            3 | 4 => {
                let block = offset / BLOCK_SIZE * BLOCK_SIZE;
                let len = (len.div_ceil(BLOCK_SIZE) * BLOCK_SIZE).min(size - block);
                self.write(process, block, len).await
            }
            5 => self.trim(process, offset, len).await,
            6 => {
                let mode = ZeroMode { no_hole: self.rng.below(2) == 0, fast: false };
                self.zeroing(offset, len, volume.write_zeroes(offset as u64, len as u64, mode)).await
            }
            _ => {
                // As with FUA: the request, and a flush of it.
                self.write(process, offset, len).await?;
                self.flush(process).await
            }
        }
    }

    pub(crate) async fn write(&mut self, process: &Process, offset: usize, len: usize) -> Result<()> {
        let bytes = self.rng.bytes(len);
        self.model.lock().begin(offset, &bytes);
        match process.opened.volume.try_write(offset as u64, &bytes) {
            Some(done) => done?,
            None => process.opened.volume.write(offset as u64, Bytes::from(bytes)).await?,
        }
        self.model.lock().disk.answer(offset, len);
        Ok(())
    }

    pub(crate) async fn trim(&mut self, process: &Process, offset: usize, len: usize) -> Result<()> {
        let size = self.model.lock().disk.size();
        let whole = BlockRange::within(offset as u64, len as u64, size as u64);
        let from = whole.start as usize * BLOCK_SIZE;
        let to = (whole.end as usize * BLOCK_SIZE).min(size);
        let trim = process.opened.volume.trim(offset as u64, len as u64);
        self.zeroing(from, to.saturating_sub(from), trim).await
    }

    async fn zeroing(
        &mut self,
        offset: usize,
        len: usize,
        request: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        self.model.lock().begin(offset, &vec![0; len]);
        request.await?;
        self.model.lock().disk.answer(offset, len);
        Ok(())
    }

    pub(crate) async fn flush(&mut self, process: &Process) -> Result<()> {
        let mark = self.model.lock().disk.mark();
        process.opened.volume.flush().await?;
        self.model.lock().disk.promise(&mark);
        Ok(())
    }

    pub(crate) async fn checkpoint(&mut self, process: &Process) -> Result<()> {
        let content = whole(&process.opened.volume).await?;
        let mark = {
            let mut model = self.model.lock();
            model.asked.push(Arc::new(content));
            model.disk.mark()
        };
        let id = process.opened.checkpoint().await?;
        let mut model = self.model.lock();
        model.disk.promise(&mark);
        model.reported.push(id);
        Ok(())
    }

    pub(crate) async fn grow(&mut self, process: &Process) -> Result<()> {
        let size = {
            let mut model = self.model.lock();
            let size = model.disk.size() + 1 + self.rng.below(3 * BLOCK_SIZE);
            model.growing = Some(size);
            size
        };
        match process.opened.volume.grow(size as u64).await {
            Ok(()) => self.model.lock().disk.grow(size),
            // It may have been recorded all the same.
            Err(e) if e.kind() == ErrorKind::Poisoned => return Err(e),
            Err(e) => {
                self.model.lock().growing = None;
                return Err(e);
            }
        }
        self.model.lock().growing = None;
        Ok(())
    }

    /// After writes that failed half way, what the volume shows is what it was given.
    pub(crate) async fn settle(&mut self, process: &Process) {
        let shown = whole(&process.opened.volume).await.unwrap();
        let mut model = self.model.lock();
        model.disk.check(&shown).unwrap();
        model.disk.recovered(&shown);
    }

    /// Asserts that the volume shows what was written, as far as every write was answered.
    pub(crate) async fn assert_shown(&self, process: &Process) {
        assert!(whole(&process.opened.volume).await.unwrap() == self.model.lock().disk.bytes());
    }
}

/// Lets the process die after so many more changes: whatever it does then fails and has no effect.
pub(crate) fn kill(process: &Process, after: usize) {
    process.faults.fail(On::change().skip(after as u64).always(), FsFault::EIO);
}
