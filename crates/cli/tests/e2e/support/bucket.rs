//! A bucket of a real S3 server (moto), and hosts that use it.

use gabion_testcloud::servers::Moto;

use super::{
    Home,
    cloud::{ACCESS_KEY, SECRET},
};

/// An empty bucket on a server of its own; gone when dropped.
#[derive(Debug)]
pub(crate) struct Bucket {
    server: Option<Moto>,
    endpoint: String,
    name: String,
}

impl Bucket {
    pub(crate) fn new() -> Self {
        let server = Moto::start();
        let (endpoint, name) = (server.endpoint(), server.new_bucket());
        Self { server: Some(server), endpoint, name }
    }

    /// URL of a store in the bucket.
    pub(crate) fn url(&self, prefix: &str) -> String {
        format!("s3://{}/{prefix}?endpoint={}&region=us-east-1", self.name, self.endpoint)
    }

    /// A host with credentials for the bucket; `store` is in force there.
    pub(crate) fn host(&self, store: &str) -> Home {
        Home::new()
            .with("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .with("AWS_SECRET_ACCESS_KEY", SECRET)
            .with("GABION_STORE", &self.url(store))
    }

    /// The server is gone, with all that was stored.
    pub(crate) fn gone(&mut self) {
        self.server = None;
    }
}
