//! moto, an S3 server in Python whose conditional writes hold under races.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{process::Process, tool};

/// A moto server. Every signature is good for it.
#[derive(Debug)]
pub struct Moto {
    process: Process,
    buckets: AtomicU32,
}

impl Moto {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// If it is missing or can't be started.
    pub fn start() -> Self {
        let arguments = ["-H", "127.0.0.1", "-p", "0"];
        // Warnings of its libraries are no concern of ours.
        let variables = [("PYTHONWARNINGS", "ignore"), ("PYTHONUNBUFFERED", "1")];
        let process =
            Process::start(tool("moto/bin/moto_server"), arguments, &variables, "Running on http://");
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
