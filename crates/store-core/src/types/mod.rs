//! Names and units: ids, hash domains, blocks, sizes, image names.

mod hash;
mod id;
mod name;
mod units;

pub use hash::{IdDomain, checkpoint_id, chunk_id, id_of, node_id};
pub use id::{
    CheckpointId, ChunkId, ChunkKind, LocatorId, MapId, NodeId, PackId, StoreId, VolumeId, WriteId,
};
pub use name::ImageName;
pub use units::{
    BLOCK_SIZE, BlockRange, MAX_CHUNK_BLOCKS, MAX_CHUNK_LEN, MAX_DISK_SIZE, blocks_for, check_range,
};
