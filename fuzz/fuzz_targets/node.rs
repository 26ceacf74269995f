//! An index node. It is named by its hash, so every node has one encoding only.
#![no_main]

use gabion_store_core::format::node::Node;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(node) = Node::decode(bytes) {
        assert_eq!(node.encode(), bytes);
    }
});
