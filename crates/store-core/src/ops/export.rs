//! A disk out of a store, byte for byte.

use futures::{StreamExt, stream};

use super::{Job, Progress};
use crate::{BLOCK_SIZE, BlockRange, Error, ErrorKind, Result, index::Index, volume::IndexBase};

/// Bytes of disk read at a time.
const PIECE: u64 = 2 * 1024 * 1024;
/// Pieces read at once.
const WIDTH: usize = 4;

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

/// Writes the disk of `index`, of `size` bytes, to a sink, and gives the sink back.
///
/// **Errors**: a chunk that can't be had ends the export; no zeros stand in for it.
pub async fn export<S: DiskSink>(index: &Index, size: u64, mut sink: S, job: &Job) -> Result<(S, Exported)> {
    let base = IndexBase::new(index.clone());
    let mut runs = Runs { index: index.clone(), size, at: 0 };
    let mut pieces = Vec::new();
    let mut done = Exported::default();
    loop {
        job.check()?;
        pieces.clear();
        while pieces.len() < 4 * WIDTH {
            let Some(run) = runs.next().await? else { break };
            pieces.push(run);
        }
        if pieces.is_empty() {
            break;
        }
        let mut read = stream::iter(pieces.drain(..))
            .map(|run| {
                let base = base.clone();
                async move { tokio::spawn(read_run(base, run)).await.map_err(died)? }
            })
            .buffered(WIDTH);
        while let Some(piece) = read.next().await {
            let piece = piece?;
            done.size += piece.len();
            if let Piece::Data(bytes) = &piece {
                done.data += bytes.len() as u64;
            }
            sink = tokio::task::spawn_blocking(move || {
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
    }
    Ok((sink, done))
}

fn died(error: tokio::task::JoinError) -> Error {
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
}

impl Runs {
    async fn next(&mut self) -> Result<Option<Run>> {
        let (start, mut zero) = (self.at, None);
        while self.at < self.size {
            let range = BlockRange::covering(self.at, self.size - self.at);
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
