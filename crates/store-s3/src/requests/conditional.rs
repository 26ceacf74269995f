//! Compare-and-swap by conditional put, and what its answers mean.
//!
//! "It exists" and "it has changed" may be about this very write: an earlier attempt, or a proxy's, may have
//! landed although its answer was lost. So the object is read back. Whoever writes conditionally gives each
//! write bytes of its own (a fresh write id), and equal bytes are the proof.

use bytes::Bytes;
use gabion_store_core::{Error, Result, store::Version};
use object_store::{PutMode, PutOptions, PutPayload, PutResult, UpdateVersion};

use super::{Action, Cause, Failure, Fetched, Requests, version};
use crate::retry::in_time;

/// Longest object that is changed conditionally, in bytes.
const MAX_LEN: u64 = 64 << 20;

/// What became of a create.
#[derive(Debug)]
pub(crate) enum Created {
    /// The object is there, and it is this call's.
    Done(Version),
    /// There was another.
    Exists(Fetched),
}

impl Requests {
    /// Creates an object, unless there is one that this very call did not write. `bytes` are like no others.
    pub(crate) async fn create(&self, key: &str, bytes: Bytes) -> Result<Created> {
        let found = self.put_if(key, &bytes, PutMode::Create).await;
        match found.map_err(|failure| self.explain(Action::Write, key, &failure))? {
            Put::Done(version) => Ok(Created::Done(version)),
            Put::Refused(Some(found)) => Ok(Created::Exists(found)),
            // It went as we looked, or there was nothing to write it to.
            Put::Refused(None) => {
                let failure = Failure::new(Cause::Busy, "it is refused, and is not there");
                Err(self.explain(Action::Write, key, &failure))
            }
        }
    }

    /// Replaces the object of version `expected`; `Conflict` if it has another by now. `bytes` are like no others.
    ///
    /// A `Conflict` changed nothing, except where an attempt whose answer was lost was there for a moment, until
    /// somebody replaced it in turn.
    pub(crate) async fn replace(&self, key: &str, bytes: Bytes, expected: &Version) -> Result<Version> {
        let put = self.put_if(key, &bytes, PutMode::Update(update(expected)?)).await;
        match put.map_err(|failure| self.explain(Action::Write, key, &failure))? {
            Put::Done(version) => Ok(version),
            Put::Refused(_) => Err(self.explain(Action::Write, key, &Failure::new(Cause::Changed, ""))),
        }
    }

    async fn put_if(&self, key: &str, bytes: &Bytes, mode: PutMode) -> Result<Put, Failure> {
        let (path, mut tries) = (self.path(key), self.tries());
        let limit = self.timeouts.upload(bytes.len() as u64);
        loop {
            let options = PutOptions::from(mode.clone());
            let put = self.store.put_opts(&path, PutPayload::from(bytes.clone()), options);
            let failure = match in_time(limit, put).await {
                Ok(PutResult { e_tag, version: generation, .. }) => {
                    return Ok(Put::Done(version(e_tag.as_deref(), generation.as_deref())));
                }
                Err(failure) => failure,
            };
            match failure.cause {
                // Some stores answer a replacement of what is not there by "not found".
                Cause::Exists | Cause::Changed | Cause::NotFound => {
                    return Ok(match self.fetch(key, MAX_LEN).await? {
                        Some(found) if found.bytes == *bytes => Put::Done(found.version),
                        found => Put::Refused(found),
                    });
                }
                _ => tries.again(failure).await?,
            }
        }
    }
}

enum Put {
    Done(Version),
    /// With what is there instead.
    Refused(Option<Fetched>),
}

fn update(version: &Version) -> Result<UpdateVersion> {
    let text = std::str::from_utf8(&version.0).ok().and_then(|text| text.split_once('\n'));
    let (etag, generation) = text.ok_or_else(|| Error::invalid("a version that no object store gave"))?;
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(UpdateVersion { e_tag: some(etag), version: some(generation) })
}
