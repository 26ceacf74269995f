//! What people write, and JSON that processes of a host tell each other.

use std::path::Path;

use gabion::{
    InStore, Settings, StoreUrl,
    control::{CheckpointReply, CheckpointRequest, ExportReply, socket_of_note},
    core::{ChunkId, ImageName, chunking::Chunking, ops::ImageRef},
};
use gabion_store_core::Error;

/// The text, if it is one.
fn text(bytes: &[u8]) -> Option<&str> {
    str::from_utf8(bytes).ok()
}

/// Whatever is understood is understood the same way when it was shown.
fn same_again<T>(text: &str)
where
    T: std::str::FromStr<Err = Error> + std::fmt::Display + std::fmt::Debug + PartialEq,
{
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse::<T>().expect("what was shown can be read"), value);
    }
}

/// A configuration file; and sizes, durations, names and numbers, as in it and on a command line.
pub(crate) fn config(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(settings) = Settings::parse(text, Path::new("config.toml")) {
        for url in settings.stores.values() {
            same_again::<StoreUrl>(&url.to_string());
        }
        assert!(!settings.table().is_empty());
    }
    if let Ok(bytes) = gabion::parse_size(text) {
        let _ = gabion::format_bytes(bytes);
    }
    if let Ok(duration) = gabion::parse_duration(text) {
        let _ = gabion::format_duration(duration);
    }
    let _ = gabion::parse_compression(text);
    let _ = text.parse::<Chunking>();
    same_again::<ChunkId>(text);
    same_again::<ImageName>(text);
    same_again::<InStore<ImageRef>>(text);
}

/// The URL of a store.
pub(crate) fn store_url(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    same_again::<StoreUrl>(text);
    if let Ok(url) = text.parse::<StoreUrl>() {
        assert!(url.to_string().starts_with(&url.place()) || matches!(url, StoreUrl::Folder(_)));
    }
}

/// A request to the control socket, a reply from one, or the note in a lock that says where it is.
pub(crate) fn control(bytes: &[u8]) {
    fn again<T: serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug>(bytes: &[u8]) {
        if let Ok(value) = serde_json::from_slice::<T>(bytes) {
            let written = serde_json::to_vec(&value).expect("plain fields");
            let read: T = serde_json::from_slice(&written).expect("what was written can be read");
            assert_eq!(format!("{read:?}"), format!("{value:?}"));
        }
    }
    again::<CheckpointRequest>(bytes);
    again::<CheckpointReply>(bytes);
    again::<Vec<ExportReply>>(bytes);
    if let Some(note) = text(bytes) {
        let _ = socket_of_note(note);
    }
}
