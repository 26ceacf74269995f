//! What one does with images: import, export, publish, diff, check, names. Each is a library call with
//! progress and cancellation.

mod boot_trace;
mod check;
mod diff;
mod export;
mod heal;
mod images;
mod import;
mod ingest;
mod job;
mod maps;
mod publish;
#[cfg(test)]
pub(crate) mod tests;
mod transfer;

pub use boot_trace::{load_boot_trace, publish_boot_trace};
pub use check::{CheckOptions, CheckReport, Damage, Depth, Sample, check, check_with};
pub use diff::{DiskDiff, diff};
pub use export::{DiskSink, Exported, export};
pub use heal::{Healed, heal};
pub use images::{ImageRef, Revision, open_checkpoint, remove, resolve, tag};
pub use import::{ImportOptions, Imported, import};
pub use ingest::{IngestOptions, IngestStats, Ingested, ingest};
pub use job::{Job, Progress};
pub use publish::{
    NewBase, Publish, Published, claim, claim_as_found, new_epoch, pin, publish, store_checkpoint, unpin,
};
pub use transfer::{Plan, Side, TransferOptions, Transferred, plan, transfer};
