//! Names and their histories: `vm1`, `vm1~2`, `vm1@3f2a`.

use std::{fmt, str::FromStr, sync::Arc};

use crate::{
    CheckpointId, ChunkKind, Error, ErrorKind, ImageName, Result, Store,
    clock::Clock,
    format::{
        checkpoint::Checkpoint,
        image_record::{HistoryEntry, ImageRecord},
    },
    index::{Index, NodeCache},
    store::get_one,
    types::checkpoint_id,
};

use super::{Publish, publish};

/// Which checkpoint of an image's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revision {
    /// So many before the newest; 0 is the newest.
    Back(usize),
    /// The one whose id begins with these hexadecimal digits.
    Id(String),
}

/// A checkpoint of an image, as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    /// The image.
    pub name: ImageName,
    /// Which of its history.
    pub revision: Revision,
}

impl FromStr for ImageRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let back = |count: &str| {
            let count = if count.is_empty() { Some(1) } else { count.parse().ok() };
            count.ok_or_else(|| Error::invalid(format!("'{text}': '~' is followed by a number, as in vm1~2")))
        };
        let (name, revision) = if let Some((name, count)) = text.split_once('~') {
            (name, Revision::Back(back(count)?))
        } else if let Some((name, id)) = text.split_once('@') {
            let hex = (4..=64).contains(&id.len()) && id.bytes().all(|digit| digit.is_ascii_hexdigit());
            if !hex {
                return Err(Error::invalid(format!(
                    "'{text}': '@' is followed by 4 to 64 hex digits of a checkpoint's id, as in vm1@3f2a"
                )));
            }
            (name, Revision::Id(id.to_ascii_lowercase()))
        } else {
            (text, Revision::Back(0))
        };
        Ok(Self { name: ImageName::new(name)?, revision })
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.revision {
            Revision::Back(0) => write!(f, "{}", self.name),
            Revision::Back(count) => write!(f, "{}~{count}", self.name),
            Revision::Id(id) => write!(f, "{}@{id}", self.name),
        }
    }
}

impl From<ImageName> for ImageRef {
    fn from(name: ImageName) -> Self {
        Self { name, revision: Revision::Back(0) }
    }
}

/// The checkpoint that a reference means. An unknown image is `NotFound` and names the nearest ones.
pub async fn resolve(store: &Store, image: &ImageRef) -> Result<HistoryEntry> {
    let record = known(store, &image.name).await?;
    position(&record, image).map(|at| record.history[at])
}

/// The record of an image that has to be there.
pub(super) async fn known(store: &Store, name: &ImageName) -> Result<ImageRecord> {
    match store.index.read_image(name).await? {
        Some(found) => Ok(found.value),
        None => Err(unknown(store, name).await),
    }
}

/// Where in its image's history the checkpoint is that a reference means.
pub(super) fn position(record: &ImageRecord, image: &ImageRef) -> Result<usize> {
    let history = &record.history;
    let missing = |why: String| Error::not_found(format!("image '{}' has no checkpoint {why}", image.name));
    match &image.revision {
        Revision::Back(count) if *count < history.len() => Ok(*count),
        Revision::Back(count) => Err(missing(format!("~{count}: its history has {}", history.len()))),
        Revision::Id(prefix) => {
            let matches = |at: &usize| history[*at].checkpoint.to_string().starts_with(prefix);
            let mut matching = (0..history.len()).filter(matches);
            let first = matching.next().ok_or_else(|| missing(format!("@{prefix}")))?;
            if matching.all(|at| history[at].checkpoint == history[first].checkpoint) {
                Ok(first)
            } else {
                Err(Error::invalid(format!(
                    "'{image}' means more than one checkpoint: give more digits of its id"
                )))
            }
        }
    }
}

async fn unknown(store: &Store, name: &ImageName) -> Error {
    let near = match store.index.list_images().await {
        Ok(names) => nearest(name.as_str(), names.iter().flatten().map(ImageName::as_str)),
        Err(error) => return error,
    };
    let hint = if near.is_empty() { String::new() } else { format!(" (nearest: {})", near.join(", ")) };
    Error::not_found(format!("there is no image '{name}'{hint}"))
}

/// Up to three names within a third of their length in edits, or with `name` in them.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut near: Vec<(usize, &str)> = names
        .map(|other| {
            let distance = strsim::damerau_levenshtein(name, other);
            (if other.contains(name) || name.contains(other) { distance.min(1) } else { distance }, other)
        })
        .filter(|(distance, other)| *distance <= name.len().max(other.len()).div_ceil(3))
        .collect();
    near.sort_unstable();
    near.into_iter().take(3).map(|(_, other)| other.to_owned()).collect()
}

/// Reads a checkpoint and opens its index through `nodes`. One that the store does not have is `Corrupt`: its id stood
/// somewhere.
pub async fn open_checkpoint(nodes: &Arc<NodeCache>, id: CheckpointId) -> Result<(Checkpoint, Index)> {
    let found = get_one(&**nodes.store(), ChunkKind::Checkpoint, &id.as_chunk()).await;
    let bytes = found.map_err(|e| match e.kind() {
        ErrorKind::NotFound => {
            Error::with_source(ErrorKind::Corrupt, format!("checkpoint {id} is missing"), e)
        }
        _ => e.context(format!("checkpoint {id} can't be read")),
    })?;
    if checkpoint_id(&bytes) != id {
        return Err(Error::corrupt(format!("checkpoint {id} does not match its hash")));
    }
    let checkpoint = Checkpoint::decode(&bytes).map_err(|e| e.context(format!("checkpoint {id}")))?;
    let index = Index::new(Arc::clone(nodes), checkpoint.root, checkpoint.size);
    Ok((checkpoint, index))
}

/// Makes a new image of a checkpoint of another.
pub async fn tag(store: &Store, clock: &dyn Clock, from: &ImageRef, to: &ImageName) -> Result<HistoryEntry> {
    let entry = resolve(store, from).await?;
    // "It is there" counts as an answer that the publish has to cover.
    for held in store.chunks.holds(ChunkKind::Checkpoint, &[entry.checkpoint.as_chunk()]).await {
        if held? {
            continue;
        }
        return Err(Error::corrupt(format!("checkpoint {} of image '{from}' is missing", entry.checkpoint)));
    }
    let what = Publish { create: true, maps_of: Some(&from.name), ..Publish::append(to, entry) };
    publish(store, clock, what).await?;
    Ok(entry)
}

/// Removes an image. Volumes made from it keep their base, by their pins.
pub async fn remove(store: &Store, name: &ImageName) -> Result<()> {
    for _ in 0..64 {
        let Some(found) = store.index.read_image(name).await? else { return Err(unknown(store, name).await) };
        match store.index.remove_image(name, &found.version).await {
            Err(e) if e.kind() == ErrorKind::Conflict => {}
            other => return other,
        }
    }
    Err(Error::new(ErrorKind::Conflict, format!("image '{name}' keeps changing: try again")))
}
