//! Behaviour of local stores, over memory and over real files.

mod behaviour;
mod conformance;
mod damage;
mod failing_fs;
mod failure;
mod fixture;
mod order;
mod records;
