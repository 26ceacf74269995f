//! A volume's life: writes of every shape, flushes, checkpoints, growth, and processes that are killed.

use std::{collections::VecDeque, path::Path, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{
    BLOCK_SIZE, BlockDevice as _, BlockRange, CheckpointId, Result, device::ZeroMode, testing::Rng,
};
use gabion_store_local::fs::{CrashFs, CrashImage, CrashPoint, Fs, MemFs};
use parking_lot::Mutex;

use super::{
    budget::Budget,
    disk::Disk,
    rig::{self, Opened, whole},
};

/// No multiple of a block or a sector.
const SIZE: usize = 40 * BLOCK_SIZE + 700;
const STEPS: usize = 24;
/// Images looked at for each point.
const IMAGES: usize = 14;

/// What there is to hold an image against.
#[derive(Clone)]
pub(crate) struct Model {
    pub(crate) disk: Disk,
    /// Checkpoints that were reported, and what they hold.
    pub(crate) checkpoints: Vec<(CheckpointId, Arc<Vec<u8>>)>,
    /// One that is being made holds this.
    pub(crate) making: Option<Arc<Vec<u8>>>,
    /// The disk is being made larger.
    growing: Option<usize>,
}

/// A volume on a file system that can crash, and what is known of it.
pub(crate) struct Life {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) crash: CrashFs,
    pub(crate) model: Arc<Mutex<Model>>,
    pub(crate) points: Arc<Mutex<VecDeque<(CrashPoint, Model)>>>,
    pub(crate) rng: Rng,
}

impl Life {
    pub(crate) fn new(seed: u64, size: usize) -> Self {
        let crash = CrashFs::new(Arc::new(MemFs::new()), Path::new("/"), seed).unwrap();
        let fs: Arc<dyn Fs> = Arc::new(crash.clone());
        rig::make(&fs, size).unwrap();
        let model = Model { disk: Disk::new(size), checkpoints: Vec::new(), making: None, growing: None };
        let life = Self {
            fs,
            crash,
            model: Arc::new(Mutex::new(model)),
            points: Arc::default(),
            rng: Rng::new(seed),
        };
        let (model, points) = (life.model.clone(), life.points.clone());
        life.crash.observe(move |point| points.lock().push_back((point, model.lock().clone())));
        life
    }

    /// A step of a request's kind.
    pub(crate) async fn request(&mut self, opened: &Opened) {
        let size = self.model.lock().disk.size();
        let offset = self.rng.below(size);
        let len = 1 + self.rng.below((size - offset).min(3 * BLOCK_SIZE));
        match self.rng.below(8) {
            0..=2 => self.write(opened, offset, len).await,
            3 | 4 => {
                let block = offset / BLOCK_SIZE * BLOCK_SIZE;
                let len = (len.div_ceil(BLOCK_SIZE) * BLOCK_SIZE).min(size - block);
                self.write(opened, block, len).await;
            }
            5 => {
                let whole = BlockRange::within(offset as u64, len as u64, size as u64);
                let (from, to) =
                    ((whole.start as usize) * BLOCK_SIZE, (whole.end as usize * BLOCK_SIZE).min(size));
                self.zeroing(from, to.saturating_sub(from), opened.volume.trim(offset as u64, len as u64))
                    .await;
            }
            6 => {
                let mode = ZeroMode { no_hole: self.rng.below(2) == 0, fast: false };
                let zeroes = opened.volume.write_zeroes(offset as u64, len as u64, mode);
                self.zeroing(offset, len, zeroes).await;
            }
            _ => {
                // As with FUA: the request, and a flush of it.
                self.write(opened, offset, len).await;
                self.flush(opened).await;
            }
        }
    }

    async fn write(&mut self, opened: &Opened, offset: usize, len: usize) {
        let bytes = self.rng.bytes(len);
        self.model.lock().disk.begin(offset, &bytes);
        match opened.volume.try_write(offset as u64, &bytes) {
            Some(done) => done.unwrap(),
            None => opened.volume.write(offset as u64, Bytes::from(bytes)).await.unwrap(),
        }
        self.model.lock().disk.answer(offset, len);
    }

