use proptest::prelude::*;

use super::*;
use crate::{BLOCK_SIZE, Result};

/// A disk of runs, given out in reads of odd lengths.
struct Scripted {
    disk: Vec<u8>,
    /// Runs by length; true is data.
    runs: Vec<(bool, usize)>,
    at: usize,
    step: usize,
}

impl DiskSource for Scripted {
    fn size(&self) -> Option<u64> {
        Some(self.disk.len() as u64)
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<Next> {
        let Some((data, left)) = self.runs.first_mut() else { return Ok(Next::End) };
        let len = if *data { (*left).min(buf.len()).min(self.step) } else { *left };
        if *data {
            buf[..len].copy_from_slice(&self.disk[self.at..self.at + len]);
        }
        let data = *data;
        self.at += len;
        *left -= len;
        if *left == 0 {
            self.runs.remove(0);
        }
        Ok(if data { Next::Data(len) } else { Next::Zero(len as u64) })
    }
}

fn disk_of(runs: &[(bool, usize)]) -> Vec<u8> {
    let mut disk = Vec::new();
    for (number, &(data, len)) in runs.iter().enumerate() {
        disk.extend((0..len).map(|at| if data { (at / 700 * 31 + number * 7 + at % 3) as u8 } else { 0 }));
    }
    disk
}

fn segments(disk: &[u8], runs: Vec<(bool, usize)>, step: usize, chunking: Chunking) -> (Vec<Segment>, u64) {
    let source = Scripted { disk: disk.to_vec(), runs, at: 0, step };
    let mut reader = Segments::new(source, Cutter::new(chunking));
    let mut all = Vec::new();
    while let Some(segment) = reader.next_segment().unwrap() {
        all.push(segment);
    }
    (all, reader.size())
}

/// What the segments say the disk is; chunks as (block, bytes).
fn rebuilt(segments: &[Segment], len: usize) -> (Vec<u8>, Vec<(u64, Vec<u8>)>) {
    let mut disk = Vec::new();
    let mut chunks = Vec::new();
    for segment in segments {
        match segment {
            Segment::Zero(range) => {
                assert_eq!(range.byte_start(), disk.len() as u64);
                disk.resize(disk.len() + range.byte_len() as usize, 0);
            }
            Segment::Data { first, bytes, pieces } => {
                assert_eq!(first * BLOCK_SIZE as u64, disk.len() as u64);
                let base = disk.len();
                disk.resize(base + bytes.len(), 0);
                let mut end = 0;
                for piece in pieces {
                    assert!(piece.first >= end && (1..=32).contains(&piece.blocks));
                    end = piece.first + piece.blocks;
                    let range = piece.first * BLOCK_SIZE..end * BLOCK_SIZE;
                    disk[base + range.start..base + range.end].copy_from_slice(&bytes[range.clone()]);
                    chunks.push((first + piece.first as u64, bytes[range].to_vec()));
                }
            }
        }
    }
    let whole = len.next_multiple_of(BLOCK_SIZE);
    assert_eq!(disk.len(), whole);
    disk.truncate(len);
    (disk, chunks)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn segments_hold_the_disk(runs in prop::collection::vec((any::<bool>(), 1_usize..400_000), 0..7), step in 1_usize..300_000, fixed in any::<bool>()) {
        let disk = disk_of(&runs);
        let chunking = if fixed { Chunking::Fixed(16) } else { Chunking::default() };
        let (all, size) = segments(&disk, runs, step, chunking);
        prop_assert_eq!(size, disk.len() as u64);
        let (back, chunks) = rebuilt(&all, disk.len());
        prop_assert!(back == disk);
        for (block, bytes) in chunks {
            prop_assert!(!bytes.chunks(BLOCK_SIZE).any(|block| block.iter().all(|byte| *byte == 0)));
            if fixed {
                prop_assert!(block / 16 == (block + (bytes.len() / BLOCK_SIZE) as u64 - 1) / 16);
            }
        }
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[test]
fn cuts_follow_content_not_position_or_reads() {
    let content = noise(9 << 20);
    let moved = [noise(3 * BLOCK_SIZE), content.clone()].concat();
    let chunks = |disk: &[u8], step| {
        let (all, _) = segments(disk, vec![(true, disk.len())], step, Chunking::default());
        rebuilt(&all, disk.len()).1.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>()
    };
    let plain = chunks(&content, usize::MAX);
    assert_eq!(plain, chunks(&content, 12_345), "cuts depend on how the source was read");
    let known: std::collections::HashSet<_> = plain.iter().collect();
    let new = chunks(&moved, usize::MAX).iter().filter(|chunk| !known.contains(chunk)).count();
    assert!(new <= 4, "{new} new chunks after a shift");
    let average = content.len() / plain.len();
    assert!((24 << 10..44 << 10).contains(&average), "average chunk of {average} bytes");
}

#[test]
fn a_repeated_block_is_cut_only_at_the_most() {
    let disk = [7_u8; BLOCK_SIZE].repeat(100);
    let (all, _) = segments(&disk, vec![(true, disk.len())], usize::MAX, Chunking::default());
    let sizes: Vec<_> =
        rebuilt(&all, disk.len()).1.iter().map(|(_, bytes)| bytes.len() / BLOCK_SIZE).collect();
    assert_eq!(sizes, [32, 32, 32, 4]);
}

#[test]
fn chunker_names() {
    assert_eq!("fixed:64K".parse::<Chunking>().unwrap(), Chunking::Fixed(16));
    assert_eq!("content".parse::<Chunking>().unwrap(), Chunking::default());
    for bad in ["", "fixed", "fixed:", "fixed:0K", "fixed:3K", "fixed:256K", "fixed:64", "Content"] {
        assert!(bad.parse::<Chunking>().is_err(), "{bad}");
    }
}
