//! NBD URIs, as `libnbd`, `nbdkit` and QEMU understand them.

use std::{fmt::Write as _, net::SocketAddr, os::unix::ffi::OsStrExt as _, path::Path};

/// `nbd+unix:///NAME?socket=PATH`.
pub(crate) fn unix(export: &str, socket: &Path) -> String {
    format!("nbd+unix:///{}?socket={}", encode(export.as_bytes()), encode(socket.as_os_str().as_bytes()))
}

/// `nbd://ADDRESS/NAME`.
pub(crate) fn tcp(export: &str, address: SocketAddr) -> String {
    format!("nbd://{address}/{}", encode(export.as_bytes()))
}

/// Percent-encodes all but unreserved characters and `/`.
fn encode(bytes: &[u8]) -> String {
    let mut encoded = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
            encoded.push(char::from(*byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes any text");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_encoded() {
        assert_eq!(unix("vm1", Path::new("/run/g.sock")), "nbd+unix:///vm1?socket=/run/g.sock");
        assert_eq!(unix("a b/ü?", Path::new("/t&x")), "nbd+unix:///a%20b/%C3%BC%3F?socket=/t%26x");
        assert_eq!(tcp("vm1", ([127, 0, 0, 1], 10809).into()), "nbd://127.0.0.1:10809/vm1");
    }
}
