//! Which reads go through a disk from one end to the other, and what they will ask for next.
//!
//! Pure bookkeeping: no clock, no I/O. A *stream* is a row of reads, each of which goes on about where those before
//! it ended; several run side by side. What lies ahead of a stream is fetched in pieces, the next one when the
//! reader has come far enough, so that what is on its way follows the reader at a distance.
//!
//! **What it may cost**: the distance, and all that was fetched and then passed over, is at most half of what the stream
//! has read. So a stream that ends wastes no more than half of what it was good for, and reads here and there, which
//! never make a stream, waste nothing. Reads that find everything in memory are noted in some places only, so a reader
//! who jumps over less than a piece, or some regions, of what was fetched is not told from one who has read that.

use std::ops::Range;

/// Streams that are told apart.
const STREAMS: usize = 8;
/// Reads that make a stream.
const EVIDENCE: u32 = 3;
/// Bytes of a piece. The least is worth a request; the most lands as a whole, and who needs its first chunk waits for
/// its last.
const LEAST_PIECE: u64 = 256 << 10;
const MOST_PIECE: u64 = 4 << 20;
/// Bytes fetched ahead of a stream at most: 20 ms of a link of 200 MB/s are 4 MB, which may decode to thrice that, and
/// as much again is being decoded and read.
pub(super) const MOST_AHEAD: u64 = 48 << 20;
/// How far apart reads of a stream may be: what one chunk holds, which the reads between found in memory.
const SLACK: u64 = crate::types::MAX_CHUNK_LEN as u64;
/// Bytes of a region of the mask; see [`Streams::due`].
const REGION: u64 = 512 << 10;
/// Regions marked for a stream.
const MARKED: u64 = 3;
/// Reads longer than this may jump over what is marked in the mask.
pub(super) const LONG_READ: usize = REGION as usize;

/// The streams of a disk.
#[derive(Debug)]
pub(super) struct Streams {
    streams: Vec<Stream>,
    /// Counts reads.
    now: u64,
    /// Bytes fetched ahead of each at most.
    most_ahead: u64,
}

#[derive(Debug)]
struct Stream {
    reads: u32,
    /// Bytes read.
    bytes: u64,
    /// Bytes fetched ahead that the reader jumped over.
    wasted: u64,
    /// One past the furthest byte read.
    reach: u64,
    /// One past the last byte fetched ahead.
    fetched: u64,
    last_used: u64,
    most_ahead: u64,
}

impl Stream {
    /// One past what is in memory or on its way.
    fn front(&self) -> u64 {
        self.fetched.max(self.reach)
    }

    /// How far ahead it may be fetched.
    fn ahead(&self) -> u64 {
        (self.bytes / 2).saturating_sub(self.wasted).min(self.most_ahead)
    }

    fn piece(&self) -> u64 {
        (self.ahead() / 4).clamp(LEAST_PIECE, MOST_PIECE)
    }

    fn is_made(&self) -> bool {
        self.reads >= EVIDENCE
    }

    /// Where the reader is when the next piece is due.
    fn due(&self) -> u64 {
        (self.fetched + self.piece()).saturating_sub(self.ahead()).max(self.reach)
    }

    /// The reader has come to `read`, which is near.
    fn advance(&mut self, read: &Range<u64>, slack: u64) {
        if read.end <= self.reach {
            return;
        }
        // Whoever reads all that was fetched is noted where the next piece is due.
        let jumped = read.start > self.reach + slack && read.start > self.due() + MARKED * REGION;
        if jumped {
            self.wasted += read.start.min(self.front()) - self.reach;
        }
        let known = if jumped || read.start > self.front() { read.start } else { self.reach };
        self.bytes += read.end - known;
        self.reads += 1;
        self.reach = read.end;
    }
}

/// Bit of the region of a byte.
pub(super) fn region_bit(offset: u64) -> u64 {
    1 << (offset / REGION % 64)
}

impl Streams {
    /// No streams yet; at most `most_ahead` bytes are to be fetched ahead of each.
    pub(super) fn new(most_ahead: u64) -> Self {
        Self { streams: Vec::new(), now: 0, most_ahead: most_ahead.min(MOST_AHEAD) }
    }

    /// Notes that `read` is being read of a disk of `size` bytes, and calls `start` for each piece to fetch now;
    /// `false` means that it can't be now.
    pub(super) fn note(&mut self, read: &Range<u64>, size: u64, mut start: impl FnMut(Range<u64>) -> bool) {
        self.now += 1;
        let slack = SLACK.max((read.end - read.start).saturating_mul(4));
        let belongs = |stream: &&mut Stream| {
            read.start.saturating_add(slack) >= stream.reach
                && read.start <= stream.front().saturating_add(slack)
        };
        let nearest =
            self.streams.iter_mut().filter(belongs).min_by_key(|stream| stream.reach.abs_diff(read.start));
        let Some(stream) = nearest else { return self.begin(read) };
        stream.last_used = self.now;
        stream.advance(read, slack);
        while stream.is_made() {
            let from = stream.front();
            let to = (from + stream.piece()).min(size);
            if from >= size || to > stream.reach + stream.ahead() || !start(from..to) {
                break;
            }
            stream.fetched = to;
        }
    }

    fn begin(&mut self, read: &Range<u64>) {
        let new = Stream {
            reads: 1,
            bytes: read.end - read.start,
            wasted: 0,
            reach: read.end,
            fetched: 0,
            last_used: self.now,
            most_ahead: self.most_ahead,
        };
        if self.streams.len() < STREAMS {
            self.streams.push(new);
        } else if let Some(oldest) =
            // Reads here and there must not push out what is a stream.
            self.streams.iter_mut().min_by_key(|stream| (stream.is_made(), stream.last_used))
        {
            *oldest = new;
        }
    }

    /// Where reads have to be noted although they find everything in memory, for a disk of `size` bytes: a mask of
    /// regions, each standing for all regions 64 apart. A read that is not longer than [`LONG_READ`] can't jump over
    /// those that are marked for a stream.
    pub(super) fn due(&self, size: u64) -> u64 {
        let under_way =
            |stream: &&Stream| stream.is_made() && stream.fetched > stream.reach && stream.fetched < size;
        self.streams.iter().filter(under_way).fold(0, |mask, stream| {
            (0..MARKED).fold(mask, |mask, n| mask | region_bit(stream.due() + n * REGION))
        })
    }
}

#[cfg(test)]
mod tests;