    async fn zeroing(&mut self, offset: usize, len: usize, request: impl Future<Output = Result<()>>) {
        self.model.lock().disk.begin(offset, &vec![0; len]);
        request.await.unwrap();
        self.model.lock().disk.answer(offset, len);
    }

    pub(crate) async fn flush(&mut self, opened: &Opened) {
        let mark = self.model.lock().disk.mark();
        opened.volume.flush().await.unwrap();
        self.model.lock().disk.promise(&mark);
    }

    pub(crate) async fn checkpoint(&mut self, opened: &Opened) {
        let (mark, content) = {
            let mut model = self.model.lock();
            let content = Arc::new(model.disk.bytes());
            model.making = Some(content.clone());
            (model.disk.mark(), content)
        };
        let id = opened.checkpoint().await.unwrap();
        let mut model = self.model.lock();
        model.disk.promise(&mark);
        model.checkpoints.push((id, content));
        model.making = None;
    }

    async fn grow(&mut self, opened: &Opened) {
        let size = {
            let mut model = self.model.lock();
            let size = model.disk.size() + 1 + self.rng.below(3 * BLOCK_SIZE);
            model.growing = Some(size);
            size
        };
        opened.volume.grow(size as u64).await.unwrap();
        let mut model = self.model.lock();
        model.disk.grow(size);
        model.growing = None;
    }

    /// The process is killed, and another one opens the volume; the machine goes on.
    async fn killed(&mut self, opened: Opened) -> Opened {
        drop(opened);
        let opened = rig::open(&self.fs).await.unwrap();
        let shown = whole(&opened.volume).await.unwrap();
        {
            let mut model = self.model.lock();
            model.disk.check(&shown).unwrap();
            model.disk.recovered(&shown);
        }
        if self.rng.below(2) == 0 {
            // What was in memory only is seen from now on, so this flush is about it, too.
            self.flush(&opened).await;
        }
        opened
    }

    pub(crate) async fn assert_shown(&self, opened: &Opened) {
        assert!(whole(&opened.volume).await.unwrap() == self.model.lock().disk.bytes());
    }
}

/// Opens an image, holds it against the model, and gives what its disk shows.
pub(crate) async fn survive(fs: &Arc<dyn Fs>, model: &Model) -> Result<(Opened, Vec<u8>), String> {
    let opened = rig::open(fs).await.map_err(|e| format!("it does not open: {}", e.report()))?;
    let shown = whole(&opened.volume).await.map_err(|e| format!("it can't be read: {}", e.report()))?;
    let disk = &model.disk;
    if shown.len() != disk.size() && Some(shown.len()) != model.growing {
        return Err(format!("it has {} bytes", shown.len()));
    }
    disk.check(&shown)?;
    if shown[disk.size().min(shown.len())..].iter().any(|&byte| byte != 0) {
        return Err("what it grew by is not zero".into());
    }
    let history = opened.history().await.map_err(|e| format!("its image can't be read: {}", e.report()))?;
    let reported: Vec<_> = model.checkpoints.iter().map(|(id, _)| *id).collect();
    if history.get(..reported.len()) != Some(&reported) || history.len() > reported.len() + 1 {
        return Err(format!("the image has {history:?}, and {reported:?} were reported"));
    }
    let more = history.get(reported.len()).map(|id| {
        let made = model.making.as_ref().ok_or("a checkpoint that nobody made")?;
        Ok::<_, String>((*id, made.clone()))
    });
    let newest = more.transpose()?.or_else(|| model.checkpoints.last().cloned());
    if let Some((id, content)) = newest {
        let found = opened.content(id).await.map_err(|e| format!("checkpoint {id}: {}", e.report()))?;
        if found != *content {
            return Err(format!("checkpoint {id} holds something else"));
        }
    }
    Ok((opened, shown))
}

/// What is done with an image beside looking at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum More {
    Nothing,
    /// The store is checked.
    Check,
    /// The disk goes on: what is written to it now is as it must be.
    GoOn,
    /// Recovery crashes, at each of its operations.
    CrashAgain,
}

