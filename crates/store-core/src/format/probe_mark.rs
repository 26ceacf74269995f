//! The mark of a bucket whose conditional writes were seen to hold: what one process found out, the next need not.

use super::{
    features::Features,
    wire::{Reader, Writer},
};
use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"GABIPROB";
const WHAT: &str = "probe mark";
const VERSION: u16 = 1;

/// Length of a mark, in bytes.
pub const PROBE_MARK_LEN: u64 = 8 + Features::LEN as u64 + 32 + 4;

/// The mark for the place with this hash. A store that was copied elsewhere has the mark of another place.
pub fn encode(place: &[u8; 32]) -> Vec<u8> {
    let mut to = Writer::new();
    to.bytes(MAGIC);
    Features::version(VERSION).encode(&mut to);
    to.bytes(place);
    to.seal()
}

/// Checks that this is the mark for the place with this hash; anything else is `Corrupt` or `Unsupported`.
pub fn check(bytes: &[u8], place: &[u8; 32]) -> Result<()> {
    let mut from = Reader::sealed(WHAT, bytes)?;
    from.magic(MAGIC)?;
    Features::decode(&mut from, "the probe mark", VERSION)?;
    if from.take(32)? != place {
        return Err(Error::corrupt("the probe mark is that of another place"));
    }
    from.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let mark = encode(&[7; 32]);
        assert_eq!(
            hex::encode(&mark),
            concat!(
                "4741424950524f420100000000000000000000000000000000000000000000000000070707070707",
                "0707070707070707070707070707070707070707070707070707ee049f0e"
            )
        );
        assert_eq!(mark.len() as u64, PROBE_MARK_LEN);
        check(&mark, &[7; 32]).unwrap();
    }

    #[test]
    fn nothing_else_is_a_mark() {
        let mark = encode(&[7; 32]);
        assert!(check(&mark, &[8; 32]).is_err());
        for at in 0..mark.len() {
            assert!(check(&mark[..at], &[7; 32]).is_err());
            let mut damaged = mark.clone();
            damaged[at] ^= 1;
            assert!(check(&damaged, &[7; 32]).is_err());
        }
    }
}
