//! [`Home`], a gabion of the test's own, and [`Server`], a disk that it serves.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::lines::Lines;
use super::tools;

/// Longest wait for a server to be ready or to end: a limit against hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder that holds a whole gabion: store, volumes, cache, sockets and config. Gone when dropped.
#[derive(Debug)]
pub(crate) struct Home {
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl Home {
    pub(crate) fn new() -> Self {
        // Short, since a socket's path has at most 107 bytes.
        let folder = tempfile::Builder::new().prefix("gab").tempdir().expect("a temporary folder");
        Self { folder, variables: Vec::new() }
    }

    /// Sets an environment variable for everything that runs in this home.
    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.variables.push((name, value.to_owned()));
        self
    }

    /// A path for the test's own files.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file for the test.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        path
    }

    fn isolate<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        for (key, _) in std::env::vars_os() {
            let key = key.to_string_lossy();
            if ["GABION_", "AWS_", "GOOGLE_", "AZURE_"].iter().any(|prefix| key.starts_with(prefix)) {
                command.env_remove(&*key);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.env("GABION_HOME", self.path("home")).current_dir(self.folder.path())
    }

    /// `gabion` in this home, with a time limit.
    pub(crate) fn gabion<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Command {
        let mut command = tools::limited(binary());
        self.isolate(&mut command).args(arguments);
        command
    }

    /// `gabion` in this home, without a time limit: its process is the child, for tests that signal it.
    pub(crate) fn plain<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(binary());
        self.isolate(&mut command).args(arguments);
        command
    }

    /// Runs `gabion`, which must succeed.
    pub(crate) fn run<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Vec<u8> {
        tools::run(&mut self.gabion(arguments))
    }

    /// Runs `gabion … --json`, which must succeed and print one object.
    pub(crate) fn json<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Value {
        let printed = tools::run(self.gabion(arguments).arg("--json"));
        let value: Value = serde_json::from_slice(&printed)
            .unwrap_or_else(|error| panic!("{error} in {:?}", String::from_utf8_lossy(&printed)));
        assert!(value.is_object(), "--json prints one object, not {value}");
        value
    }

    /// Runs `gabion`, which must refuse with `code` and one line on standard error, given back, and nothing on
    /// standard output.
    pub(crate) fn refuses<I: AsRef<OsStr>>(
        &self,
        code: i32,
        arguments: impl IntoIterator<Item = I>,
    ) -> String {
        tools::refused(code, &mut self.gabion(arguments))
    }

    /// As [`gabion`](Self::gabion), by way of another command that runs what is behind it.
    pub(crate) fn under<I: AsRef<OsStr>>(
        &self,
        wrapper: impl IntoIterator<Item = I>,
        arguments: impl IntoIterator<Item = I>,
    ) -> Command {
        let mut command = tools::limited("env");
        self.isolate(&mut command).args(wrapper).arg(binary()).args(arguments);
        command
    }

    /// As [`serve`](Self::serve), by way of another command that becomes what is behind it.
    pub(crate) fn serve_under<I: AsRef<OsStr>>(
        &self,
        wrapper: impl IntoIterator<Item = I>,
        arguments: impl IntoIterator<Item = I>,
    ) -> Server {
        let mut command = Command::new("env");
        self.isolate(&mut command).args(wrapper).arg(binary()).arg("serve").args(arguments);
        Server::start(&mut command)
    }

    /// The only file of this kind of the default store, the first of several.
    pub(crate) fn stored(&self, folder: &str) -> PathBuf {
        files(&self.path("home/store").join(folder)).into_iter().next().expect("the store has one")
    }

    /// Serves, and returns once clients can connect.
    pub(crate) fn serve<I: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = I>) -> Server {
        let mut command = Command::new(binary());
        self.isolate(&mut command).arg("serve").args(arguments);
        Server::start(&mut command)
    }
}

/// Files below a folder, sorted.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("an entry of a folder").path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// A store's descriptor as early versions wrote it, which can be changed without anybody calling it damaged.
pub(crate) fn without_checksum(descriptor: &str) -> String {
    let (members, _) = descriptor.split_once(",\n  \"crc32c\"").expect("a checksum");
    format!("{members}\n}}\n")
}

pub(crate) fn binary() -> PathBuf {
    std::env::var_os("GABION_TEST_BIN").map_or_else(|| env!("CARGO_BIN_EXE_gabion").into(), PathBuf::from)
}

/// A running `gabion serve`, killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    uri: String,
    errors: Option<JoinHandle<String>>,
    // Open as long as the server lives: it must not die of what it prints later.
    output: Lines,
}

impl Server {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let mut stderr = child.stderr.take().expect("a pipe was asked for");
        let errors = thread::spawn(move || {
            let mut said = Vec::new();
            let _end = stderr.read_to_end(&mut said);
            String::from_utf8_lossy(&said).into_owned()
        });
        let mut output =
            Lines::of(format!("{command:?}"), child.stdout.take().expect("a pipe was asked for"));
        let ready = output.find(PATIENCE, |line| {
            line.split_whitespace().find(|word| word.starts_with("nbd+unix://")).map(str::to_owned)
        });
        let mut server = Self { child, uri: String::new(), errors: Some(errors), output };
        match ready {
            Ok(uri) => server.uri = uri,
            Err(why) => {
                server.stop();
                panic!("{why}\n--- stderr\n{}", server.said());
            }
        }
        server
    }

    /// Where clients connect, as the server printed it.
    pub(crate) fn uri(&self) -> &str {
        &self.uri
    }

    /// The socket's path.
    pub(crate) fn socket(&self) -> PathBuf {
        super::nbd::Address::parse(&self.uri).socket
    }

    /// SIGKILL: nothing is tidied up.
    pub(crate) fn kill(mut self) {
        self.stop();
    }

    /// The server's process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM; the server must flush, end with success and remove its socket. Gives what it said on standard
    /// error.
    pub(crate) fn terminate(mut self) -> String {
        let pid = self.child.id().to_string();
        tools::tool("kill", ["-TERM", &pid]);
        self.output.ended(PATIENCE).unwrap_or_else(|why| panic!("after SIGTERM: {why}"));
        let status = self.child.wait().expect("the child is ours");
        let said = self.said();
        assert!(status.success(), "serve ended with {status} after SIGTERM\n--- stderr\n{said}");
        let socket = self.socket();
        assert!(!socket.exists(), "serve left {} behind", socket.display());
        said
    }

    fn stop(&mut self) {
        // Fails only if it has ended by itself.
        let _ended = self.child.kill();
        self.child.wait().expect("the child is ours");
    }

    /// What the ended server said on standard error.
    fn said(&mut self) -> String {
        self.errors.take().map_or_else(String::new, |errors| errors.join().expect("reading does not panic"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if thread::panicking() {
            let said = self.said();
            // Shown with the failed test; a failure to show it has nowhere to go.
            let _shown = writeln!(std::io::stderr(), "--- what serve said\n{said}");
        }
    }
}
