//! Behaviour of local stores, over memory and over real files.

mod behaviour;
mod conformance;
mod damage;
mod failure;
mod fixture;
mod order;
mod records;
