//! moto, an S3 server in Python.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{process::Process, tool};

/// What `moto_server` does, but one request at a time: it checks conditions and writes in two steps, between which
/// its threads take turns.
const SERVE: &str = r#"
import threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
application = DomainDispatcherApplication(create_backend_app)
lock = threading.Lock()
def serve(environ, start_response):
    with lock:
        return [b"".join(application(environ, start_response))]
run_simple("127.0.0.1", 0, serve, threaded=True)
"#;

/// A moto server whose conditional writes hold.
#[derive(Debug)]
pub struct Moto {
    process: Process,
    buckets: AtomicU32,
}

impl Moto {
    /// Credentials for it, as environment variables. It takes any, but writes nothing without.
    pub const VARIABLES: [(&str, &str); 2] =
        [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];

    /// Starts one.
    ///
    /// # Panics
    ///
    /// If it is missing or can't be started.
    pub fn start() -> Self {
        // Warnings of its libraries are no concern of ours.
        let variables = [("PYTHONWARNINGS", "ignore"), ("PYTHONUNBUFFERED", "1")];
        let process =
            Process::start(tool("moto/bin/python3"), ["-c", SERVE], &variables, "Running on http://");
        Self { process, buckets: AtomicU32::new(0) }
    }

    /// The endpoint for clients of S3, path style.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.process.address())
    }

    /// Makes a bucket that nobody else has, and gives its name.
    ///
    /// # Panics
    ///
    /// If the server refuses.
    #[expect(clippy::expect_used, reason = "a test that has no bucket can only fail")]
    pub fn new_bucket(&self) -> String {
        let bucket = format!("bucket-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        let address = self.process.address();
        let mut socket = TcpStream::connect(address).expect("moto listens");
        let request = format!(
            "PUT /{bucket} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).expect("moto reads");
        let mut answer = String::new();
        socket.read_to_string(&mut answer).expect("moto answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "moto makes no bucket: {answer}");
        bucket
    }
}
