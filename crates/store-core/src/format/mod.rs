//! The bytes of every object, as pure encoding and decoding. `docs/format.md` is normative.
//!
//! Every decoder takes foreign bytes: it never panics, allocates no more than the input justifies, and
//! accepts only what its encoder would have written.

pub mod boot_trace;
pub mod catalog;
pub mod checkpoint;
pub mod codec;
pub mod descriptor;
pub mod features;
pub mod image_map;
pub mod image_record;
pub mod layout;
pub mod locator;
pub mod node;
pub mod pack;
pub mod probe_mark;
pub mod rows;
pub mod tombstone;
pub mod wire;
