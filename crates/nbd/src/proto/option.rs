//! Options of the handshake and the replies to them.

use super::{Fields, IHAVEOPT, MAX_STRING, OPTION_REPLY_MAGIC, Violation, info, join, rep};

/// What stands before an option's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// Which option, see [`opt`](super::opt).
    pub code: u32,
    /// Length of the payload in bytes. From the wire: nothing was allocated for it.
    pub length: u32,
}

impl OptionHeader {
    /// Length of the header in bytes.
    pub const LEN: usize = 16;

    /// Decodes a header; a wrong magic number is a violation.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, Violation> {
        let mut fields = Fields(bytes);
        match (fields.u64(), fields.u32(), fields.u32()) {
            (Some(IHAVEOPT), Some(code), Some(length)) => Ok(Self { code, length }),
            _ => Err(Violation("an option does not begin with its magic number")),
        }
    }

    /// Encodes a header.
    pub fn encode(&self) -> [u8; Self::LEN] {
        join(&[&IHAVEOPT.to_be_bytes(), &self.code.to_be_bytes(), &self.length.to_be_bytes()])
    }
}

/// Why the payload of an option is refused. The session goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Type of the reply, see [`rep`].
    pub reply: u32,
    /// For people.
    pub why: &'static str,
}

const fn invalid(why: &'static str) -> Refused {
    Refused { reply: rep::ERR_INVALID, why }
}

/// A string of at most [`MAX_STRING`] bytes of UTF-8 without NUL.
fn string(bytes: &[u8]) -> Result<&str, Refused> {
    if bytes.len() > MAX_STRING {
        return Err(Refused { reply: rep::ERR_TOO_BIG, why: "a string is longer than 4096 bytes" });
    }
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        Ok(_) => Err(invalid("a string has a NUL byte")),
        Err(_) => Err(invalid("a string is not UTF-8")),
    }
}

/// A string behind its length as `u32`.
fn counted_string<'a>(fields: &mut Fields<'a>) -> Result<&'a str, Refused> {
    let length = fields.u32().ok_or(invalid("the option ends before a length"))?;
    let bytes = usize::try_from(length).ok().and_then(|length| fields.take(length));
    string(bytes.ok_or(invalid("a length reaches beyond the option"))?)
}

/// Payload of `EXPORT_NAME`: nothing but the name.
pub fn parse_export_name(payload: &[u8]) -> Result<&str, Refused> {
    string(payload)
}

/// Payload of `INFO` and `GO`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InfoRequest<'a> {
    /// The export; empty for the default one.
    pub export: &'a str,
    /// What is asked for, see [`info`]; unknown ones are to be ignored.
    pub infos: Vec<u16>,
}

impl<'a> InfoRequest<'a> {
    /// Decodes a payload, which must have exactly the length that its counts say.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Refused> {
        let mut fields = Fields(payload);
        let export = counted_string(&mut fields)?;
        let count = fields.u16().ok_or(invalid("the option ends before its number of infos"))?;
        if fields.0.len() != usize::from(count) * 2 {
            return Err(invalid("the number of infos does not match the option's length"));
        }
        let infos = std::iter::from_fn(|| fields.u16()).collect();
        Ok(Self { export, infos })
    }

    /// Encodes a payload; the caller keeps strings and counts within what their lengths can hold.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = encode_string(self.export);
        payload.extend_from_slice(&(self.infos.len() as u16).to_be_bytes());
        payload.extend(self.infos.iter().flat_map(|info| info.to_be_bytes()));
        payload
    }
}

/// Payload of `LIST_META_CONTEXT` and `SET_META_CONTEXT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaQuery<'a> {
    /// The export; empty for the default one.
    pub export: &'a str,
    /// Contexts or wildcards asked for, like `base:allocation` or `base:`.
    pub queries: Vec<&'a str>,
}

impl<'a> MetaQuery<'a> {
    /// Decodes a payload, which must have exactly the length that its counts say.
    pub fn parse(payload: &'a [u8]) -> Result<Self, Refused> {
        let mut fields = Fields(payload);
        let export = counted_string(&mut fields)?;
        let count = fields.u32().ok_or(invalid("the option ends before its number of queries"))?;
        let mut queries = Vec::new();
        // Each turn takes at least four bytes or fails, so the count needs no check of its own.
        for _ in 0..count {
            queries.push(counted_string(&mut fields)?);
        }
        if !fields.0.is_empty() {
            return Err(invalid("the option is longer than its queries"));
        }
        Ok(Self { export, queries })
    }

    /// Encodes a payload; the caller keeps strings and counts within what their lengths can hold.
    pub fn encode(&self) -> Vec<u8> {
        let mut payload = encode_string(self.export);
        payload.extend_from_slice(&(self.queries.len() as u32).to_be_bytes());
        payload.extend(self.queries.iter().flat_map(|query| encode_string(query)));
        payload
    }
}

fn encode_string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

