//! An NBD server for any [`BlockDevice`](gabion_store_core::BlockDevice).
