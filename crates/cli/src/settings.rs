//! Settings: flags over environment over the configuration file over defaults, each with its origin.

use std::{collections::BTreeMap, fs, io, path::Path};

use gabion_store_core::{Error, Result, chunking::Chunking, format::codec::Compression};
use serde::{Deserialize, Serialize};

use crate::{parse_size, size::format_bytes};

/// Where a setting's value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// Built in.
    Default,
    /// The configuration file.
    File,
    /// An environment variable.
    Environment,
    /// A flag of the command line.
    Flag,
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value in force.
    pub value: T,
    /// Where it comes from.
    pub origin: Origin,
}

impl<T> Setting<T> {
    fn default(value: T) -> Self {
        Self { value, origin: Origin::Default }
    }

    /// Takes a value from a nearer origin, if there is one.
    pub fn set(&mut self, value: Option<T>, origin: Origin) {
        if let Some(value) = value {
            *self = Self { value, origin };
        }
    }
}

/// All settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The store that verbs use; `None` is the default local one.
    pub store: Setting<Option<String>>,
    /// Named stores, for `--store prod` and `prod:image`.
    pub stores: BTreeMap<String, String>,
    /// Memory cache, in bytes.
    pub memory_cache: Setting<u64>,
    /// How content is cut.
    pub chunker: Setting<Chunking>,
    /// What new chunks are encoded with.
    pub compression: Setting<Compression>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    store: Option<String>,
    #[serde(default)]
    stores: BTreeMap<String, String>,
    memory_cache: Option<String>,
    chunker: Option<String>,
    compression: Option<String>,
}

impl Settings {
    /// Defaults, then the file if there is one, then the environment. A file or variable that can't be
    /// understood is `Invalid` and names it.
    pub fn load(config: &Path) -> Result<Self> {
        let mut settings = Self {
            store: Setting::default(None),
            stores: BTreeMap::new(),
            memory_cache: Setting::default(default_memory_cache()),
            chunker: Setting::default(Chunking::default()),
            compression: Setting::default(Compression::default()),
        };
        let place = |error: Error| error.context(config.display().to_string());
        let file = match fs::read_to_string(config) {
            Ok(text) => toml::from_str(&text).map_err(|e| {
                let line = e.span().map_or(0, |span| text[..span.start].matches('\n').count()) + 1;
                Error::invalid(format!("{}, line {line}: {}", config.display(), e.message()))
            })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => File::default(),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                return Err(Error::invalid(format!("{} is no UTF-8 text", config.display())));
            }
            Err(e) => return Err(Error::io(format!("{} can't be read", config.display()), e)),
        };
        settings.stores = file.stores;
        settings.store.set(file.store.map(Some), Origin::File);
        settings
            .memory_cache
            .set(file.memory_cache.map(|t| parse_size(&t)).transpose().map_err(place)?, Origin::File);
        settings.chunker.set(file.chunker.map(|t| t.parse()).transpose().map_err(place)?, Origin::File);
        settings
            .compression
            .set(file.compression.map(|t| parse_compression(&t)).transpose().map_err(place)?, Origin::File);
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        settings.store.set(variable("GABION_STORE").map(Some), Origin::Environment);
        let cache = variable("GABION_MEMORY_CACHE").map(|text| parse_size(&text)).transpose();
        settings.memory_cache.set(cache.map_err(|e| e.context("GABION_MEMORY_CACHE"))?, Origin::Environment);
        Ok(settings)
    }

    /// The settings in force, as name, value and origin.
    pub fn table(&self) -> Vec<(&'static str, String, Origin)> {
        let compression = match self.compression.value {
            Compression::None => "none".to_owned(),
            Compression::Zstd(level) => format!("zstd:{level}"),
        };
        let chunker = match self.chunker.value {
            Chunking::Content => "content".to_owned(),
            Chunking::Fixed(blocks) => format!("fixed:{}K", blocks * 4),
        };
        let store = self.store.value.clone().unwrap_or_else(|| "the default local store".to_owned());
        vec![
            ("store", store, self.store.origin.clone()),
            ("memory_cache", format_bytes(self.memory_cache.value), self.memory_cache.origin.clone()),
            ("chunker", chunker, self.chunker.origin.clone()),
            ("compression", compression, self.compression.origin.clone()),
        ]
    }
}

/// `none`, `zstd` or `zstd:LEVEL`.
pub fn parse_compression(text: &str) -> Result<Compression> {
    let bad = || Error::invalid(format!("compression '{text}' is neither 'none' nor 'zstd:1' … 'zstd:22'"));
    match text.split_once(':') {
        None if text == "none" => Ok(Compression::None),
        None if text == "zstd" => Ok(Compression::default()),
        Some(("zstd", level)) => {
            let level = level.parse().ok().filter(|level| (1..=22).contains(level));
            level.map(Compression::Zstd).ok_or_else(bad)
        }
        _ => Err(bad()),
    }
}

/// The lesser of 1 GiB and a quarter of the machine's memory.
fn default_memory_cache() -> u64 {
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    total.map_or(1 << 30, |kib| (kib * 1024 / 4).min(1 << 30))
}
