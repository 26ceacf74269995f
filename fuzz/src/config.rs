//! What people write: the configuration file, and the parts of a command line.

use std::{cell::RefCell, fs};

use gabion::{
    Settings, StoreUrl,
    core::{ChunkId, ImageName, ops::ImageRef},
};
use tempfile::NamedTempFile;

thread_local! {
    static FILE: RefCell<NamedTempFile> = RefCell::new(NamedTempFile::new().expect("a temporary file"));
}

/// Takes `text` for a configuration file, and for anything else that is parsed.
pub fn load(text: &str) {
    FILE.with_borrow(|file| {
        fs::write(file.path(), text).expect("write to a temporary file");
        let _ = Settings::load(file.path());
    });
    let _ = gabion::parse_size(text);
    let _ = gabion::parse_duration(text);
    let _ = gabion::parse_compression(text);
    let _ = text.parse::<StoreUrl>();
    let _ = text.parse::<ChunkId>();
    if let Ok(name) = text.parse::<ImageName>() {
        assert_eq!(name.as_str(), text);
    }
    if let Ok(image) = text.parse::<ImageRef>() {
        assert_eq!(image.to_string().parse::<ImageRef>().expect("what was shown can be read"), image);
    }
}
