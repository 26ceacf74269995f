//! Behaviour of local stores, over memory and over real files.

mod behaviour;
mod damage;
mod failure;
mod fixture;
mod records;
