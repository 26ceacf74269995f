//! [`Cloud`]: a server, and the handle by which it is steered.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    Conditions, Rule, Stats,
    bucket::{Buckets, Condition},
    faults::Faults,
    link::Link,
    serve,
    stats::Counters,
};

/// How a cloud is started. All but the address can be changed while it runs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens. Port 0 is one that is free.
    pub address: SocketAddr,
    /// Buckets that are there from the start.
    pub buckets: Vec<String>,
    /// Before a request has its effect; stands for one round trip.
    pub latency: Duration,
    /// In bytes per second, in each direction, shared by all connections; 0 is without a limit.
    pub bandwidth: u64,
    /// What becomes of conditional writes.
    pub conditions: Conditions,
    /// The access key (S3) or bearer token (GCS) that every request must carry. Signatures are not verified.
    pub access_key: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            buckets: vec!["bucket".to_owned()],
            latency: Duration::ZERO,
            bandwidth: 0,
            conditions: Conditions::Kept,
            access_key: None,
        }
    }
}

/// What a server and its handle share.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) buckets: Buckets,
    pub(crate) counters: Counters,
    pub(crate) faults: Faults,
    pub(crate) stalls: Stalls,
    pub(crate) latency: Mutex<Duration>,
    pub(crate) access_key: Mutex<Option<String>>,
    /// To the cloud.
    pub(crate) up: Link,
    /// From the cloud.
    pub(crate) down: Link,
}

/// Where stalled requests wait.
#[derive(Debug)]
pub(crate) struct Stalls {
    waiting: watch::Sender<usize>,
    released: watch::Sender<u64>,
}

impl Stalls {
    fn new() -> Self {
        Self { waiting: watch::Sender::new(0), released: watch::Sender::new(0) }
    }

    pub(crate) async fn pass(&self) {
        let mut released = self.released.subscribe();
        self.waiting.send_modify(|waiting| *waiting += 1);
        // Its sender is `self`.
        let _ = released.changed().await;
    }

    pub(crate) fn release(&self) {
        self.waiting.send_replace(0);
        self.released.send_modify(|times| *times += 1);
    }
}

/// Whether a cloud answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Power {
    On,
    /// Every connection is reset.
    Unplugged,
    /// Ended.
    Off,
}

/// A cloud on loopback, on a thread of its own. Ended when it is dropped.
#[derive(Debug)]
pub struct Cloud {
    state: Arc<State>,
    address: SocketAddr,
    power: watch::Sender<Power>,
    thread: Option<JoinHandle<()>>,
}

impl Cloud {
    /// A cloud on a free port with one empty bucket, `bucket`.
    ///
    /// # Panics
    ///
    /// If no port of loopback can be listened on.
    pub fn new() -> Self {
        Self::start(&Settings::default())
    }

