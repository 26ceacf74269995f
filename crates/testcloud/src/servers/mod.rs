//! Object stores of others, for tests: started on free ports, ready when the fixture is there, ended with it,
//! also when the test panics or is killed.
//!
//! Their programs come from `scripts/install-test-tools`. They are looked for in the folder that
//! `GABION_TEST_TOOLS` names, else in `target/test-tools` of the workspace; one that is missing is a failure.

mod azurite;
mod moto;
mod process;
mod s3s;

use std::path::PathBuf;

pub use azurite::Azurite;
pub use moto::Moto;
pub use s3s::S3s;

/// Where the tools of the tests are.
///
/// # Panics
///
/// If `program`, a path in that folder, is not there.
fn tool(program: &str) -> PathBuf {
    let tools = std::env::var_os("GABION_TEST_TOOLS").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/test-tools")),
        PathBuf::from,
    );
    let path = tools.join(program);
    assert!(path.exists(), "{} is missing: run scripts/install-test-tools", path.display());
    path
}
