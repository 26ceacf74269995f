//! Do a bucket's conditional writes hold, even under a race?
//!
//! All safety of shared writing rests on compare-and-swap, and some stores ignore the conditions or check them
//! without holding them. So before the first write, several creates of one object and several replacements of one
//! version are sent at once, a few rounds of each: exactly one of each must win. What was found is remembered by a
//! mark in the bucket, so that this costs one request from then on.

use bytes::Bytes;
use futures::future::join_all;
use gabion_store_core::{
    Error, ErrorKind, Result,
    format::{layout, probe_mark},
    store::Version,
    types::{WriteId, chunk_id},
};

use crate::requests::{Created, Requests};

/// Writers that race for one object.
const RACERS: usize = 8;
/// Objects that are raced for.
const ROUNDS: usize = 4;

/// Succeeds if the store may be written by several processes at once; `Unsupported` if it may not.
///
/// **Cancel safety**: probe objects may stay when it is dropped; they mean nothing.
pub(crate) async fn probe(requests: &Requests) -> Result<()> {
    let place = *chunk_id(requests.identity().as_bytes()).as_bytes();
    let mark = layout::probe_mark_key(&place);
    if let Some(found) = requests.get(&mark, probe_mark::PROBE_MARK_LEN).await?
        && probe_mark::check(&found.bytes, &place).is_ok()
    {
        return Ok(());
    }
    for _ in 0..ROUNDS {
        let key = layout::probe_key(&WriteId::random()?);
        let outcome = race(requests, &key).await;
        if let Err(e) = requests.delete(&key).await {
            tracing::warn!(%key, "a probe object stays: {}", e.report());
        }
        outcome?;
    }
    requests.put(&mark, probe_mark::encode(&place).into()).await
}

/// One round: a race to create, a race to replace, and a late replacement.
async fn race(requests: &Requests, key: &str) -> Result<()> {
    let creates = join_all((0..RACERS).map(|_| async {
        match requests.create(key, fresh()?).await? {
            Created::Done(version) => Ok(Some(version)),
            Created::Exists(_) => Ok(None),
        }
    }));
    let created = one_winner(requests, creates.await)?;
    let replacements = join_all((0..RACERS).map(|_| replaces(requests, key, &created)));
    one_winner(requests, replacements.await)?;
    match replaces(requests, key, &created).await? {
        None => Ok(()),
        Some(_) => Err(refused(requests)),
    }
}

async fn replaces(requests: &Requests, key: &str, expected: &Version) -> Result<Option<Version>> {
    match requests.replace(key, fresh()?, expected).await {
        Ok(version) => Ok(Some(version)),
        Err(e) if e.kind() == ErrorKind::Conflict => Ok(None),
        Err(e) => Err(e),
    }
}

/// The one who won, or why the store can't be trusted. More than one winner is reported whatever else failed.
fn one_winner(requests: &Requests, outcomes: Vec<Result<Option<Version>>>) -> Result<Version> {
    let mut winners = Vec::new();
    let mut failed = None;
    for outcome in outcomes {
        match outcome {
            Ok(winner) => winners.extend(winner),
            Err(e) => failed = Some(e),
        }
    }
    match (winners.pop(), failed) {
        (Some(_), _) if !winners.is_empty() => Err(refused(requests)),
        (_, Some(e)) if e.kind() == ErrorKind::Unsupported => Err(refused(requests)),
        (_, Some(e)) => Err(e),
        (Some(winner), None) => Ok(winner),
        (None, None) => Err(refused(requests)),
    }
}

fn fresh() -> Result<Bytes> {
    Ok(WriteId::random()?.to_string().into())
}

fn refused(requests: &Requests) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "{} does not hold conditional writes, so several writers could destroy each other's images: if you are \
             sure that only one process writes to it at a time, add single_writer=true to its URL",
            requests.place()
        ),
    )
}

#[cfg(test)]
mod tests;