/// What stands before the payload of a reply to an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionReply {
    /// The option that is answered.
    pub option: u32,
    /// Type of the reply, see [`rep`].
    pub reply: u32,
    /// Length of the payload in bytes.
    pub length: u32,
}

impl OptionReply {
    /// Length of the header in bytes.
    pub const LEN: usize = 20;

    /// Decodes a header; a wrong magic number is a violation.
    pub fn parse(bytes: &[u8; Self::LEN]) -> Result<Self, Violation> {
        let mut fields = Fields(bytes);
        match (fields.u64(), fields.u32(), fields.u32(), fields.u32()) {
            (Some(OPTION_REPLY_MAGIC), Some(option), Some(reply), Some(length)) => {
                Ok(Self { option, reply, length })
            }
            _ => Err(Violation("a reply to an option does not begin with its magic number")),
        }
    }

    /// Encodes a header.
    pub fn encode(&self) -> [u8; Self::LEN] {
        join(&[
            &OPTION_REPLY_MAGIC.to_be_bytes(),
            &self.option.to_be_bytes(),
            &self.reply.to_be_bytes(),
            &self.length.to_be_bytes(),
        ])
    }
}

/// Appends a reply to `option` with the payload made of `parts`, which together stay below 4 GiB.
pub fn push_reply(out: &mut Vec<u8>, option: u32, reply: u32, parts: &[&[u8]]) {
    let length = parts.iter().map(|part| part.len()).sum::<usize>() as u32;
    out.extend_from_slice(&OptionReply { option, reply, length }.encode());
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Payload of the information `EXPORT`: size in bytes and [transmission flags](super::transmission).
pub fn info_export(size: u64, flags: u16) -> [u8; 12] {
    join(&[&info::EXPORT.to_be_bytes(), &size.to_be_bytes(), &flags.to_be_bytes()])
}

/// Payload of the information `BLOCK_SIZE`, all in bytes.
pub fn info_block_size(minimum: u32, preferred: u32, maximum: u32) -> [u8; 14] {
    join(&[
        &info::BLOCK_SIZE.to_be_bytes(),
        &minimum.to_be_bytes(),
        &preferred.to_be_bytes(),
        &maximum.to_be_bytes(),
    ])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn headers_round_trip(code: u32, length: u32, reply: u32) {
            let header = OptionHeader { code, length };
            prop_assert_eq!(OptionHeader::parse(&header.encode()), Ok(header));
            let reply = OptionReply { option: code, reply, length };
            prop_assert_eq!(OptionReply::parse(&reply.encode()), Ok(reply));
        }

        #[test]
        fn info_requests_round_trip(export in "[^\0]{0,80}", infos: Vec<u16>) {
            let request = InfoRequest { export: &export, infos };
            let bytes = request.encode();
            prop_assert_eq!(InfoRequest::parse(&bytes), Ok(request));
            for cut in 0..bytes.len() {
                prop_assert!(InfoRequest::parse(&bytes[..cut]).is_err());
            }
            let longer = [&bytes[..], b"x"].concat();
            prop_assert!(InfoRequest::parse(&longer).is_err());
        }

        #[test]
        fn meta_queries_round_trip(export in "[^\0]{0,20}", queries in prop::collection::vec("[^\0]{0,20}", 0..8)) {
            let query = MetaQuery { export: &export, queries: queries.iter().map(String::as_str).collect() };
            let bytes = query.encode();
            prop_assert_eq!(MetaQuery::parse(&bytes), Ok(query));
            for cut in 0..bytes.len() {
                prop_assert!(MetaQuery::parse(&bytes[..cut]).is_err());
            }
            let longer = [&bytes[..], b"x"].concat();
            prop_assert!(MetaQuery::parse(&longer).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, header: [u8; 16], reply: [u8; 20]) {
            let _ = (OptionHeader::parse(&header), OptionReply::parse(&reply));
            let _ = (InfoRequest::parse(&bytes), MetaQuery::parse(&bytes), parse_export_name(&bytes));
        }
    }

    #[test]
    fn lengths_that_wrap_are_refused() {
        let huge = [0xff; 4];
        assert!(InfoRequest::parse(&[&huge[..], b"a\0\0"].concat()).is_err());
        assert!(MetaQuery::parse(&[&[0; 4][..], &huge].concat()).is_err());
        assert!(MetaQuery::parse(&[&[0; 4][..], &[0, 0, 0, 1], &huge, b"base:"].concat()).is_err());
    }

    #[test]
    fn strings_are_checked() {
        assert_eq!(parse_export_name(&[b'x'; 4096]).map(str::len), Ok(4096));
        assert_eq!(parse_export_name(&[b'x'; 4097]).map_err(|e| e.reply), Err(rep::ERR_TOO_BIG));
        assert_eq!(parse_export_name(b"a\0b").map_err(|e| e.reply), Err(rep::ERR_INVALID));
        assert_eq!(parse_export_name(b"\xff").map_err(|e| e.reply), Err(rep::ERR_INVALID));
    }
}
