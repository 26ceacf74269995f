//! Image maps.
