//! An S3 server of the test's own (moto), and hosts that use its bucket.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::Home;

/// Longest wait for the server to answer: a limit against hanging.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the tests sign with; it must show up nowhere.
pub(crate) const SECRET: &str = "wJalrXUtnFEMI-K7MDENG-bPxRfiCYEXAMPLEKEY";

/// A server with one empty bucket; gone when dropped.
#[derive(Debug)]
pub(crate) struct Bucket {
    server: Child,
    port: u16,
}

impl Bucket {
    pub(crate) fn new() -> Self {
        // Free as of now; should someone else take it, the server ends and the test says so.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let port = port.expect("a free port").port();
        let mut bucket = Self { server: Self::start(port), port };
        bucket.wait();
        let (status, body) =
            bucket.request("PUT /images HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(status, 200, "making the bucket: {body}");
        bucket
    }

    fn start(port: u16) -> Child {
        let program = std::env::var_os("GABION_MOTO_SERVER").unwrap_or_else(|| "moto_server".into());
        Command::new(&program)
            .args(["-H", "127.0.0.1", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}: run scripts/install-test-tools", program.display()))
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Some(status) = self.server.try_wait().expect("the child is ours") {
                panic!("the S3 server ended with {status}");
            }
            assert!(Instant::now() < deadline, "the S3 server does not answer");
            thread::yield_now();
        }
    }

    /// A request of one's own; gives status and body.
    pub(crate) fn request(&self, text: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        socket.write_all(text.as_bytes()).expect("a request");
        let mut reader = BufReader::new(socket);
        let mut status = String::new();
        reader.read_line(&mut status).expect("a status line");
        let mut rest = String::new();
        reader.read_to_string(&mut rest).expect("a body of text");
        let code = status.split_whitespace().nth(1).and_then(|code| code.parse().ok());
        (code.unwrap_or_else(|| panic!("{status}")), rest)
    }

    /// URL of a store in the bucket.
    pub(crate) fn url(&self, prefix: &str) -> String {
        format!("s3://images/{prefix}?endpoint=http://127.0.0.1:{}&region=us-east-1", self.port)
    }

    /// A host with credentials for the bucket; `store` is in force there.
    pub(crate) fn host(&self, store: &str) -> Home {
        self.credentials(Home::new()).with("GABION_STORE", &self.url(store))
    }

    /// Gives a host credentials for the bucket.
    pub(crate) fn credentials(&self, home: Home) -> Home {
        home.with("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE").with("AWS_SECRET_ACCESS_KEY", SECRET)
    }

    /// The network is gone. What was stored is, too: the server keeps it in memory.
    pub(crate) fn gone(&mut self) {
        // Fails only if it has ended by itself.
        let _ended = self.server.kill();
        self.server.wait().expect("the child is ours");
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.gone();
    }
}
