//! Buckets: objects by key, and conditions on writing them.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Between the check and the write of a store whose conditions don't hold under a race.
const RACE: Duration = Duration::from_millis(20);

/// What becomes of conditions on writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Conditions {
    /// They are checked and the object is written in one step.
    #[default]
    Kept,
    /// They are not looked at.
    Ignored,
    /// They are checked, and the object is written some time later.
    Racy,
}

/// What must be true for an object to be written, read or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    None,
    /// There is no object.
    Absent,
    /// The object has this etag.
    Etag(String),
    /// The object is of this generation.
    Generation(u64),
}

/// Why a condition is not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmet {
    /// There is no object at all.
    Missing,
    /// There is another.
    Other,
}

impl Condition {
    pub(crate) fn check(&self, object: Option<&Object>) -> Result<(), Unmet> {
        let met = match (self, object) {
            (Self::None, _) | (Self::Absent, None) => true,
            (Self::Absent, Some(_)) => false,
            (Self::Etag(_) | Self::Generation(_), None) => return Err(Unmet::Missing),
            (Self::Etag(etag), Some(object)) => *etag == object.etag || etag == "*",
            (Self::Generation(generation), Some(object)) => *generation == object.generation,
        };
        if met { Ok(()) } else { Err(Unmet::Other) }
    }
}

/// One object. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) bytes: Bytes,
    /// Quoted. Told by the content alone, as S3's is.
    pub(crate) etag: String,
    /// Grows with every write in this cloud.
    pub(crate) generation: u64,
    pub(crate) modified: Timestamp,
}

/// A page of a list.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) objects: Vec<(String, Object)>,
    /// What keys up to the first delimiter behind the prefix have in common.
    pub(crate) folders: Vec<String>,
    /// Where the next page starts, if there is one.
    pub(crate) next: Option<String>,
}

/// What to list.
#[derive(Debug, Default)]
pub(crate) struct Query {
    pub(crate) prefix: String,
    pub(crate) delimiter: String,
    /// Only keys, and folders, that sort behind this.
    pub(crate) after: String,
    pub(crate) max: usize,
}

/// All buckets.
#[derive(Debug, Default)]
pub(crate) struct Buckets {
    buckets: Mutex<BTreeMap<String, BTreeMap<String, Object>>>,
    writes: AtomicU64,
    conditions: Mutex<Conditions>,
}

/// There is no such bucket.
#[derive(Debug)]
pub(crate) struct NoBucket;

impl Buckets {
    pub(crate) fn create(&self, bucket: &str) {
        self.buckets.lock().entry(bucket.to_owned()).or_default();
    }

    pub(crate) fn set_conditions(&self, conditions: Conditions) {
        *self.conditions.lock() = conditions;
    }

    pub(crate) fn get(&self, bucket: &str, key: &str) -> Result<Option<Object>, NoBucket> {
        Ok(self.buckets.lock().get(bucket).ok_or(NoBucket)?.get(key).cloned())
    }

    /// Writes an object if the condition is met, and gives it.
    ///
    /// Cancel safety: dropped before it is done, it may or may not have written.
    pub(crate) async fn put(
        &self,
        bucket: &str,
        key: &str,
        bytes: Bytes,
        condition: &Condition,
    ) -> Result<Result<Object, Unmet>, NoBucket> {
        if *self.conditions.lock() == Conditions::Racy && *condition != Condition::None {
            if let Err(unmet) = condition.check(self.get(bucket, key)?.as_ref()) {
                return Ok(Err(unmet));
            }
            tokio::time::sleep(RACE).await;
        }
        self.put_now(bucket, key, bytes, condition)
    }

    pub(crate) fn put_now(
        &self,
        bucket: &str,
        key: &str,
        bytes: Bytes,
        condition: &Condition,
    ) -> Result<Result<Object, Unmet>, NoBucket> {
        let etag = format!("\"{}\"", &blake3::hash(&bytes).to_hex()[..32]);
        let conditions = *self.conditions.lock();
        let mut buckets = self.buckets.lock();
        let objects = buckets.get_mut(bucket).ok_or(NoBucket)?;
        if conditions == Conditions::Kept
            && let Err(unmet) = condition.check(objects.get(key))
        {
            return Ok(Err(unmet));
        }
        let modified = Timestamp::now();
        // As Google's: some number that grows, and is not close to 0.
        let generation = 1_700_000_000_000_000 + self.writes.fetch_add(1, Ordering::Relaxed);
        let object = Object { bytes, etag, generation, modified };
        objects.insert(key.to_owned(), object.clone());
        Ok(Ok(object))
    }

    /// Removes an object; whether there was one.
    pub(crate) fn delete(
        &self,
        bucket: &str,
        key: &str,
        condition: &Condition,
    ) -> Result<Result<bool, Unmet>, NoBucket> {
        let mut buckets = self.buckets.lock();
        let objects = buckets.get_mut(bucket).ok_or(NoBucket)?;
        Ok(condition.check(objects.get(key)).map(|()| objects.remove(key).is_some()))
    }

