//! Images of a life, each opened as after a start and held against what was known then.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use gabion_store_core::{BlockDevice as _, Error, testing::Rng};
use gabion_store_local::fs::{CrashFs, CrashImage, CrashPoint, Fs};

use super::{
    budget::Budget,
    life::{Life, Model},
    rig::{self, Opened, whole},
};

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
    let mut names = history.iter();
    if !model.reported.iter().all(|id| names.any(|found| found == id)) {
        return Err(format!("the image has {history:?}, and {:?} were reported", model.reported));
    }
    if let Some(id) = history.last() {
        let found = opened.content(*id).await.map_err(|e| format!("checkpoint {id}: {}", e.report()))?;
        let asking = || model.asking.as_ref().is_some_and(|asking| asking.check(&found).is_ok());
        if !model.asked.iter().any(|asked| **asked == found) && !asking() {
            return Err(format!("checkpoint {id} is none that was asked for"));
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

/// Looks at the points that a life has left, at most `images` of each.
pub(crate) async fn survive_all(life: &mut Life, budget: &mut Budget, images: usize) {
    life.crash.unobserve();
    let mut points = std::mem::take(&mut *life.points.lock());
    // What was promised since the last operation counts, too.
    points.push_back((life.crash.crash(), life.model.lock().clone()));
    for (point, model) in points {
        survive_point(&point, &model, &mut life.rng, budget, images).await;
    }
}

/// Gives each image of points, at most `images` of each, to `survive`, with what was known at that point.
pub(crate) async fn survive_each<M>(
    points: Vec<(CrashPoint, M)>,
    rng: &mut Rng,
    budget: &mut Budget,
    images: usize,
    survive: impl AsyncFn(Arc<dyn Fs>, &M) -> Result<(), String>,
) {
    for (point, model) in points {
        let mut count = 0;
        for image in point.images(rng.next(), images) {
            count += 1;
            let what = image.to_string();
            survive(image.into_fs(), &model).await.unwrap_or_else(|why| panic!("{what}: {why}"));
        }
        budget.point(count);
    }
}

async fn survive_point(point: &CrashPoint, model: &Model, rng: &mut Rng, budget: &mut Budget, images: usize) {
    let mut count = 0;
    for image in point.images(rng.next(), images) {
        count += 1;
        let more = match rng.below(16) {
            0 | 1 => More::Check,
            2 | 3 => More::GoOn,
            4 => More::CrashAgain,
            _ => More::Nothing,
        };
        let what = image.to_string();
        match survive_image(image, model, rng, more).await {
            Ok(nested) => budget.nested(nested),
            Err(why) => panic!("{what}, {more:?}: {why}"),
        }
    }
    budget.point(count);
}

async fn survive_image(image: CrashImage, model: &Model, rng: &mut Rng, more: More) -> Result<usize, String> {
    let fs = image.into_fs();
    if more == More::CrashAgain {
        return crash_again(fs, model, rng).await;
    }
    let (opened, shown) = survive(&fs, model).await?;
    match more {
        More::Check => opened.check().await?,
        More::GoOn => go_on(&fs, opened, shown, rng).await.map_err(|e| e.report())??,
        More::Nothing | More::CrashAgain => {}
    }
    Ok(0)
}

/// Writes parts of blocks, flushes, and finds exactly that after a start: what a block is filled up with is what it
/// showed, whatever bytes lie below.
async fn go_on(
    fs: &Arc<dyn Fs>,
    opened: Opened,
    mut shown: Vec<u8>,
    rng: &mut Rng,
) -> Result<Result<(), String>, Error> {
    for _ in 0..4 {
        let offset = rng.below(shown.len());
        let len = 1 + rng.below((shown.len() - offset).min(5000));
        let bytes = rng.bytes(len);
        shown[offset..offset + len].copy_from_slice(&bytes);
        opened.volume.write(offset as u64, Bytes::from(bytes)).await?;
    }
    opened.volume.flush().await?;
    drop(opened);
    let now = whole(&rig::open(fs).await?.volume).await?;
    Ok(match now.iter().zip(&shown).position(|(a, b)| a != b) {
        Some(at) => Err(format!("what was written after recovery is not there, at {at}")),
        None => Ok(()),
    })
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
