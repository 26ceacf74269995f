//! The `gabion` binary under real clients: NBD tools, a killed server, a guest that boots.
//!
//! One binary, so that it links once: `cargo test -p gabion --test e2e`, or with a module's name behind it.
//! Needs what `scripts/install-test-tools` installs, and for `guest` the kit of `scripts/guest-kit`. A tool that
//! is missing fails its tests. `GABION_TEST_BIN` names another binary to test, such as a release build.

mod clients;
mod cold_boot;
mod crash;
mod errors;
mod guest;
mod hosts;
mod kill_loops;
mod remote;
mod replicate;
mod support;
