//! Whether a volume goes on from a checkpoint.

use crate::{CheckpointId, ErrorKind, Result, ops::open_checkpoint, types::VolumeId, volume::Home};

/// Most checkpoints that are followed back from a volume's base.
const MOST_PARENTS: usize = 64;

/// Whether what a volume on `base` publishes contains `checkpoint`: its base is that or was made from it, or the volume
/// itself made it, which its pin tells: it was killed before its record said so, or sent it home after it was staged.
pub(super) async fn goes_on_from(
    home: &Home,
    owner: VolumeId,
    base: Option<CheckpointId>,
    checkpoint: CheckpointId,
) -> Result<bool> {
    if base == Some(checkpoint) {
        return Ok(true);
    }
    let catalog = home.store.index.read_catalog().await?.value;
    if catalog.pins.iter().any(|pin| pin.owner == owner && pin.checkpoint == checkpoint) {
        // Made from what the volume stands on, unless this is an older copy of the volume's folder.
        let (made, _) = open_checkpoint(&home.nodes, checkpoint).await?;
        if made.parent == base {
            return Ok(true);
        }
    }
    let mut next = base;
    for _ in 0..MOST_PARENTS {
        let Some(id) = next else { break };
        next = match open_checkpoint(&home.nodes, id).await {
            Ok((found, _)) => found.parent,
            // History, which nothing keeps.
            Err(e) if e.kind() == ErrorKind::NotFound => break,
            Err(e) => return Err(e),
        };
        if next == Some(checkpoint) {
            return Ok(true);
        }
    }
    Ok(false)
}
