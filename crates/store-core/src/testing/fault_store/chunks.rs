//! The entries of a [`FaultStore`].

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{BadEntry, Begun, Call, FaultStore, Spoil};
use crate::{
    ChunkId, ChunkKind, ChunkStore, Result,
    format::codec::Encoded,
    store::{Placement, Synced},
    types::MapId,
};

impl FaultStore {
    /// Ends a call that answers per entry.
    async fn finish_each<T: Spoil + Clone>(
        &self,
        mut begun: Begun,
        kind: ChunkKind,
        ids: &[ChunkId],
        answers: Vec<Result<T>>,
    ) -> Vec<Result<T>> {
        if let Err(e) = begun.finish().await {
            return vec![Err(e); ids.len()];
        }
        let of_call = begun.bad();
        let bad = self.bad(kind, ids);
        answers.into_iter().zip(bad).map(|(answer, bad)| begun.spoil(answer, of_call.or(bad))).collect()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl ChunkStore for FaultStore {
    async fn get(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Bytes>> {
        match self.begin(Call::Get).await {
            Ok(begun) => self.finish_each(begun, kind, ids, self.chunks.get(kind, ids).await).await,
            Err(e) => vec![Err(e); ids.len()],
        }
    }

    async fn put(&self, kind: ChunkKind, entries: Vec<(ChunkId, Bytes)>) -> Result<()> {
        let begun = self.begin(Call::Put).await?;
        let ids: Vec<_> = entries.iter().map(|(id, _)| *id).collect();
        self.chunks.put(kind, entries).await?;
        self.mend(kind, &ids);
        begun.finish().await
    }

    async fn contains(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let begun = self.begin(Call::Contains).await?;
        let present = self.chunks.contains(kind, ids).await?;
        begun.finish().await?;
        let there = |(present, bad)| present && bad != Some(BadEntry::Missing) && !begun.is_missing();
        Ok(present.into_iter().zip(self.bad(kind, ids)).map(there).collect())
    }

    async fn holds(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<bool>> {
        let begun = match self.begin(Call::Contains).await {
            Ok(begun) => begun,
            Err(e) => return vec![Err(e); ids.len()],
        };
        let present = self.chunks.holds(kind, ids).await;
        if let Err(e) = begun.finish().await {
            return vec![Err(e); ids.len()];
        }
        let missing = begun.is_missing();
        let there =
            |(present, bad): (Result<bool>, _)| Ok(present? && bad != Some(BadEntry::Missing) && !missing);
        present.into_iter().zip(self.bad(kind, ids)).map(there).collect()
    }

    async fn sync(&self) -> Result<Synced> {
        let begun = self.begin(Call::Sync).await?;
        let synced = self.chunks.sync().await?;
        begun.finish().await.map(|()| synced)
    }

    /// Never answers: what answers at once can't be held or fail.
    fn try_get(&self, _kind: ChunkKind, _id: &ChunkId) -> Option<Bytes> {
        None
    }

    async fn get_range(&self, kind: ChunkKind, id: &ChunkId, start: usize, length: usize) -> Result<Bytes> {
        let begun = self.begin(Call::GetRange).await?;
        let answer = self.chunks.get_range(kind, id, start, length).await;
        let mut answers = self.finish_each(begun, kind, std::slice::from_ref(id), vec![answer]).await;
        answers.pop().expect("one answer went in")
    }

    async fn get_encoded(&self, kind: ChunkKind, ids: &[ChunkId]) -> Vec<Result<Encoded>> {
        match self.begin(Call::GetEncoded).await {
            Ok(begun) => self.finish_each(begun, kind, ids, self.chunks.get_encoded(kind, ids).await).await,
            Err(e) => vec![Err(e); ids.len()],
        }
    }

    async fn put_encoded(&self, kind: ChunkKind, entries: Vec<(ChunkId, Encoded)>) -> Result<()> {
        let begun = self.begin(Call::PutEncoded).await?;
        let ids: Vec<_> = entries.iter().map(|(id, _)| *id).collect();
        self.chunks.put_encoded(kind, entries).await?;
        self.mend(kind, &ids);
        begun.finish().await
    }

    fn expect(&self, maps: &Arc<[MapId]>, chunks: &[(u64, ChunkId)]) {
        self.chunks.expect(maps, chunks);
    }

    async fn locate(&self, kind: ChunkKind, ids: &[ChunkId]) -> Result<Vec<Option<Placement>>> {
        let begun = self.begin(Call::Locate).await?;
        let places = self.chunks.locate(kind, ids).await?;
        begun.finish().await?;
        let there = |(place, bad): (Option<Placement>, _)| {
            place.filter(|_| bad != Some(BadEntry::Missing) && !begun.is_missing())
        };
        Ok(places.into_iter().zip(self.bad(kind, ids)).map(there).collect())
    }
}
