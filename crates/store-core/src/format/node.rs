//! Index nodes.
