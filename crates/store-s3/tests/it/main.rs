//! The remote store against object stores: one in memory that fails on demand, and those of others.
//!
//! Needs what `scripts/install-test-tools` installs; a server that is missing fails its tests.

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod credentials;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod large;
#[cfg(test)]
mod probe;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod support;
