//! The mutable objects: image records and the catalog, changed by compare-and-swap under the store's lock.

use bytes::Bytes;
use gabion_store_core::{
    Error, ErrorKind, ImageName, Result,
    format::{
        catalog::Catalog,
        image_record::ImageRecord,
        layout::{self, CATALOG_KEY, IMAGES},
        tombstone::ImageObject,
    },
    store::{Version, Versioned},
    types::chunk_id,
};

use super::folder::Folder;

/// Longest record or catalog that is read into memory, in bytes.
const MAX_RECORD_LEN: u64 = 64 << 20;

/// Reads the catalog.
pub(super) fn read_catalog(folder: &Folder) -> Result<Versioned<Catalog>> {
    let bytes = catalog_bytes(folder)?;
    Ok(Versioned { value: decode_catalog(folder, &bytes)?, version: version_of(&bytes) })
}

fn decode_catalog(folder: &Folder, bytes: &[u8]) -> Result<Catalog> {
    Catalog::decode(bytes).map_err(|e| match e.kind() {
        ErrorKind::Corrupt => e.context(format!(
            "{}; 'repair' makes a new one of what the packs hold",
            damaged(folder, CATALOG_KEY)
        )),
        _ => e.context(damaged(folder, CATALOG_KEY)),
    })
}

/// Version of the catalog as it is now, and its bytes.
pub(super) fn catalog_bytes(folder: &Folder) -> Result<Vec<u8>> {
    folder.read(CATALOG_KEY, MAX_RECORD_LEN)?.ok_or_else(|| {
        Error::corrupt(format!(
            "{} is missing, without which no entry is found: 'repair' makes a new one of what the packs hold",
            folder.path(CATALOG_KEY).display()
        ))
    })
}

/// Replaces the catalog if it has version `expected`.
pub(super) fn write_catalog(folder: &Folder, catalog: &Catalog, expected: &Version) -> Result<Version> {
    let bytes = catalog.encode()?;
    let _lock = folder.lock()?;
    swap(folder, CATALOG_KEY, &bytes, Some(expected), Catalog::check_write)
}

/// Changes the catalog under the lock, whatever its version; `change` may refuse.
pub(super) fn change_catalog(
    folder: &Folder,
    change: impl FnOnce(&mut Catalog) -> Result<()>,
) -> Result<Version> {
    let _lock = folder.lock()?;
    let current = catalog_bytes(folder)?;
    let mut catalog = decode_catalog(folder, &current)?;
    Catalog::check_write(&current)?;
    change(&mut catalog)?;
    let bytes = catalog.encode()?;
    folder.replace(CATALOG_KEY, &bytes)?;
    Ok(version_of(&bytes))
}

/// Reads an image's record.
pub(super) fn read_image(folder: &Folder, name: &ImageName) -> Result<Option<Versioned<ImageRecord>>> {
    let key = layout::image_key(name);
    let Some(bytes) = folder.read(&key, MAX_RECORD_LEN)? else { return Ok(None) };
    let found = ImageObject::decode_at(&key, &bytes)
        .map_err(|e| e.context(format!("image '{name}': {}", damaged(folder, &key))))?;
    Ok(found.record().map(|value| Versioned { value, version: version_of(&bytes) }))
}

/// Replaces an image's record if it has version `expected`.
pub(super) fn write_image(
    folder: &Folder,
    record: &ImageRecord,
    expected: Option<&Version>,
) -> Result<Version> {
    let bytes = record.encode()?;
    let key = layout::image_key(&record.name);
    let _lock = folder.lock()?;
    let buried = match expected {
        None => tombstone(folder, &key)?,
        Some(_) => None,
    };
    swap(folder, &key, &bytes, expected.or(buried.as_ref()), ImageObject::check_write)
        .map_err(|e| e.context(format!("writing image '{}'", record.name)))
}

/// Version of the tombstone in an image's place, if there is one: in a folder that was copied out of a bucket.
fn tombstone(folder: &Folder, key: &str) -> Result<Option<Version>> {
    let Some(bytes) = folder.read(key, MAX_RECORD_LEN)? else { return Ok(None) };
    Ok(matches!(ImageObject::decode(&bytes), Ok(ImageObject::Removed(_))).then(|| version_of(&bytes)))
}

/// Removes an image's record if it has version `expected`.
pub(super) fn remove_image(folder: &Folder, name: &ImageName, expected: &Version) -> Result<()> {
    let key = layout::image_key(name);
    let _lock = folder.lock()?;
    let Some(current) = folder.read(&key, MAX_RECORD_LEN)? else {
        return Err(Error::new(ErrorKind::Conflict, format!("image '{name}' is not there any more")));
    };
    if version_of(&current) != *expected {
        return Err(conflict(folder, &key));
    }
    folder.remove(&key).map(|_| ())
}

/// Makes durable the names by which records and catalog are found. Their bytes are before they have these names.
pub(super) fn settle(folder: &Folder) -> Result<()> {
    for key in [IMAGES, ""] {
        if folder.exists(key)? {
            folder.sync_dir(key)?;
        }
    }
    Ok(())
}

/// Names of all images, behind them an error for each damaged record. What is no record, such as one that was
/// being written, is passed over.
pub(super) fn list_images(folder: &Folder) -> Result<Vec<Result<ImageName>>> {
    let (mut names, mut damage) = (Vec::new(), Vec::new());
    for file in folder.list(IMAGES)? {
        let key = format!("{IMAGES}/{file}");
        if file.len() != 64 || file.bytes().any(|byte| !byte.is_ascii_hexdigit()) {
            continue;
        }
        match name_in(folder, &key) {
            Ok(Some(name)) => names.push(name),
            // Removed, before or since the folder was read.
            Ok(None) => {}
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => damage.push(Err(e)),
            Err(e) => return Err(e),
        }
    }
    names.sort_unstable();
    Ok(names.into_iter().map(Ok).chain(damage).collect())
}

/// The name that an image's record tells, if it is in its place.
fn name_in(folder: &Folder, key: &str) -> Result<Option<ImageName>> {
    let Some(bytes) = folder.read(key, MAX_RECORD_LEN)? else { return Ok(None) };
    let found = ImageObject::decode_at(key, &bytes).map_err(|e| e.context(damaged(folder, key)))?;
    Ok(found.record().map(|record| record.name))
}

/// The version of an object's bytes. Records carry the id of the attempt that wrote them, so no two
/// writes have the same.
pub(super) fn version_of(bytes: &[u8]) -> Version {
    Version(Bytes::copy_from_slice(chunk_id(bytes).as_bytes()))
}

/// Compares and replaces; the caller holds the lock.
fn swap(
    folder: &Folder,
    key: &str,
    bytes: &[u8],
    expected: Option<&Version>,
    check_write: impl FnOnce(&[u8]) -> Result<()>,
) -> Result<Version> {
    let current = folder.read(key, MAX_RECORD_LEN)?;
    if current.as_deref().map(version_of).as_ref() != expected {
        return Err(conflict(folder, key));
    }
    if let Some(current) = current {
        check_write(&current)?;
    }
    folder.replace(key, bytes)?;
    Ok(version_of(bytes))
}

fn conflict(folder: &Folder, key: &str) -> Error {
    let path = folder.path(key);
    Error::new(ErrorKind::Conflict, format!("{} was changed by someone else: read it again", path.display()))
}

fn damaged(folder: &Folder, key: &str) -> String {
    format!("{} can't be read", folder.path(key).display())
}
