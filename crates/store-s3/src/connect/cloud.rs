//! Clients for the providers.

use std::{sync::Arc, time::Duration};

use gabion_store_core::{Error, ErrorKind, Result};
use object_store::{ClientConfigKey, RetryConfig};

use super::Bucket;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
use super::Environment;
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
use crate::url::check_endpoint;
use crate::{
    timeouts::Timeouts,
    transport::{Address, Connector},
    url::ObjectUrl,
};

/// One attempt: what is tried again, and when, is this crate's business.
fn one_attempt(timeouts: &Timeouts) -> RetryConfig {
    RetryConfig { max_retries: 0, retry_timeout: timeouts.attempt(), ..RetryConfig::default() }
}

/// Settings of every client. Whole requests are timed by [`retry`](crate::retry), which knows their size; the
/// client's own limit only ends what nobody waits for any more.
fn client_settings(timeouts: &Timeouts) -> [(ClientConfigKey, String); 4] {
    let seconds = |time: Duration| format!("{} ms", time.as_millis());
    [
        (ClientConfigKey::ConnectTimeout, seconds(timeouts.connect())),
        (ClientConfigKey::Timeout, seconds(Duration::from_secs(24 * 3600))),
        (ClientConfigKey::UserAgent, concat!("gabion/", env!("CARGO_PKG_VERSION")).to_owned()),
        (ClientConfigKey::PoolIdleTimeout, seconds(Duration::from_secs(60))),
    ]
}

/// Keeps what the bucket, as opposed to a service for credentials, refuses.
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
fn connector(url: &ObjectUrl, endpoint: Option<&str>) -> Connector {
    let server = endpoint.and_then(|endpoint| Some(url::Url::parse(endpoint).ok()?.authority().to_owned()));
    Connector(Address { bucket: url.authority().to_owned(), server })
}

#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
fn bucket(url: &ObjectUrl, store: impl object_store::ObjectStore, endpoint: Option<String>) -> Bucket {
    Bucket { store: Arc::new(store), prefix: url.prefix().clone(), endpoint }
}

/// Whether a client may speak plain HTTP: it was allowed, or the server is this machine, which
/// [`check_endpoint`] has seen to.
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
fn speaks_http(url: &ObjectUrl, endpoint: Option<&str>) -> bool {
    url.options().allow_http || endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"))
}

/// The server's address: the URL's, else the environment's.
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
fn endpoint(url: &ObjectUrl, environment: &Environment, variables: &[&str]) -> Result<Option<String>> {
    if let Some(endpoint) = &url.options().endpoint {
        return Ok(Some(endpoint.clone()));
    }
    let Some((name, value)) = variables.iter().find_map(|name| Some((name, environment.get(name)?))) else {
        return Ok(None);
    };
    check_endpoint(value, url.options().allow_http)
        .map(Some)
        .map_err(|e| e.context(format!("reading {name}")))
}

/// Why a client can't be made: settings that contradict each other, or are missing. The library's own words may
/// show what it was given, so they are left out.
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
fn unusable(url: &ObjectUrl, variables: &str) -> Error {
    Error::new(
        ErrorKind::Invalid,
        format!(
            "no client can be made for {}: look at the URL's options and at the environment variables {variables}, \
             and at the files they name",
            url.place()
        ),
    )
}

/// Whether a variable is a setting of the client that this crate makes itself.
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
fn is_ours(key: &ClientConfigKey) -> bool {
    matches!(
        key,
        ClientConfigKey::ConnectTimeout
            | ClientConfigKey::Timeout
            | ClientConfigKey::ReadTimeout
            | ClientConfigKey::AllowHttp
            | ClientConfigKey::UserAgent
    )
}

#[cfg(feature = "s3")]
pub(super) fn s3(url: &ObjectUrl, timeouts: &Timeouts, environment: &Environment) -> Result<Bucket> {
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};
    let mut builder = AmazonS3Builder::new();
    for (name, value) in environment.starting_with("AWS_") {
        match name.to_ascii_lowercase().parse() {
            Ok(Key::Endpoint | Key::S3Endpoint | Key::Bucket | Key::ConditionalPut) => {}
            Ok(Key::Client(key)) if is_ours(&key) => {}
            Ok(key) => builder = builder.with_config(key, value),
            Err(_) => {}
        }
    }
    let options = url.options();
    let endpoint = endpoint(url, environment, &["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"])?;
    for (key, value) in client_settings(timeouts) {
        builder = builder.with_config(Key::Client(key), value);
    }
    builder = builder
        .with_bucket_name(url.authority())
        .with_retry(one_attempt(timeouts))
        .with_disable_bulk_delete(true)
        .with_allow_http(speaks_http(url, endpoint.as_deref()));
    if let Some(endpoint) = &endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if let Some(path_style) = options.path_style {
        builder = builder.with_virtual_hosted_style_request(!path_style);
    }
    if options.anonymous {
        builder = builder.with_skip_signature(true);
    }
    builder = builder.with_http_connector(connector(url, endpoint.as_deref()));
    let store = builder.build().map_err(|_| unusable(url, "AWS_*"))?;
    Ok(bucket(url, store, endpoint))
}

