//! [`ObjectUrl`]: where a store in a bucket is, as people write it. Never a secret: those come from the
//! environment.

use std::{fmt, net::IpAddr, str::FromStr};

use gabion_store_core::{Error, ErrorKind, Result};
use object_store::path::Path;
use url::Url;

mod options;
#[cfg(test)]
mod tests;

pub use options::UrlOptions;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
pub(crate) use options::check_endpoint;

/// Longest URL, in bytes.
const MAX_URL: usize = 4096;

/// What speaks at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Scheme {
    /// `s3://bucket/prefix`: Amazon S3 and what speaks its protocol.
    S3,
    /// `gs://bucket/prefix`: Google Cloud Storage.
    Gcs,
    /// `az://container/prefix`: Azure Blob Storage.
    Azure,
    /// `http://host/path`: a store's folder behind a web server, read-only.
    Http,
    /// `https://host/path`: the same.
    Https,
    /// `file:///folder`: a folder used as a bucket.
    File,
    /// `memory://name`: a bucket in this process, for tests.
    Memory,
}

impl Scheme {
    const ALL: [Self; 7] =
        [Self::S3, Self::Gcs, Self::Azure, Self::Http, Self::Https, Self::File, Self::Memory];

    /// What stands before `://`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
            Self::Http => "http",
            Self::Https => "https",
            Self::File => "file",
            Self::Memory => "memory",
        }
    }

    /// The feature of this crate that it needs and that this build lacks.
    fn missing_feature(self) -> Option<&'static str> {
        let (feature, built) = match self {
            Self::S3 => ("s3", cfg!(feature = "s3")),
            Self::Gcs => ("gcs", cfg!(feature = "gcs")),
            Self::Azure => ("azure", cfg!(feature = "azure")),
            Self::Http | Self::Https => ("http", cfg!(feature = "http")),
            Self::File | Self::Memory => return None,
        };
        (!built).then_some(feature)
    }

    /// Environment variables that hold what a URL must not.
    pub(crate) fn secrets(self) -> &'static str {
        match self {
            Self::S3 => "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
            Self::Gcs => "GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_SERVICE_ACCOUNT",
            Self::Azure => "AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
            Self::Http | Self::Https | Self::File | Self::Memory => {
                "none: a store at such a URL is read without credentials"
            }
        }
    }
}

/// A store's place in a bucket, with how to reach it. `Display` gives it back, in one normal form, and
/// neither it nor `Debug` can show a secret, because parsing refuses them.
///
/// ```
/// # use gabion_store_s3::ObjectUrl;
/// let url: ObjectUrl = "s3://images/prod?region=eu-central-1".parse()?;
/// assert_eq!(url.to_string(), "s3://images/prod?region=eu-central-1");
/// # Ok::<(), gabion_store_core::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectUrl {
    scheme: Scheme,
    /// Bucket, container, host and port, or name; empty for a folder.
    authority: String,
    prefix: Path,
    options: UrlOptions,
}

impl ObjectUrl {
    /// Whether a text is meant as one of these URLs: it begins with a known scheme and `://`.
    pub fn claims(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| Scheme::ALL.iter().any(|s| s.as_str() == scheme))
    }

    /// What speaks at the other end.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Bucket, container, host and port, or name; empty for a folder.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The store's prefix in the bucket; for a folder, the folder, without its leading slash.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// How to reach it.
    pub fn options(&self) -> &UrlOptions {
        &self.options
    }

    /// Whether nothing can be written there.
    pub fn read_only(&self) -> bool {
        matches!(self.scheme, Scheme::Http | Scheme::Https)
    }

    /// The place alone, without options: for messages.
    pub fn place(&self) -> String {
        format!("{}://{}{}", self.scheme.as_str(), self.authority, self.path_text())
    }

    fn path_text(&self) -> String {
        match self.prefix.as_ref() {
            "" => String::new(),
            prefix => format!("/{}", escape(prefix)),
        }
    }
}

impl FromStr for ObjectUrl {
    type Err = Error;

