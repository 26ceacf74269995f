//! Settings: flags over environment over the configuration file over defaults, each with its origin.

use std::{collections::BTreeMap, fs, io, path::Path, sync::LazyLock, time::Duration};

use gabion_store_core::{Error, Result, chunking::Chunking, format::codec::Compression};
use serde::{Deserialize, Serialize};
use url::form_urlencoded;

use crate::{
    Prices, StoreUrl, address::check_store_name, format_duration, parse_duration, parse_size,
    size::format_bytes,
};

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
    pub stores: BTreeMap<String, StoreUrl>,
    /// Name or URL of the store that damage in local stores is made good from, if there is one.
    pub heal_from: Setting<Option<String>>,
    /// Memory cache, in bytes.
    pub memory_cache: Setting<u64>,
    /// Disk cache of what remote stores answer, in bytes; 0 is none.
    pub disk_cache: Setting<u64>,
    /// A guest's longest wait for its disk: what a remote store may take follows from it.
    pub timeout: Setting<Duration>,
    /// How content is cut.
    pub chunker: Setting<Chunking>,
    /// What new chunks are encoded with.
    pub compression: Setting<Compression>,
    /// What requests and bytes cost.
    pub prices: Prices,
}

/// How content is encoded that is written straight to a remote store, if nothing else is said: what goes over a
/// network is packed tighter.
pub(crate) const REMOTE_COMPRESSION: Compression = Compression::Zstd(3);
/// Disk cache if nothing else is said.
const DISK_CACHE: u64 = 10 << 30;
/// A guest's longest wait if nothing else is said: that of Linux for its disks.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bounds of that wait: below, no network answers; above, no guest waits.
const TIMEOUTS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    store: Option<String>,
    #[serde(default)]
    stores: BTreeMap<String, NamedStore>,
    #[serde(default)]
    prices: Prices,
    heal_from: Option<String>,
    memory_cache: Option<String>,
    disk_cache: Option<String>,
    timeout: Option<String>,
    chunker: Option<String>,
    compression: Option<String>,
}

/// A store of the configuration: its URL, or a table with `url` and the URL's options beside it.
#[derive(Deserialize)]
#[serde(untagged)]
enum NamedStore {
    Url(String),
    Table(BTreeMap<String, toml::Value>),
}

impl NamedStore {
    fn url(self) -> Result<StoreUrl> {
        let mut options = match self {
            Self::Url(url) => return url.parse(),
            Self::Table(options) => options,
        };
        let Some(toml::Value::String(url)) = options.remove("url") else {
            return Err(Error::invalid("it has no url = \"…\""));
        };
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in options {
            match value {
                toml::Value::String(text) => query.append_pair(&name, &text),
                value => query.append_pair(&name, &value.to_string()),
            };
        }
        let query = query.finish();
        let sign = if url.contains('?') { '&' } else { '?' };
        if query.is_empty() { url.parse() } else { format!("{url}{sign}{query}").parse() }
    }
}

fn parse_timeout(text: &str) -> Result<Duration> {
    let timeout = parse_duration(text)?;
    if TIMEOUTS.contains(&timeout) {
        return Ok(timeout);
    }
    Err(Error::invalid(format!("a timeout of {text}: it is between 1s and 1h")))
}

