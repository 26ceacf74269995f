//! Failures in words: what was done to which object of which store, what went wrong, and what to do.

use gabion_store_core::Error;

use super::{Cause, Failure};

/// What was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Read,
    Write,
    List,
    Delete,
}

impl Action {
    fn doing(self) -> &'static str {
        match self {
            Self::Read => "reading",
            Self::Write => "writing",
            Self::List => "listing",
            Self::Delete => "removing",
        }
    }

    /// The permission that it takes, as the provider of `place` calls it.
    fn permission(self, place: &str) -> &'static str {
        let provider = place.split_once("://").map_or("", |(scheme, _)| scheme);
        match (provider, self) {
            ("s3", Self::Read) => {
                "s3:GetObject on this key; without s3:ListBucket on the bucket, S3 answers so for absent objects, too"
            }
            ("s3", Self::Write) => "s3:PutObject on this key",
            ("s3", Self::List) => "s3:ListBucket on the bucket",
            ("s3", Self::Delete) => "s3:DeleteObject on this key",
            ("gs", Self::Read) => "storage.objects.get on this object",
            ("gs", Self::Write) => {
                "storage.objects.create on this object, and storage.objects.delete to replace it"
            }
            ("gs", Self::List) => "storage.objects.list on the bucket",
            ("gs", Self::Delete) => "storage.objects.delete on this object",
            ("az", Self::Read | Self::List) => "the role Storage Blob Data Reader on the container",
            ("az", Self::Write | Self::Delete) => "the role Storage Blob Data Contributor on the container",
            (_, Self::Read) => "to be readable",
            (_, Self::List) => "to be listable",
            (_, Self::Write | Self::Delete) => "to be writable",
        }
    }
}

/// The error for `failure`.
pub(super) fn explain(place: &str, action: Action, key: &str, failure: &Failure) -> Error {
    let what = format!("{} {key} in {place}", action.doing());
    let detail = if failure.detail.is_empty() { String::new() } else { format!(" ({})", failure.detail) };
    let text = match &failure.cause {
        Cause::NotFound => format!("{key} is not in {place}"),
        Cause::NoBucket => {
            let (kind, name) = bucket_of(place);
            format!(
                "{what}: there is no such {kind} as '{name}'{detail}: make it with its provider's tools, or look at its \
                 name, the endpoint and the account"
            )
        }
        Cause::Exists => format!("{key} exists already in {place}"),
        Cause::Changed => format!("{key} in {place} was changed by someone else: read it again"),
        Cause::Busy => format!("{what} failed: others are writing it all the time{detail}"),
        Cause::Denied => format!("{what} was denied{detail}: it needs {}", action.permission(place)),
        Cause::BadCredentials => {
            format!(
                "{what}: the credentials were refused{detail}: look at {}, and at the clock",
                variables(place)
            )
        }
        Cause::NoCredentials => format!("{what}: no credentials{detail}: {}", no_credentials(place)),
        Cause::ClockSkew => {
            format!(
                "{what} was refused{detail}: this machine's clock is wrong, and signatures carry the time: set it"
            )
        }
        Cause::WrongRegion(Some(region)) => {
            format!("{what}: the bucket is in region {region}{detail}: add region={region} to the URL")
        }
        Cause::WrongRegion(None) if place.starts_with("s3:") => format!(
            "{what}: the bucket is not here{detail}: add region=NAME to the URL, or look at the endpoint"
        ),
        Cause::WrongRegion(None) => format!("{what}: it is somewhere else{detail}: look at the URL"),
        Cause::SlowDown(_) => {
            format!("{what} failed: the store asks for fewer requests{detail}: try again later")
        }
        Cause::Server => format!("{what} failed: the store has trouble{detail}: try again later"),
        Cause::Unreached => format!("{what} failed: the store can't be reached{detail}"),
        Cause::TimedOut => format!("{what} failed: the store does not answer{detail}"),
        Cause::WrongBody => format!("{what}: the bytes are not those that were asked for{detail}"),
        Cause::WrongLength => format!("{key} in {place} has a wrong length{detail}"),
        Cause::NoSpace => format!("{what}: the store is full{detail}"),
        Cause::Unsupported => format!("{what}: this store can't do that{detail}"),
        Cause::NoRanges => {
            format!("{what}: the server gives whole files only: it must answer range requests")
        }
        Cause::Refused => format!("{what} was refused{detail}"),
        Cause::Unknown => format!("{what} failed{detail}"),
    };
    Error::new(failure.kind(), text)
}

/// What holds the objects at a place: its kind and name.
fn bucket_of(place: &str) -> (&'static str, &str) {
    let (scheme, rest) = place.split_once("://").unwrap_or(("", place));
    let kind = if scheme == "az" { "container" } else { "bucket" };
    (kind, rest.split('/').next().unwrap_or(rest))
}

/// Where credentials are looked for.
fn variables(place: &str) -> &'static str {
    match place.split_once("://").map_or("", |(scheme, _)| scheme) {
        "s3" => "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN",
        "gs" => "GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_SERVICE_ACCOUNT and GOOGLE_SERVICE_ACCOUNT_KEY",
        "az" => {
            "AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN and AZURE_CLIENT_ID with AZURE_CLIENT_SECRET"
        }
        _ => "the server's settings",
    }
}

fn no_credentials(place: &str) -> String {
    let more = match place.split_once("://").map_or("", |(scheme, _)| scheme) {
        "s3" => {
            "AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN, AWS_CONTAINER_CREDENTIALS_RELATIVE_URI, and then the \
             instance's metadata service, which did not answer; AWS_PROFILE and ~/.aws are not read (aws configure \
             export-credentials --format env shows a profile's variables); anonymous=true reads public buckets"
        }
        "gs" => {
            "gcloud's application default credentials, and then the metadata service, which did not answer; \
             anonymous=true reads public buckets"
        }
        "az" => {
            "AZURE_FEDERATED_TOKEN_FILE, and then the metadata service, which did not answer; anonymous=true reads \
             public containers"
        }
        _ => return "none are known for this kind of store".to_owned(),
    };
    format!("looked for {}, {more}", variables(place))
}
