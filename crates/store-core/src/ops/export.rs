//! A disk out of a store, byte for byte.

use std::pin::pin;

use futures::{StreamExt, stream};

use super::{Job, Progress};
use crate::{
    BLOCK_SIZE, BlockRange, Error, ErrorKind, Result, blocking::spawn_blocking, index::Index, sync::spawn,
    volume::IndexBase,
};

/// Bytes of disk read at a time.
const PIECE: u64 = 2 * 1024 * 1024;
/// Pieces read at once: what fills a link of 200 MB/s and 20 ms.
const WIDTH: usize = 8;
/// Blocks whose index is loaded together: 256 MiB of disk.
const INDEX_BLOCKS: u64 = 65_536;

/// Where an exported disk goes, from its start to its end. Methods may block.
pub trait DiskSink: Send + 'static {
    /// The next bytes.
    fn data(&mut self, bytes: &[u8]) -> Result<()>;
    /// So many zeros: a hole, where there can be one.
    fn zeros(&mut self, length: u64) -> Result<()>;
}

/// What was exported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes that were written as data.
    pub data: u64,
}

/// Writes a disk, of `size` bytes, to a sink, and gives the sink back. A store that is far away finds its chunks
/// by the maps that the disk has.
///
/// **Errors**: a chunk that can't be had ends the export; no zeros stand in for it.
pub async fn export<S: DiskSink>(
    disk: &IndexBase,
    size: u64,
    mut sink: S,
    job: &Job,
) -> Result<(S, Exported)> {
    let runs = Runs { index: disk.index().clone(), size, at: 0, loaded: 0 };
    let runs = stream::try_unfold(runs, |mut runs| async {
        let next = runs.next().await?;
        Ok::<_, Error>(next.map(|run| (run, runs)))
    });
    let read = runs.map(|run| {
        let disk = disk.clone();
        async move { spawn(read_run(disk, run?)).await.map_err(died)? }
    });
    let (mut read, mut done) = (pin!(read.buffered(WIDTH)), Exported::default());
    while let Some(piece) = read.next().await {
        job.check()?;
        let piece = piece?;
        done.size += piece.len();
        if let Piece::Data(bytes) = &piece {
            done.data += bytes.len() as u64;
        }
        sink = spawn_blocking(move || {
            match piece {
                Piece::Data(bytes) => sink.data(&bytes)?,
                Piece::Zeros(length) => sink.zeros(length)?,
            }
            Ok::<_, Error>(sink)
        })
        .await
        .map_err(died)??;
        job.report(Progress { done: done.size, total: Some(size), stored: done.data });
    }
    job.check()?;
    Ok((sink, done))
}

fn died(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::with_source(ErrorKind::Unavailable, "a worker of the export died", error)
}

enum Piece {
    Data(Vec<u8>),
    Zeros(u64),
}

impl Piece {
    fn len(&self) -> u64 {
        match self {
            Self::Data(bytes) => bytes.len() as u64,
            Self::Zeros(length) => *length,
        }
    }
}

/// A run of bytes that is all zero or is read in one go.
struct Run {
    start: u64,
    length: u64,
    zero: bool,
}

async fn read_run(base: IndexBase, run: Run) -> Result<Piece> {
    if run.zero {
        return Ok(Piece::Zeros(run.length));
    }
    let mut bytes = vec![0; run.length as usize];
    base.read(run.start, &mut bytes).await?;
    Ok(Piece::Data(bytes))
}

/// The disk as runs, in order; data in pieces of at most [`PIECE`].
struct Runs {
    index: Index,
    size: u64,
    at: u64,
    /// Block up to which the index was loaded.
    loaded: u64,
}

impl Runs {
    async fn next(&mut self) -> Result<Option<Run>> {
        let (start, mut zero) = (self.at, None);
        while self.at < self.size {
            let range = BlockRange::covering(self.at, self.size - self.at);
            if range.start >= self.loaded {
                self.loaded = range.start + INDEX_BLOCKS;
                self.index.load(&[BlockRange::new(range.start, self.loaded)]).await?;
            }
            let found = self.index.find(range).await?;
            let is_zero = found.target.is_none();
            if *zero.get_or_insert(is_zero) != is_zero {
                break;
            }
            self.at = (found.range.end * BLOCK_SIZE as u64).min(self.size);
            if !is_zero && self.at - start >= PIECE {
                self.at = self.at.min(start + PIECE);
                break;
            }
        }
        Ok(zero.map(|zero| Run { start, length: self.at - start, zero }))
    }
}