    /// Starts a cloud; it answers when this returns.
    ///
    /// # Panics
    ///
    /// If the address can't be listened on.
    #[expect(clippy::expect_used, reason = "a test that has no cloud can only fail")]
    pub fn start(settings: &Settings) -> Self {
        let listener = TcpListener::bind(settings.address).expect("the address can be listened on");
        let address = listener.local_addr().expect("a listener has an address");
        listener.set_nonblocking(true).expect("a listener can be polled");
        let state = Arc::new(State {
            buckets: Buckets::default(),
            counters: Counters::default(),
            faults: Faults::default(),
            stalls: Stalls::new(),
            latency: Mutex::new(settings.latency),
            access_key: Mutex::new(settings.access_key.clone()),
            up: Link::new(),
            down: Link::new(),
        });
        let (power, powered) = watch::channel(Power::On);
        let serving = Arc::clone(&state);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let thread = std::thread::Builder::new().name("testcloud".to_owned()).spawn(move || {
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                serve::run(serving, listener, powered).await;
            });
        });
        let cloud = Self { state, address, power, thread: Some(thread.expect("a thread")) };
        for bucket in &settings.buckets {
            cloud.create_bucket(bucket);
        }
        cloud.set_bandwidth(settings.bandwidth);
        cloud.set_conditions(settings.conditions);
        cloud
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The endpoint for clients of S3, path style: `http://127.0.0.1:PORT/s3`.
    pub fn s3_endpoint(&self) -> String {
        format!("http://{}/s3", self.address)
    }

    /// The endpoint for clients of Google Cloud Storage's XML interface.
    pub fn gcs_endpoint(&self) -> String {
        format!("http://{}/gcs", self.address)
    }

    /// The bucket as a plain web server serves it: read-only, with ranges. Ends without a slash.
    pub fn http_url(&self, bucket: &str) -> String {
        format!("http://{}/http/{bucket}", self.address)
    }

    /// Makes a bucket, unless it is there.
    pub fn create_bucket(&self, bucket: &str) {
        self.state.buckets.create(bucket);
    }

    /// An object's bytes.
    pub fn object(&self, bucket: &str, key: &str) -> Option<Bytes> {
        self.state.buckets.get(bucket, key).ok().flatten().map(|object| object.bytes)
    }

    /// Every object of a bucket, by key; shares the bytes.
    pub fn objects(&self, bucket: &str) -> BTreeMap<String, Bytes> {
        self.state.buckets.all(bucket)
    }

    /// Writes an object without a request, and makes the bucket if there is none.
    #[expect(clippy::expect_used, reason = "no condition, and the bucket is there")]
    pub fn put_object(&self, bucket: &str, key: &str, bytes: impl Into<Bytes>) {
        self.create_bucket(bucket);
        let put = self.state.buckets.put_now(bucket, key, bytes.into(), &Condition::None);
        put.expect("the bucket is there").expect("there is no condition");
    }

    /// Removes an object without a request.
    pub fn remove_object(&self, bucket: &str, key: &str) {
        let _ = self.state.buckets.delete(bucket, key, &Condition::None);
    }

    /// Writes a file, or every file below a folder, under keys that start with `prefix`.
    ///
    /// # Errors
    ///
    /// If something can't be read.
    pub fn load(&self, bucket: &str, prefix: &str, path: &Path) -> std::io::Result<()> {
        if !path.is_dir() {
            self.put_object(bucket, prefix, std::fs::read(path)?);
            return Ok(());
        }
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name();
            let below = format!("{prefix}/{}", name.to_string_lossy());
            self.load(bucket, below.trim_start_matches('/'), &entry.path())?;
        }
        Ok(())
    }

    /// What was asked so far.
    pub fn stats(&self) -> Stats {
        self.state.counters.read()
    }

    /// Counts from 0 again.
    pub fn reset_stats(&self) {
        self.state.counters.reset();
    }

    /// Adds a rule. The first rule that strikes decides.
    pub fn add_fault(&self, rule: Rule) {
        self.state.faults.add(rule);
    }

    /// Removes all rules and lets go of what is stalled.
    pub fn clear_faults(&self) {
        self.state.faults.clear();
        self.release();
    }

    /// Waits until that many requests are stalled. Runs on any executor.
    pub async fn stalled(&self, count: usize) {
        let mut waiting = self.state.stalls.waiting.subscribe();
        // Its sender is `self`.
        let _ = waiting.wait_for(|waiting| *waiting >= count).await;
    }

    /// Lets stalled requests go on.
    pub fn release(&self) {
        self.state.stalls.release();
    }

    /// Time before a request has its effect.
    pub fn set_latency(&self, latency: Duration) {
        *self.state.latency.lock() = latency;
    }

    /// Bytes per second in each direction, shared by all connections; 0 is without a limit.
    pub fn set_bandwidth(&self, bytes_per_second: u64) {
        self.state.up.set_rate(bytes_per_second);
        self.state.down.set_rate(bytes_per_second);
    }

    /// What becomes of conditional writes.
    pub fn set_conditions(&self, conditions: Conditions) {
        self.state.buckets.set_conditions(conditions);
    }

    /// The access key or bearer token that requests must carry; others are answered by 403.
    pub fn set_access_key(&self, key: Option<&str>) {
        *self.state.access_key.lock() = key.map(str::to_owned);
    }

    /// Resets every connection, and all that come, until [`plug`](Self::plug).
    pub fn unplug(&self) {
        self.power.send_replace(Power::Unplugged);
    }

    /// Answers again.
    pub fn plug(&self) {
        self.power.send_replace(Power::On);
    }
}

impl Default for Cloud {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        self.power.send_replace(Power::Off);
        if let Some(thread) = self.thread.take() {
            // A panic there has been told on standard error.
            let _ = thread.join();
        }
    }
}
