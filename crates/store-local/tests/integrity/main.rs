//! Damage: every byte of a store and a volume changed, every file cut at every length, and what is made of it.

#![expect(clippy::unwrap_used, reason = "an error here is a failure of the test")]

mod flips;
mod repair;
mod rig;
mod worse;