impl Settings {
    /// Defaults, then the file if there is one, then the environment. A file or variable that can't be
    /// understood is `Invalid` and names it.
    pub fn load(config: &Path) -> Result<Self> {
        match fs::read_to_string(config) {
            Ok(text) => Self::parse(&text, config),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::parse("", config),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                Err(Error::invalid(format!("{} is no UTF-8 text", config.display())))
            }
            Err(e) => Err(Error::io(format!("{} can't be read", config.display()), e)),
        }
    }

    /// As [`load`](Self::load), from the text of a file that errors call `config`.
    pub fn parse(text: &str, config: &Path) -> Result<Self> {
        let mut settings = Self {
            store: Setting::default(None),
            stores: BTreeMap::new(),
            heal_from: Setting::default(None),
            memory_cache: Setting::default(default_memory_cache()),
            disk_cache: Setting::default(DISK_CACHE),
            timeout: Setting::default(TIMEOUT),
            prices: Prices::default(),
            chunker: Setting::default(Chunking::default()),
            compression: Setting::default(Compression::default()),
        };
        let place = |error: Error| error.context(config.display().to_string());
        let file: File = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(0, |span| text[..span.start].matches('\n').count()) + 1;
            Error::invalid(format!("{}, line {line}: {}", config.display(), e.message()))
        })?;
        for (name, store) in file.stores {
            check_store_name(&name).map_err(place)?;
            let url = store.url().map_err(|e| place(e.context(format!("[stores] {name}"))))?;
            settings.stores.insert(name, url);
        }
        file.prices.check().map_err(place)?;
        settings.prices = file.prices;
        settings.store.set(file.store.map(Some), Origin::File);
        settings.heal_from.set(file.heal_from.map(Some), Origin::File);
        let size = |text: Option<String>| text.map(|text| parse_size(&text)).transpose().map_err(place);
        settings.memory_cache.set(size(file.memory_cache)?, Origin::File);
        settings.disk_cache.set(size(file.disk_cache)?, Origin::File);
        let timeout = file.timeout.map(|text| parse_timeout(&text)).transpose();
        settings.timeout.set(timeout.map_err(place)?, Origin::File);
        settings.chunker.set(file.chunker.map(|t| t.parse()).transpose().map_err(place)?, Origin::File);
        settings
            .compression
            .set(file.compression.map(|t| parse_compression(&t)).transpose().map_err(place)?, Origin::File);
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        settings.store.set(variable("GABION_STORE").map(Some), Origin::Environment);
        settings.heal_from.set(variable("GABION_HEAL_FROM").map(Some), Origin::Environment);
        let size = |name: &str| {
            variable(name).map(|text| parse_size(&text).map_err(|e| e.context(name))).transpose()
        };
        settings.memory_cache.set(size("GABION_MEMORY_CACHE")?, Origin::Environment);
        settings.disk_cache.set(size("GABION_DISK_CACHE")?, Origin::Environment);
        let timeout = variable("GABION_TIMEOUT").map(|text| parse_timeout(&text)).transpose();
        settings.timeout.set(timeout.map_err(|e| e.context("GABION_TIMEOUT"))?, Origin::Environment);
        Ok(settings)
    }

    /// The settings in force, as name, value and origin.
    pub fn table(&self) -> Vec<(&'static str, String, Origin)> {
        let shown = |compression| match compression {
            Compression::None => "none".to_owned(),
            Compression::Zstd(level) => format!("zstd:{level}"),
        };
        let compression = match self.compression.origin {
            Origin::Default => {
                format!("{}, {} into buckets", shown(self.compression.value), shown(REMOTE_COMPRESSION))
            }
            _ => shown(self.compression.value),
        };
        let chunker = match self.chunker.value {
            Chunking::Content => "content".to_owned(),
            Chunking::Fixed(blocks) => format!("fixed:{}K", blocks * 4),
        };
        let disk_cache = match self.disk_cache.value {
            0 => "off".to_owned(),
            bytes => format_bytes(bytes),
        };
        vec![
            ("store", self.shown(&self.store.value, "the default local store"), self.store.origin.clone()),
            ("heal_from", self.shown(&self.heal_from.value, "off"), self.heal_from.origin.clone()),
            ("memory_cache", format_bytes(self.memory_cache.value), self.memory_cache.origin.clone()),
            ("disk_cache", disk_cache, self.disk_cache.origin.clone()),
            ("timeout", format_duration(self.timeout.value), self.timeout.origin.clone()),
            ("chunker", chunker, self.chunker.origin.clone()),
            ("compression", compression, self.compression.origin.clone()),
        ]
    }

    /// A store as it may be shown: a URL that is not understood may hold anything.
    fn shown(&self, store: &Option<String>, none: &str) -> String {
        match store {
            None => none.to_owned(),
            Some(name) if self.stores.contains_key(name) => name.clone(),
            Some(text) => text
                .parse::<StoreUrl>()
                .map_or_else(|e| format!("not understood: {}", e.report()), |url| url.to_string()),
        }
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
pub(crate) fn default_memory_cache() -> u64 {
    static DEFAULT: LazyLock<u64> = LazyLock::new(|| {
        let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        total.map_or(1 << 30, |kib| (kib * 1024 / 4).min(1 << 30))
    });
    *DEFAULT
}
