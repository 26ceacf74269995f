//! Tests of the store over a bucket in memory.

mod conformance;
mod support;