    pub(crate) fn list(&self, bucket: &str, query: &Query) -> Result<Page, NoBucket> {
        let buckets = self.buckets.lock();
        let objects = buckets.get(bucket).ok_or(NoBucket)?;
        let mut page = Page::default();
        // A folder that was listed is passed over with all that is in it.
        let past = |key: &str| {
            let folder = !query.delimiter.is_empty() && query.after.ends_with(&query.delimiter);
            key <= query.after.as_str() || (folder && key.starts_with(&query.after))
        };
        let from = Bound::Included(query.prefix.clone().max(query.after.clone()));
        let below =
            objects.range((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(&query.prefix));
        for (key, object) in below.filter(|(key, _)| !past(key)) {
            let rest = &key[query.prefix.len()..];
            let folder = (!query.delimiter.is_empty())
                .then(|| rest.find(&query.delimiter))
                .flatten()
                .map(|at| &key[..query.prefix.len() + at + query.delimiter.len()]);
            if folder.is_some() && folder == page.folders.last().map(String::as_str) {
                continue;
            }
            if page.objects.len() + page.folders.len() >= query.max {
                page.next = page.last();
                break;
            }
            match folder {
                Some(folder) => page.folders.push(folder.to_owned()),
                None => page.objects.push((key.clone(), object.clone())),
            }
        }
        Ok(page)
    }

    /// Every object of a bucket.
    pub(crate) fn all(&self, bucket: &str) -> BTreeMap<String, Bytes> {
        let buckets = self.buckets.lock();
        let objects = buckets.get(bucket).into_iter().flatten();
        objects.map(|(key, object)| (key.clone(), object.bytes.clone())).collect()
    }
}

impl Page {
    fn last(&self) -> Option<String> {
        let object = self.objects.last().map(|(key, _)| key);
        object.into_iter().chain(self.folders.last()).max().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn filled(keys: &[&str]) -> Buckets {
        let buckets = Buckets::default();
        buckets.create("b");
        for key in keys {
            buckets.put("b", key, Bytes::from_static(b"x"), &Condition::None).await.unwrap().unwrap();
        }
        buckets
    }

    /// All names that pages of `max` give, in their order.
    fn listed(buckets: &Buckets, prefix: &str, delimiter: &str, max: usize) -> Vec<String> {
        let (mut names, mut after) = (Vec::new(), String::new());
        loop {
            let query = Query { prefix: prefix.into(), delimiter: delimiter.into(), after, max };
            let page = buckets.list("b", &query).unwrap();
            assert!(page.objects.len() + page.folders.len() <= max);
            let mut names_here: Vec<_> = page.objects.into_iter().map(|(key, _)| key).collect();
            names_here.extend(page.folders);
            names_here.sort();
            names.extend(names_here);
            let Some(next) = page.next else { return names };
            after = next;
        }
    }

    #[tokio::test]
    async fn pages_of_any_size_give_the_same_list() {
        let keys = ["a", "a/b", "a/b/1", "a/b/2", "a/c/1", "a0", "ab/1", "b"];
        let buckets = filled(&keys).await;
        for max in 1..10 {
            assert_eq!(listed(&buckets, "", "", max), keys);
            assert_eq!(listed(&buckets, "a/", "", max), ["a/b", "a/b/1", "a/b/2", "a/c/1"]);
            assert_eq!(listed(&buckets, "", "/", max), ["a", "a/", "a0", "ab/", "b"]);
            assert_eq!(listed(&buckets, "a/", "/", max), ["a/b", "a/b/", "a/c/"]);
            assert_eq!(listed(&buckets, "c", "/", max), [""; 0]);
        }
    }

    #[tokio::test]
    async fn conditions_are_kept_ignored_or_racy() {
        for (conditions, winners) in [(Conditions::Kept, 1), (Conditions::Ignored, 2), (Conditions::Racy, 2)]
        {
            let buckets = filled(&[]).await;
            buckets.set_conditions(conditions);
            let create = || buckets.put("b", "k", Bytes::new(), &Condition::Absent);
            let (one, two) = tokio::join!(create(), create());
            let won = [one, two].into_iter().filter(|put| put.as_ref().unwrap().is_ok()).count();
            assert_eq!(won, winners, "{conditions:?}");
        }
    }

    #[tokio::test]
    async fn what_is_compared() {
        let buckets = filled(&["k"]).await;
        let object = buckets.get("b", "k").unwrap().unwrap();
        let check = |condition: Condition| condition.check(Some(&object));
        assert_eq!(check(Condition::Absent), Err(Unmet::Other));
        assert_eq!(check(Condition::Etag(object.etag.clone())), Ok(()));
        assert_eq!(check(Condition::Etag("\"x\"".into())), Err(Unmet::Other));
        assert_eq!(check(Condition::Generation(object.generation)), Ok(()));
        assert_eq!(check(Condition::Generation(0)), Err(Unmet::Other));
        assert_eq!(Condition::Etag("*".into()).check(None), Err(Unmet::Missing));
        assert_eq!(Condition::Absent.check(None), Ok(()));
    }
}
