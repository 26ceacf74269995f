//! Entries of the source, verified before anything is done with them.

use std::sync::Arc;

use crate::{
    ChunkId, ChunkKind, ChunkStore, Error, ErrorKind, Result, blocking::spawn_blocking,
    format::codec::Encoded, types::id_of,
};

/// Fetches entries in their stored form, one per id, and what `read` makes of their bytes. Each is decoded and
/// hashed, away from the runtime's own threads.
///
/// **Errors**: `Corrupt`, with the entry's name, if one is missing or is not what its id says.
pub(super) async fn fetch<T: Send + 'static>(
    from: &Arc<dyn ChunkStore>,
    kind: ChunkKind,
    ids: Vec<ChunkId>,
    read: impl Fn(&[u8]) -> Result<T> + Send + 'static,
) -> Result<Vec<(Encoded, T)>> {
    let answers = from.get_encoded(kind, &ids).await;
    if answers.len() != ids.len() {
        return Err(Error::corrupt(format!(
            "a store gave {} answers for {} entries",
            answers.len(),
            ids.len()
        )));
    }
    let verify = move || {
        let verified = ids.iter().zip(answers).map(|(id, answer)| {
            let named = |e: Error| e.context(format!("{kind:?} entry {id} can't be sent"));
            let entry = answer.map_err(|e| named(lost(e)))?;
            let bytes = entry.decode().map_err(named)?;
            if id_of(kind, &bytes) != *id {
                return Err(named(Error::corrupt("the store answered bytes that are not this entry")));
            }
            let read = read(&bytes).map_err(named)?;
            Ok((entry, read))
        });
        verified.collect()
    };
    let died = |e| Error::with_source(ErrorKind::Unavailable, "a worker of the transfer died", e);
    spawn_blocking(verify).await.map_err(died)?
}

/// What an index names and its store does not have is damage, not a question whose answer is "no".
fn lost(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::with_source(ErrorKind::Corrupt, "the store has lost it", error),
        _ => error,
    }
}
