//! A cloud of the test's own (`gabion-testcloud`), and hosts that use its bucket.

use std::process::Child;
use std::time::{Duration, Instant};

use gabion_testcloud::Cloud;

use super::Home;

/// What the tests sign with.
pub(crate) const ACCESS_KEY: &str = "AKIAIOSFODNN7EXAMPLE";
/// What the tests sign with; it must show up nowhere.
pub(crate) const SECRET: &str = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY";

/// Longest wait for a request: a limit against hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How often it is looked whether a child has ended.
const LOOK: Duration = Duration::from_millis(5);

/// A cloud with one empty bucket, `images`.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) cloud: Cloud,
}

impl Net {
    pub(crate) fn new() -> Self {
        let cloud = Cloud::new();
        cloud.create_bucket("images");
        Self { cloud }
    }

    /// URL of a store in the bucket.
    pub(crate) fn url(&self, prefix: &str) -> String {
        self.url_in("images", prefix)
    }

    /// URL of a store in any bucket.
    pub(crate) fn url_in(&self, bucket: &str, prefix: &str) -> String {
        format!("s3://{bucket}/{prefix}?endpoint={}&region=us-east-1", self.cloud.s3_endpoint())
    }

    /// Waits until a request is stalled.
    pub(crate) fn wait_for_stalled(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let stalled = async { tokio::time::timeout(PATIENCE, self.cloud.stalled(1)).await };
        runtime.expect("a runtime").block_on(stalled).expect("a request comes to where it is stalled");
    }

    /// Waits until a request is stalled; `false` if `child` ends before.
    pub(crate) fn stalls(&self, child: &mut Child) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let start = Instant::now();
        loop {
            let stalled = async { tokio::time::timeout(LOOK, self.cloud.stalled(1)).await };
            if runtime.block_on(stalled).is_ok() {
                return true;
            }
            if child.try_wait().expect("the child is ours").is_some() {
                return false;
            }
            assert!(start.elapsed() < PATIENCE, "it makes no request and does not end");
        }
    }

    /// A host with credentials; the store `prod` of the bucket is in force there, and answers or fails soon.
    pub(crate) fn host(&self) -> Home {
        self.stranger().with("GABION_STORE", &self.url("prod"))
    }

    /// A host with credentials and no store in force.
    pub(crate) fn stranger(&self) -> Home {
        Home::new()
            .with("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .with("AWS_SECRET_ACCESS_KEY", SECRET)
            .with("GABION_TIMEOUT", "3s")
    }
}