/// Looks at some images of a point; how many, and how many more inside of these.
async fn survive_point(point: &CrashPoint, model: &Model, rng: &mut Rng, images: usize) -> (usize, usize) {
    let (mut count, mut nested) = (0, 0);
    for image in point.images(rng.next(), images) {
        count += 1;
        let more = match rng.below(16) {
            0 | 1 => More::Check,
            2 | 3 => More::GoOn,
            4 => More::CrashAgain,
            _ => More::Nothing,
        };
        let what = image.to_string();
        let survived = survive_image(image, model, rng, more).await;
        nested += survived.unwrap_or_else(|why| panic!("{what}, {more:?}: {why}"));
    }
    (count, nested)
}

async fn survive_image(image: CrashImage, model: &Model, rng: &mut Rng, more: More) -> Result<usize, String> {
    let fs = image.into_fs();
    if more == More::CrashAgain {
        return crash_again(fs, model, rng).await;
    }
    let (opened, shown) = survive(&fs, model).await?;
    match more {
        More::Check => opened.check().await?,
        More::GoOn => go_on(&fs, opened, shown, rng).await?,
        More::Nothing | More::CrashAgain => {}
    }
    Ok(0)
}

/// Writes parts of blocks and trims some, flushes, and finds exactly that after a start.
async fn go_on(fs: &Arc<dyn Fs>, opened: Opened, mut shown: Vec<u8>, rng: &mut Rng) -> Result<(), String> {
    for _ in 0..4 {
        let offset = rng.below(shown.len());
        let len = 1 + rng.below((shown.len() - offset).min(5000));
        let bytes = rng.bytes(len);
        shown[offset..offset + len].copy_from_slice(&bytes);
        opened.volume.write(offset as u64, Bytes::from(bytes)).await.map_err(|e| e.to_string())?;
    }
    opened.volume.flush().await.map_err(|e| e.to_string())?;
    drop(opened);
    let opened = rig::open(fs).await.map_err(|e| e.report())?;
    let now = whole(&opened.volume).await.map_err(|e| e.report())?;
    match now.iter().zip(&shown).position(|(a, b)| a != b) {
        Some(at) => Err(format!("what was written after recovery is not there, at {at}")),
        None => Ok(()),
    }
}

/// Recovers an image and lets each operation of the recovery be the last: another recovery ends the same.
async fn crash_again(fs: Arc<dyn Fs>, model: &Model, rng: &mut Rng) -> Result<usize, String> {
    let again = CrashFs::new(fs, Path::new("/"), 1).map_err(|e| e.to_string())?;
    let points = again.record();
    let (_, shown) = survive(&(Arc::new(again) as Arc<dyn Fs>), model).await?;
    let mut count = 0;
    for point in points.take() {
        for image in point.images(rng.next(), 4) {
            count += 1;
            let what = format!("in recovery, {image}");
            let (_, now) = survive(&image.into_fs(), model).await.map_err(|why| format!("{what}: {why}"))?;
            if now != shown {
                return Err(format!("{what}: it shows something else than after the first recovery"));
            }
        }
    }
    Ok(count)
}

/// Looks at the points that a life has left.
pub(crate) async fn survive_all(life: &mut Life, budget: &mut Budget) {
    life.crash.unobserve();
    let points = std::mem::take(&mut *life.points.lock());
    for (point, model) in points {
        let (images, nested) = survive_point(&point, &model, &mut life.rng, IMAGES).await;
        budget.point(images);
        budget.nested(nested);
    }
}

/// Power loss after each operation of a random life: flushed bytes are there, all else is old or new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_survives_power_loss_at_every_operation() {
    let mut budget = Budget::new("a_volume_survives_power_loss_at_every_operation", 40);
    while let Some(seed) = budget.round() {
        let mut life = Life::new(seed, SIZE);
        let mut opened = rig::open(&life.fs).await.unwrap();
        for _ in 0..STEPS {
            match life.rng.below(12) {
                0..=6 => life.request(&opened).await,
                7 | 8 => life.flush(&opened).await,
                9 => life.checkpoint(&opened).await,
                10 => opened = life.killed(opened).await,
                _ => life.grow(&opened).await,
            }
        }
        life.assert_shown(&opened).await;
        drop(opened);
        survive_all(&mut life, &mut budget).await;
    }
    budget.end();
}
