//! Azurite, Microsoft's emulator of Azure Blob Storage.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use super::{process::Process, tool};

/// Makes a container: a request that `object_store` has no call for, signed with the account's shared key.
const MAKE_CONTAINER: &str = r#"
import base64, hashlib, hmac, sys, urllib.request
from email.utils import formatdate
url, account, key, container = sys.argv[1:]
headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03", "Content-Length": "0"}
named = "".join(f"{name}:{headers[name]}\n" for name in ("x-ms-date", "x-ms-version"))
resource = f"/{account}/{account}/{container}\nrestype:container"
text = "PUT" + "\n" * 12 + named + resource
mac = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
headers["Authorization"] = f"SharedKey {account}:{base64.b64encode(mac).decode()}"
urllib.request.urlopen(urllib.request.Request(f"{url}/{container}?restype=container", method="PUT", headers=headers))
"#;

/// An Azurite server that keeps everything in memory.
#[derive(Debug)]
pub struct Azurite {
    process: Process,
    containers: AtomicU32,
}

impl Azurite {
    /// Its only account, the same in every Azurite.
    pub const ACCOUNT: &str = "devstoreaccount1";
    /// That account's key, as its documentation tells everyone.
    pub const KEY: &str =
        "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

    /// Starts one.
    ///
    /// # Panics
    ///
    /// If it is missing or can't be started.
    pub fn start() -> Self {
        let arguments = [
            "--blobHost",
            "127.0.0.1",
            "--blobPort",
            "0",
            "--inMemoryPersistence",
            "--skipApiVersionCheck",
            "--disableTelemetry",
        ];
        let program = tool("azurite/node_modules/.bin/azurite-blob");
        let process = Process::start(program, arguments, &[], "successfully listens on http://");
        Self { process, containers: AtomicU32::new(0) }
    }

    /// The account's endpoint.
    pub fn endpoint(&self) -> String {
        format!("http://{}/{}", self.process.address(), Self::ACCOUNT)
    }

    /// Makes a container that nobody else has, and gives its name.
    ///
    /// # Panics
    ///
    /// If the server refuses.
    #[expect(clippy::expect_used, reason = "a test that has no container can only fail")]
    pub fn new_container(&self) -> String {
        let container = format!("container-{}", self.containers.fetch_add(1, Ordering::Relaxed));
        let python = tool("moto/bin/python3");
        let arguments = [self.endpoint(), Self::ACCOUNT.into(), Self::KEY.into(), container.clone()];
        let made = Command::new(python).args(["-c", MAKE_CONTAINER]).args(arguments).output();
        let made = made.expect("python can be started");
        assert!(made.status.success(), "no container: {}", String::from_utf8_lossy(&made.stderr));
        container
    }
}
