//! Entries and records to test with: right ids, real lengths, the same for each seed.

use bytes::Bytes;

use crate::{
    CheckpointId, ChunkId, ChunkKind, ImageName,
    clock::Timestamp,
    format::{codec::MAX_RAW_LEN, image_record::HistoryEntry, image_record::ImageRecord},
    testing::Rng,
    types::{BLOCK_SIZE, MAX_CHUNK_BLOCKS, WriteId, id_of},
};

/// All kinds of entries.
pub(super) const KINDS: [ChunkKind; 3] = [ChunkKind::Data, ChunkKind::Node, ChunkKind::Checkpoint];

/// An entry with the id that its kind and bytes give it.
pub(super) fn entry(kind: ChunkKind, bytes: Vec<u8>) -> (ChunkId, Bytes) {
    (id_of(kind, &bytes), bytes.into())
}

/// Entries of a kind, each different: data of whole blocks, others of any length; every other one
/// compresses well.
pub(super) fn entries(kind: ChunkKind, count: usize, rng: &mut Rng) -> Vec<(ChunkId, Bytes)> {
    (0..count)
        .map(|number| {
            let len = match kind {
                ChunkKind::Data => BLOCK_SIZE * (1 + rng.below(MAX_CHUNK_BLOCKS)),
                ChunkKind::Node => 1 + rng.below(8 * 1024),
                ChunkKind::Checkpoint => 100 + rng.below(200),
            };
            let mut bytes = rng.bytes(len);
            if number % 2 == 0 && len > 64 {
                bytes[64..].fill(b'x');
            }
            entry(kind, bytes)
        })
        .collect()
}

/// The largest entry of a kind that every store must take.
pub(super) fn largest(kind: ChunkKind, rng: &mut Rng) -> (ChunkId, Bytes) {
    entry(
        kind,
        rng.bytes(match kind {
            ChunkKind::Data => MAX_CHUNK_BLOCKS * BLOCK_SIZE,
            ChunkKind::Node | ChunkKind::Checkpoint => MAX_RAW_LEN,
        }),
    )
}

/// The ids of entries.
pub(super) fn ids(entries: &[(ChunkId, Bytes)]) -> Vec<ChunkId> {
    entries.iter().map(|(id, _)| *id).collect()
}

/// A checked name.
pub(super) fn name(text: &str) -> ImageName {
    ImageName::new(text).expect("names of the suite are good")
}

/// A record of an image of one checkpoint, as one more attempt to write it.
pub(super) fn record(image: &str, checkpoint: u8, writer_epoch: u64) -> ImageRecord {
    ImageRecord {
        name: name(image),
        history: vec![HistoryEntry {
            checkpoint: CheckpointId::from_bytes([checkpoint; CheckpointId::LEN]),
            size: 1 << 30,
            created: Timestamp(1_700_000_000_000),
        }],
        maps: Vec::new(),
        boot_trace: None,
        writer_epoch,
        write_id: write_id(),
    }
}

/// Marks one more attempt: stores may take an equal id for a retry of the same write.
pub(super) fn write_id() -> WriteId {
    WriteId::random().expect("the system gives randomness")
}
