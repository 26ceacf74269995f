//! Boot traces of images: an object of their own, named by the image record. Hints: whoever can't write one, or read
//! it, goes on without.

use crate::{
    Error, ErrorKind, ImageName, Result, Store,
    clock::Clock,
    format::{boot_trace::BootTrace, catalog::Replaced, image_record::ImageRecord},
    types::{MapId, WriteId},
};

use super::publish::{ATTEMPTS, busy, change_catalog};

/// Makes `trace` the boot trace of an image. History, maps and writer epoch stay: it is no checkpoint, and needs no
/// right to make one. Returns the trace's id.
///
/// **Errors**: `NotFound` if there is no such image. After any, the image has the trace it had, unless the store's
/// answer was lost. **Cancel safety**: the same; an object that nothing names may stay behind.
pub async fn publish_boot_trace(
    store: &Store,
    clock: &dyn Clock,
    image: &ImageName,
    trace: &BootTrace,
) -> Result<MapId> {
    let id = MapId::random()?;
    store.index.put_map(id, trace.encode(id).into()).await?;
    let mut found = store.index.recall_image(image).await?;
    for _ in 0..ATTEMPTS {
        let Some(current) = found else {
            return Err(Error::not_found(format!("there is no image '{image}' to get a boot trace")));
        };
        let mut record = current.value;
        let before = record.boot_trace.replace(id);
        record.write_id = WriteId::random()?;
        match store.index.write_image(&record, Some(&current.version)).await {
            Ok(_) => {
                forget(store, clock, before).await;
                return Ok(id);
            }
            Err(e) if matches!(e.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {}
            Err(e) => return Err(e),
        }
        found = store.index.read_image(image).await?;
    }
    Err(busy(&format!("image '{image}'")))
}

/// Brings the boot trace of another store's image into a store, under an id of its own, for the publish that is to name
/// it. `None` if it can't be had or not be stored: the log says why.
pub(super) async fn copy_boot_trace(from: &Store, id: Option<MapId>, to: &Store) -> Option<MapId> {
    let id = id?;
    let copied = async {
        let trace = BootTrace::decode(id, &from.index.get_map(id).await?)?;
        let id = MapId::random()?;
        to.index.put_map(id, trace.encode(id).into()).await?;
        Ok::<_, Error>(id)
    };
    let copied = copied.await;
    if let Err(error) = &copied {
        tracing::debug!("boot trace {id} stays where it is: {}", error.report());
    }
    copied.ok()
}

/// Lets a later collection remove a trace that was replaced.
async fn forget(store: &Store, clock: &dyn Clock, trace: Option<MapId>) {
    let Some(trace) = trace else { return };
    let listed = change_catalog(store, |catalog| {
        catalog.retire([Replaced::Map(trace, clock.now())]);
        Ok(())
    })
    .await;
    if let Err(error) = listed {
        tracing::debug!("boot trace {trace} stays behind: {}", error.report());
    }
}

/// The boot trace that a record names; `None` if none.
///
/// **Errors**: the store's; `Corrupt` if it is none.
pub async fn load_boot_trace(store: &Store, record: &ImageRecord) -> Result<Option<BootTrace>> {
    let Some(id) = record.boot_trace else { return Ok(None) };
    let loaded = async { BootTrace::decode(id, &store.index.get_map(id).await?) };
    loaded.await.map(Some).map_err(|e| e.context(format!("boot trace of image '{}'", record.name)))
}

#[cfg(test)]
mod tests;
