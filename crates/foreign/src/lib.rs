//! Foreign bytes, and what is made of them: one function for each parser, which panics if it finds a fault.
//!
//! The fuzz targets in `fuzz/` call these with bytes of a fuzzer; `tests/replay.rs` calls them with the inputs that
//! are kept in `fuzz/corpus`, on every compiler. Whoever calls them trusts checksums
//! ([`trust_checksums`](gabion_store_core::testing::trust_checksums)), so that what lies behind these is reached.

mod cache;
mod formats;
mod nbd;
mod qcow2;
mod text;
mod volume;

/// A parser of foreign bytes.
#[derive(Debug)]
pub struct Target {
    /// Its name: that of the fuzz target, and of its corpus.
    pub name: &'static str,
    /// Gives it the bytes. Panics if what it makes of them is wrong.
    pub run: fn(&[u8]),
    /// What it may take of memory.
    pub memory: Memory,
}

/// Most bytes of memory that a parser may hold at a time.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Whatever the input: buffers of a service, or what an entry may decode to.
    pub fixed: usize,
    /// For each byte of the input.
    pub per_byte: usize,
}

impl Memory {
    /// For an input of so many bytes.
    pub const fn of(&self, len: usize) -> usize {
        self.fixed + self.per_byte * len
    }
}

const KIB: usize = 1 << 10;
/// Of what decodes, encodes and decodes again, and makes messages of errors: a few copies of the input, and the table
/// of the largest node.
const RECORD: Memory = Memory { fixed: 64 * KIB, per_byte: 64 };

/// Makes a constant of each target, so that a fuzzer's program holds one parser only, and the table of them all.
macro_rules! targets {
    ($($(#[$doc:meta])* $constant:ident: $name:literal, $run:path, $memory:expr;)*) => {
        $($(#[$doc])* pub const $constant: Target = Target { name: $name, run: $run, memory: $memory };)*

        /// All of them.
        pub const TARGETS: &[Target] = &[$($constant),*];
    };
}

targets! {
    /// A boot trace.
    BOOT_TRACE: "boot_trace", formats::boot_trace, RECORD;
    /// A catalog.
    CATALOG: "catalog", formats::catalog, RECORD;
    /// A checkpoint.
    CHECKPOINT: "checkpoint", formats::checkpoint, RECORD;
    /// A stored entry: 256 KiB, which a few bytes may claim.
    CODEC: "codec", formats::codec, Memory { fixed: 512 * KIB, per_byte: 4 };
    /// The configuration file, and what stands in it: a parser that makes a table for each dot of a name.
    CONFIG: "config", text::config, Memory { fixed: 256 * KIB, per_byte: 1024 };
    /// What crosses the control socket.
    CONTROL: "control", text::control, RECORD;
    /// The descriptor of a store.
    DESCRIPTOR: "descriptor", formats::descriptor, RECORD;
    /// A segment of the disk cache, whose entries claim up to 256 KiB.
    DISK_CACHE: "disk_cache", cache::disk_cache, Memory { fixed: 512 * KIB, per_byte: 64 };
    /// An image map.
    IMAGE_MAP: "image_map", formats::image_map, RECORD;
    /// The object in the place of an image.
    IMAGE_RECORD: "image_record", formats::image_record, RECORD;
    /// The journal of a volume, each run of which may touch a span of the disk, or two, with tables of 4 KiB.
    JOURNAL: "journal", volume::journal, Memory { fixed: 256 * KIB, per_byte: 16 * KIB };
    /// A locator.
    LOCATOR: "locator", formats::locator, RECORD;
    /// An NBD client from its first byte on: options of up to 64 KiB.
    NBD_HANDSHAKE: "nbd_handshake", nbd::handshake, Memory { fixed: 1024 * KIB, per_byte: 64 };
    /// An NBD client that has chosen an export, with all that it is answered.
    NBD_REQUESTS: "nbd_requests", nbd::requests, Memory { fixed: 1024 * KIB, per_byte: 2 * KIB };
    /// An index node.
    NODE: "node", formats::node, RECORD;
    /// A pack.
    PACK: "pack", formats::pack, RECORD;
    /// A disk image to import, in clusters of up to 2 MiB.
    QCOW2: "qcow2", qcow2::qcow2, Memory { fixed: 5 * 1024 * KIB, per_byte: 64 };
    /// The URL of a store.
    STORE_URL: "store_url", text::store_url, Memory { fixed: 64 * KIB, per_byte: 512 };
    /// The record of a volume.
    VOLUME_RECORD: "volume_record", volume::record, RECORD;
}
