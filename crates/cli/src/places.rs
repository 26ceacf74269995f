//! Where things lie on this host: `GABION_HOME`, else the XDG base directories, else root's folders.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use gabion_store_core::{Error, Result};

/// Folders of this host. None has to exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The default store and the volumes.
    pub data: PathBuf,
    /// Caches; may be removed at any time.
    pub cache: PathBuf,
    /// Sockets.
    pub runtime: PathBuf,
    /// The configuration file.
    pub config: PathBuf,
}

impl Places {
    /// From this process's environment.
    pub fn from_env() -> Result<Self> {
        let names =
            ["GABION_HOME", "HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"];
        let env = names.iter().filter_map(|name| Some((*name, std::env::var_os(name)?.into()))).collect();
        Self::from(&env, rustix::process::geteuid().is_root())
    }

    fn from(env: &BTreeMap<&str, PathBuf>, is_root: bool) -> Result<Self> {
        // The XDG specification has relative paths ignored; so are empty ones.
        let absolute = |name| env.get(name).filter(|path| path.is_absolute()).cloned();
        if let Some(home) = env.get("GABION_HOME").filter(|home| !home.as_os_str().is_empty()) {
            let home = std::path::absolute(home).map_err(|e| Error::io("GABION_HOME is no path", e))?;
            return Ok(Self::below(&home));
        }
        let home = absolute("HOME");
        let config_home = absolute("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
        let config = config_home.map(|folder| folder.join("gabion/config.toml"));
        if is_root {
            return Ok(Self {
                data: "/var/lib/gabion".into(),
                cache: "/var/cache/gabion".into(),
                runtime: "/run/gabion".into(),
                config: config.unwrap_or_else(|| "/root/.config/gabion/config.toml".into()),
            });
        }
        let no_home =
            || Error::invalid("neither GABION_HOME nor HOME is set: set one of them to an absolute path");
        let data = absolute("XDG_DATA_HOME").or_else(|| Some(home.as_ref()?.join(".local/share")));
        let data = data.ok_or_else(no_home)?.join("gabion");
        let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(home.as_ref()?.join(".cache")));
        Ok(Self {
            cache: cache.ok_or_else(no_home)?.join("gabion"),
            runtime: absolute("XDG_RUNTIME_DIR")
                .map_or_else(|| data.join("run"), |folder| folder.join("gabion")),
            config: config.ok_or_else(no_home)?,
            data,
        })
    }

    /// Everything below one folder, as with `GABION_HOME`.
    pub fn below(home: &Path) -> Self {
        Self {
            data: home.to_owned(),
            cache: home.join("cache"),
            runtime: home.join("run"),
            config: home.join("config.toml"),
        }
    }

    /// The default store.
    pub fn store(&self) -> PathBuf {
        self.data.join("store")
    }

    /// The disk cache of remote stores.
    pub fn disk_cache(&self) -> PathBuf {
        self.cache.join("chunks")
    }

    /// The volumes.
    pub fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_folder_or_the_usual_ones() {
        let env = |pairs: &[(&'static str, &str)]| {
            pairs.iter().map(|(name, path)| (*name, PathBuf::from(path))).collect()
        };
        let places = Places::from(&env(&[("GABION_HOME", "/g"), ("HOME", "/h")]), true).unwrap();
        assert_eq!(places, Places::below(Path::new("/g")));
        let places = Places::from(&env(&[("HOME", "/h"), ("XDG_CACHE_HOME", "relative")]), false).unwrap();
        assert_eq!(places.store(), Path::new("/h/.local/share/gabion/store"));
        assert_eq!(places.cache, Path::new("/h/.cache/gabion"));
        assert_eq!(places.runtime, Path::new("/h/.local/share/gabion/run"));
        assert_eq!(places.config, Path::new("/h/.config/gabion/config.toml"));
        let places = Places::from(&env(&[("HOME", "/root")]), true).unwrap();
        assert_eq!(places.runtime, Path::new("/run/gabion"));
        assert!(Places::from(&env(&[]), false).is_err());
    }
}
