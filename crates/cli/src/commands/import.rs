//! Disks in and out: `import`, `export`.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use gabion::{
    Host, InStore, Located,
    core::{
        Error, ErrorKind, ImageName, Result,
        index::NodeCache,
        ops::{self, DiskSink, Exported, ImageRef, ImportOptions, Job, open_checkpoint},
        stores::Verify,
        volume::IndexBase,
    },
    disk, format_bytes,
    local::disk_file::{FileSink, StreamSink},
};
use serde_json::json;

use super::blocking;
use crate::output::Output;

/// Memory for index nodes while exporting.
const NODE_BUDGET: usize = 16 << 20;
/// How long a cancelled import of standard input may take to end by itself.
const STALLED: Duration = Duration::from_secs(1);

pub(super) async fn import(
    host: &Host,
    output: &Output,
    file: &Path,
    name: Option<InStore<ImageName>>,
    labels: BTreeMap<String, String>,
) -> Result<()> {
    let name = match name {
        Some(name) => name,
        None => name_of(file)?.into(),
    };
    let opened = host.store_of(name.store.as_deref()).await?;
    let path = file.to_owned();
    let source = blocking(move || disk::open(&path)).await?;
    let (job, bar) = output.job("importing");
    let options = ImportOptions { ingest: host.ingest(&opened), labels, create: false };
    // What feeds standard input may stall for ever, and a read of it can't be called off.
    let stalled = async {
        job.cancel.cancelled().await;
        if file != Path::new("-") {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(STALLED).await;
    };
    let done = tokio::select! {
        done = ops::import(&opened.store, &**host.clock(), &name.name, source, options, &job) => done,
        () = stalled => Err(Error::new(ErrorKind::Cancelled, "cancelled")),
    };
    bar.finish_and_clear();
    let done = done.map_err(|e| e.context(format!("importing {}", file.display())))?;
    let stats = done.stats;
    let value = json!({
        "image": name.name.as_str(), "checkpoint": done.checkpoint.to_string(), "size": done.size, "used": stats.used,
        "stored": stats.stored, "new": stats.new, "shared": stats.used - stats.new, "chunks": stats.chunks,
        "new_chunks": stats.new_chunks,
    });
    let text = format!(
        "{name}@{}: size {}, used {}, new {} (stored in {}), shared {}",
        done.checkpoint.short(),
        format_bytes(done.size),
        format_bytes(stats.used),
        format_bytes(stats.new),
        format_bytes(stats.stored),
        format_bytes(stats.used - stats.new),
    );
    output.result(&value, &text)
}

/// An image's name from a file's: without folders and the last ending.
pub(super) fn name_of(file: &Path) -> Result<ImageName> {
    let stem = file.file_stem().filter(|_| file != Path::new("-")).and_then(|stem| stem.to_str());
    let stem =
        stem.ok_or_else(|| Error::invalid(format!("{} gives no image name: say one", file.display())))?;
    ImageName::new(stem).map_err(|e| e.context("the file's name is no image name, say one"))
}

pub(super) async fn export(
    host: &Host,
    output: &Output,
    image: &InStore<ImageRef>,
    file: &Path,
    force: bool,
) -> Result<()> {
    let Located { entry, mut nodes, staged } = host.locate(image).await?;
    // Hints, which spare a remote store requests.
    let mut maps = Vec::new();
    if !staged {
        // Each chunk is read once: verified, but past the cache.
        let opened = host.store_of(image.store.as_deref()).await?;
        let chunks = Arc::new(Verify::new(opened.uncached().chunks));
        nodes = Arc::new(NodeCache::new(chunks, NODE_BUDGET));
        if let Ok(Some(found)) = opened.store.index.recall_image(&image.name.name).await {
            maps = found.value.maps;
        }
    }
    let (checkpoint, index) = open_checkpoint(&nodes, entry.checkpoint).await?;
    let base = IndexBase::new(index).with_maps(&maps);
    let (job, bar) = output.job("exporting");
    let to_stdout = file == Path::new("-");
    let done = if to_stdout {
        let sink = StreamSink::new(std::io::stdout(), "standard output");
        let (sink, done) = run(&base, checkpoint.size, sink, &job, image).await?;
        blocking(move || sink.finish()).await?;
        done
    } else {
        let (path, size) = (file.to_owned(), checkpoint.size);
        let sink = blocking(move || FileSink::create(&path, size, force)).await?;
        let (sink, done) = run(&base, checkpoint.size, sink, &job, image).await?;
        blocking(move || sink.finish()).await?;
        done
    };
    bar.finish_and_clear();
    if !to_stdout {
        let value = json!({ "image": image.to_string(), "checkpoint": entry.checkpoint.to_string(), "size": done.size, "data": done.data });
        let text = format!(
            "{image} is in {}: {}, {} of data",
            file.display(),
            format_bytes(done.size),
            format_bytes(done.data)
        );
        output.result(&value, &text)?;
    }
    Ok(())
}

async fn run<S: DiskSink>(
    base: &IndexBase,
    size: u64,
    sink: S,
    job: &Job,
    image: &InStore<ImageRef>,
) -> Result<(S, Exported)> {
    ops::export(base, size, sink, job).await.map_err(|e| e.context(format!("exporting image '{image}'")))
}
