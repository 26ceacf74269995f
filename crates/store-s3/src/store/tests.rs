//! Tests of the store over a bucket in memory.

mod bucket;
mod conformance;
mod merging;
mod publishes;
mod reads;
mod support;
mod uploads;