#[cfg(feature = "gcs")]
pub(super) fn gcs(url: &ObjectUrl, timeouts: &Timeouts, environment: &Environment) -> Result<Bucket> {
    use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey as Key};
    let mut builder = GoogleCloudStorageBuilder::new();
    for (name, value) in environment.starting_with("GOOGLE_") {
        match name.to_ascii_lowercase().parse() {
            Ok(Key::BaseUrl | Key::Bucket) => {}
            Ok(Key::Client(key)) if is_ours(&key) => {}
            Ok(key) => builder = builder.with_config(key, value),
            Err(_) => {}
        }
    }
    let endpoint = endpoint(url, environment, &["GOOGLE_BASE_URL", "STORAGE_EMULATOR_HOST"])?;
    for (key, value) in client_settings(timeouts) {
        builder = builder.with_config(Key::Client(key), value);
    }
    let allow_http = speaks_http(url, endpoint.as_deref());
    builder = builder
        .with_bucket_name(url.authority())
        .with_retry(one_attempt(timeouts))
        .with_config(Key::Client(ClientConfigKey::AllowHttp), allow_http.to_string());
    if let Some(endpoint) = &endpoint {
        builder = builder.with_base_url(endpoint);
    }
    if url.options().anonymous {
        // Without a token the client would ask the metadata service for one before each write.
        builder = builder.with_skip_signature(true).with_bearer_token("anonymous");
    }
    builder = builder.with_http_connector(connector(url, endpoint.as_deref()));
    let store = builder.build().map_err(|_| unusable(url, "GOOGLE_*"))?;
    Ok(bucket(url, store, endpoint))
}

#[cfg(feature = "azure")]
pub(super) fn azure(url: &ObjectUrl, timeouts: &Timeouts, environment: &Environment) -> Result<Bucket> {
    use object_store::azure::{AzureConfigKey as Key, MicrosoftAzureBuilder};
    let mut builder = MicrosoftAzureBuilder::new();
    for (name, value) in environment.starting_with("AZURE_") {
        match name.to_ascii_lowercase().parse() {
            Ok(Key::Endpoint | Key::ContainerName) => {}
            Ok(Key::Client(key)) if is_ours(&key) => {}
            Ok(key) => builder = builder.with_config(key, value),
            Err(_) => {}
        }
    }
    let account = [url.options().account.as_deref(), environment.get("AZURE_STORAGE_ACCOUNT_NAME")];
    let account = account.into_iter().chain([environment.get("AZURE_STORAGE_ACCOUNT")]).flatten().next();
    let Some(account) = account else {
        return Err(Error::invalid(format!(
            "{} needs its storage account: add account=NAME to the URL, or set AZURE_STORAGE_ACCOUNT_NAME",
            url.place()
        )));
    };
    let endpoint = endpoint(url, environment, &["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"])?;
    for (key, value) in client_settings(timeouts) {
        builder = builder.with_config(Key::Client(key), value);
    }
    builder = builder
        .with_container_name(url.authority())
        .with_account(account)
        .with_retry(one_attempt(timeouts))
        .with_allow_http(speaks_http(url, endpoint.as_deref()));
    if let Some(endpoint) = &endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if url.options().anonymous {
        builder = builder.with_skip_signature(true);
    }
    builder = builder.with_http_connector(connector(url, endpoint.as_deref()));
    let store = builder.build().map_err(|_| unusable(url, "AZURE_*"))?;
    Ok(bucket(url, store, endpoint))
}

#[cfg(feature = "http")]
pub(super) fn http(url: &ObjectUrl, timeouts: &Timeouts) -> Result<Bucket> {
    use object_store::http::HttpBuilder;
    let place = url.place();
    let plain = place.starts_with("http://");
    let everything = Connector(Address { bucket: String::new(), server: None });
    let mut builder =
        HttpBuilder::new().with_url(&place).with_retry(one_attempt(timeouts)).with_http_connector(everything);
    for (key, value) in client_settings(timeouts) {
        builder = builder.with_config(key, value);
    }
    builder = builder.with_config(ClientConfigKey::AllowHttp, plain.to_string());
    let store = builder
        .build()
        .map_err(|_| Error::new(ErrorKind::Invalid, format!("{place} is no address of a web server")))?;
    // The client knows the path already.
    Ok(Bucket { store: Arc::new(store), prefix: object_store::path::Path::default(), endpoint: None })
}
