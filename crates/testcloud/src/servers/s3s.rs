//! s3s-fs, an S3 server over a folder that checks conditions but not atomically: of many writers at the same
//! time, several win.

use tempfile::TempDir;

use super::{process::Process, tool};

/// An s3s-fs server.
#[derive(Debug)]
pub struct S3s {
    process: Process,
    folder: TempDir,
}

impl S3s {
    /// The access key that it asks for.
    pub const ACCESS_KEY: &str = "test-key";
    /// The secret that belongs to it.
    pub const SECRET_KEY: &str = "test-secret";

    /// Starts one with an empty bucket, `bucket`.
    ///
    /// # Panics
    ///
    /// If it is missing or can't be started.
    #[expect(clippy::expect_used, reason = "a test that has no server can only fail")]
    pub fn start() -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("bucket")).expect("a folder in it");
        let keys = [&["--access-key", Self::ACCESS_KEY][..], &["--secret-key", Self::SECRET_KEY]].concat();
        let arguments = [&keys[..], &["--host", "127.0.0.1", "--port", "0"]].concat();
        let arguments = arguments.into_iter().map(Into::into).chain([folder.path().into()]);
        let arguments: Vec<std::ffi::OsString> = arguments.collect();
        let variables = [("RUST_LOG", "info"), ("NO_COLOR", "1")];
        let process = Process::start(tool("s3s-fs/bin/s3s-fs"), arguments, &variables, "running at http://");
        Self { process, folder }
    }

    /// The endpoint for clients of S3, path style.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.process.address())
    }

    /// Where its bucket lies.
    pub fn folder(&self) -> std::path::PathBuf {
        self.folder.path().join("bucket")
    }
}
