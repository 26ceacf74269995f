//! Options of a store's URL, behind its `?`.

use std::fmt;

use gabion_store_core::{Error, Result};
use url::{Url, form_urlencoded};

use super::{Scheme, escape, is_loopback, plain_http, shown};

/// How to reach a bucket. What is not given comes from the environment, or is the provider's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct UrlOptions {
    /// Address of a server that is not the provider's own: `http[s]://host[:port][/path]`.
    pub endpoint: Option<String>,
    /// Region of an S3 bucket.
    pub region: Option<String>,
    /// Azure storage account.
    pub account: Option<String>,
    /// The bucket stands in the path (default) and not in the name of the host. S3 alone.
    pub path_style: Option<bool>,
    /// Plain HTTP to another machine than this one is meant.
    pub allow_http: bool,
    /// Requests are not signed and no credentials are looked for.
    pub anonymous: bool,
    /// Only one process writes, so conditional writes need not hold.
    pub single_writer: bool,
}

/// Options that a scheme knows.
fn known(scheme: Scheme) -> &'static [&'static str] {
    match scheme {
        Scheme::S3 => &["endpoint", "region", "path_style", "allow_http", "anonymous", "single_writer"],
        Scheme::Gcs => &["endpoint", "allow_http", "anonymous", "single_writer"],
        Scheme::Azure => &["endpoint", "account", "allow_http", "anonymous", "single_writer"],
        Scheme::Http => &["allow_http"],
        Scheme::Https => &[],
        Scheme::File | Scheme::Memory => &["single_writer"],
    }
}

/// Whether an option's name is one under which keys, tokens and signatures are known.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let parts = ["key", "secret", "token", "signature", "credential", "password", "sas"];
    parts.iter().any(|part| name.contains(part))
        || name.starts_with("x_amz_")
        || name.starts_with("x_goog_")
        || ["sig", "se", "sp", "sv", "sr", "st", "user"].contains(&name.as_str())
}

impl UrlOptions {
    pub(super) fn parse(scheme: Scheme, query: &str) -> Result<Self> {
        let mut options = Self::default();
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let (name, value) = (name.as_ref(), value.as_ref());
            if !known(scheme).contains(&name) {
                return Err(unknown(scheme, name));
            }
            if seen.iter().any(|earlier| earlier == name) {
                return Err(Error::invalid(format!("option '{name}' is twice in the store's URL")));
            }
            options.set(name, value)?;
            seen.push(name.to_owned());
        }
        if let Some(endpoint) = &options.endpoint {
            options.endpoint = Some(check_endpoint(endpoint, options.allow_http)?);
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "endpoint" => self.endpoint = Some(value.to_owned()),
            "region" => self.region = Some(word(name, value)?),
            "account" => self.account = Some(word(name, value)?),
            "path_style" => self.path_style = Some(yes_or_no(name, value)?),
            "allow_http" => self.allow_http = yes_or_no(name, value)?,
            "anonymous" => self.anonymous = yes_or_no(name, value)?,
            "single_writer" => self.single_writer = yes_or_no(name, value)?,
            _ => return Err(Error::invalid(format!("unknown option '{}'", shown(name)))),
        }
        Ok(())
    }
}

impl fmt::Display for UrlOptions {
    /// With its `?`, or nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |set: bool| set.then(|| "true".to_owned());
        let options = [
            ("endpoint", self.endpoint.clone()),
            ("region", self.region.clone()),
            ("account", self.account.clone()),
            ("path_style", self.path_style.map(|set| set.to_string())),
            ("allow_http", yes(self.allow_http)),
            ("anonymous", yes(self.anonymous)),
            ("single_writer", yes(self.single_writer)),
        ];
        let mut sign = '?';
        for (name, value) in options {
            if let Some(value) = value {
                write!(f, "{sign}{name}={}", escape(&value))?;
                sign = '&';
            }
        }
        Ok(())
    }
}

fn unknown(scheme: Scheme, name: &str) -> Error {
    if is_secret(name) {
        return Error::invalid(format!(
            "'{}' looks like a secret, and a store's URL holds none: they come from the environment ({})",
            shown(name),
            scheme.secrets()
        ));
    }
    let known = match known(scheme) {
        [] => "it has none".to_owned(),
        known => format!("it has {}", known.join(", ")),
    };
    Error::invalid(format!("'{}' is no option of a {}:// URL: {known}", shown(name), scheme.as_str()))
}

fn yes_or_no(name: &str, value: &str) -> Result<bool> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Error::invalid(format!("option '{name}' of a store's URL is true or false"))),
    }
}

fn word(name: &str, value: &str) -> Result<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if value.is_empty() || value.len() > 63 || !value.chars().all(allowed) {
        return Err(Error::invalid(format!(
            "option '{name}' of a store's URL is a word of letters and digits"
        )));
    }
    Ok(value.to_owned())
}

/// The address of a server, without a slash at its end; nothing in it may be a secret.
pub(crate) fn check_endpoint(text: &str, allow_http: bool) -> Result<String> {
    let wrong =
        || Error::invalid("an endpoint is http[s]://HOST[:PORT][/PATH], without user, password or query");
    let url = Url::parse(text).map_err(|_| wrong())?;
    let plain = url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    let Some(host) = url.host_str().filter(|_| plain) else { return Err(wrong()) };
    match url.scheme() {
        "https" => {}
        "http" if allow_http || is_loopback(host) => {}
        "http" => return Err(plain_http(host)),
        _ => return Err(wrong()),
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}