    /// **Errors**: `Invalid` for what is no such URL, has an unknown option or a secret in it; `Unsupported`
    /// for a scheme that this build was made without.
    fn from_str(text: &str) -> Result<Self> {
        if text.len() > MAX_URL {
            return Err(Error::invalid(format!("a store's URL has at most {MAX_URL} bytes")));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Error::invalid(
                "that is no URL of a store: it begins with s3://, gs://, az://, https://, http://, file:/// or memory://",
            ));
        };
        let scheme = scheme_of(scheme)?;
        let (location, query) = rest.split_once('?').unwrap_or((rest, ""));
        if rest.contains('#') {
            return Err(Error::invalid("a store's URL has no '#': write it as %23"));
        }
        let (authority, path) = location.split_at(location.find('/').unwrap_or(location.len()));
        let url = Self {
            scheme,
            authority: check_authority(scheme, authority)?,
            prefix: check_prefix(path)?,
            options: UrlOptions::parse(scheme, query)?,
        };
        if scheme == Scheme::Http && !url.options.allow_http && !is_loopback(&url.authority) {
            return Err(plain_http(&url.authority));
        }
        if scheme == Scheme::File && url.prefix.as_ref().is_empty() {
            return Err(Error::invalid("file:/// names no folder"));
        }
        Ok(url)
    }
}

impl fmt::Display for ObjectUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.place(), self.options)
    }
}

impl fmt::Debug for ObjectUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

fn scheme_of(text: &str) -> Result<Scheme> {
    let Some(scheme) = Scheme::ALL.into_iter().find(|scheme| scheme.as_str().eq_ignore_ascii_case(text))
    else {
        return Err(Error::invalid(format!(
            "unknown scheme '{}://': a store is at s3://, gs://, az://, https://, http://, file:/// or memory://",
            shown(text)
        )));
    };
    match scheme.missing_feature() {
        None => Ok(scheme),
        Some(feature) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("{}:// needs feature '{feature}', which this build was made without", scheme.as_str()),
        )),
    }
}

fn check_authority(scheme: Scheme, authority: &str) -> Result<String> {
    if authority.contains('@') {
        return Err(Error::invalid(format!(
            "a store's URL holds no user or password: they come from the environment ({})",
            scheme.secrets()
        )));
    }
    if scheme == Scheme::File {
        return match authority {
            "" | "localhost" => Ok(String::new()),
            _ => Err(Error::invalid("a folder's URL is file:///ABSOLUTE/PATH")),
        };
    }
    let allowed = |c: char| match scheme {
        Scheme::Http | Scheme::Https => c.is_ascii_alphanumeric() || "-._:[]".contains(c),
        _ => c.is_ascii_alphanumeric() || "-._$".contains(c),
    };
    if authority.is_empty() || authority.len() > 255 || !authority.chars().all(allowed) {
        let what = match scheme {
            Scheme::Http | Scheme::Https => "a host",
            Scheme::Azure => "a container",
            Scheme::Memory => "a name",
            _ => "a bucket",
        };
        return Err(Error::invalid(format!(
            "{}:// is followed by {what}, of letters, digits, '-', '.' and '_'",
            scheme.as_str()
        )));
    }
    match scheme {
        Scheme::Http | Scheme::Https => Ok(authority.to_ascii_lowercase()),
        _ => Ok(authority.to_owned()),
    }
}

fn check_prefix(path: &str) -> Result<Path> {
    let refused = || {
        Error::invalid(
            "the path in a store's URL has no empty parts, no '.' or '..', no control characters, and is UTF-8",
        )
    };
    let prefix = Path::from_url_path(path).map_err(|_| refused())?;
    if prefix.as_ref().chars().any(char::is_control) {
        return Err(refused());
    }
    Ok(prefix)
}

/// Whether `host[:port]` is this machine.
pub(crate) fn is_loopback(authority: &str) -> bool {
    let Ok(url) = Url::parse(&format!("http://{authority}/")) else { return false };
    let host = url.host_str().unwrap_or_default();
    host == "localhost"
        || host.trim_start_matches('[').trim_end_matches(']').parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// What plain HTTP to somewhere else is answered.
pub(crate) fn plain_http(host: &str) -> Error {
    Error::invalid(format!(
        "plain http to {host} shows data and credentials to everyone on the way: use https, or add \
         allow_http=true to the URL if you are sure"
    ))
}

/// Percent-encodes whatever has a meaning of its own in a URL, or may not stand in one.
fn escape(text: &str) -> String {
    use fmt::Write as _;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/:@!$'()*,;=".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// A foreign word, for a message: what may be long, or no word at all, is left out.
fn shown(word: &str) -> &str {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+".contains(c);
    if word.len() <= 40 && word.chars().all(plain) { word } else { "…" }
}
