//! Wrong input, full disks, damage, interruptions and hostile peers: each is told in one line with its exit code,
//! and leaves everything else as it was.
//!
//! Tests that need another user or a small file system make these by `setpriv` and `unshare`, as root.

mod damage;
mod hostile;
mod input;
mod interrupt;
mod repair;
mod space;

use std::path::Path;

/// Asserts that a message holds every one of these words.
fn says(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "{word:?} is missing in {line}");
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of the test is UTF-8")
}
