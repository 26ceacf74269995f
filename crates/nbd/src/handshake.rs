//! The handshake: fixed newstyle option haggling, up to the choice of an export.
//!
//! Nothing is allocated for a length from the wire beyond [`MAX_OPTION`] bytes; longer options are
//! drained and refused. The caller puts the deadline around it all.

use std::{io, sync::Arc};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::{
    export::{Export, Exports},
    limits::MAX_PAYLOAD,
    proto::{
        BASE_ALLOCATION, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, IHAVEOPT, NBDMAGIC, Violation, info, opt,
        option::{
            InfoRequest, MetaQuery, OptionHeader, Refused, info_block_size, info_export, parse_export_name,
            push_reply,
        },
        rep,
    },
    terms::{Terms, transmission_flags},
};

/// Longest option payload that is kept, in bytes.
const MAX_OPTION: u32 = 64 << 10;
/// Id of the only context, `base:allocation`.
pub(crate) const ALLOCATION_CONTEXT: u32 = 1;
/// Smallest request, and the one that costs least, in bytes.
const BLOCK_SIZES: (u32, u32) = (1, 4096);

/// How a handshake ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The client chose an export.
    Transmission { export: Arc<Export>, terms: Terms },
    /// The client left, politely or not.
    Closed,
}

/// What the client asked for so far.
#[derive(Debug, Default)]
struct Haggle {
    no_zeroes: bool,
    structured: bool,
    /// The export for which `base:allocation` is selected.
    allocation: Option<Arc<Export>>,
}

/// What follows an option.
enum Next {
    Option,
    Go { export: Arc<Export>, terms: Terms },
    Close,
}

/// Talks to a client until it chose an export or left. An `InvalidData` error is a client that does not
/// speak the protocol.
pub(crate) async fn handshake<S>(socket: &mut S, exports: &Exports) -> io::Result<Outcome>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut greeting = Vec::from(NBDMAGIC.to_be_bytes());
    greeting.extend_from_slice(&IHAVEOPT.to_be_bytes());
    greeting.extend_from_slice(&(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES).to_be_bytes());
    socket.write_all(&greeting).await?;

    let client = socket.read_u32().await?;
    if client & !u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES) != 0 {
        return Err(invalid(Violation("the client sets a handshake flag that was not offered")));
    }
    let mut haggle = Haggle { no_zeroes: client & u32::from(FLAG_NO_ZEROES) != 0, ..Haggle::default() };

    loop {
        let mut header = [0; OptionHeader::LEN];
        socket.read_exact(&mut header).await?;
        let header = OptionHeader::parse(&header).map_err(invalid)?;
        let mut out = Vec::new();
        let next = if header.length > MAX_OPTION {
            drain(socket, header.length).await?;
            haggle.refuse_oversized(header.code, &mut out)
        } else {
            let mut payload = vec![0; header.length as usize];
            socket.read_exact(&mut payload).await?;
            haggle.option(exports, header.code, &payload, &mut out)
        };
        let sent = socket.write_all(&out).await;
        match next {
            // A client may abort and close without waiting for the answer.
            Next::Close => return Ok(Outcome::Closed),
            Next::Option => sent?,
            Next::Go { export, terms } => {
                sent?;
                return Ok(Outcome::Transmission { export, terms });
            }
        }
    }
}

fn invalid(violation: Violation) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, violation)
}

/// Reads and forgets `length` bytes.
async fn drain<S: AsyncRead + Unpin>(socket: &mut S, length: u32) -> io::Result<()> {
    let drained = tokio::io::copy(&mut socket.take(u64::from(length)), &mut tokio::io::sink()).await?;
    if drained == u64::from(length) { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

impl Haggle {
    /// Answers an option whose payload was too long to look at.
    fn refuse_oversized(&mut self, code: u32, out: &mut Vec<u8>) -> Next {
        let reply = match code {
            opt::EXPORT_NAME => return Next::Close,
            opt::ABORT => {
                push_reply(out, code, rep::ACK, &[]);
                return Next::Close;
            }
            opt::LIST | opt::STRUCTURED_REPLY | opt::STARTTLS => rep::ERR_INVALID,
            opt::INFO | opt::GO | opt::LIST_META_CONTEXT => rep::ERR_TOO_BIG,
            opt::SET_META_CONTEXT => {
                self.allocation = None;
                rep::ERR_TOO_BIG
            }
            _ => rep::ERR_UNSUP,
        };
        push_reply(out, code, reply, &[b"the option is longer than 64 KiB"]);
        Next::Option
    }

    /// Answers an option.
    fn option(&mut self, exports: &Exports, code: u32, payload: &[u8], out: &mut Vec<u8>) -> Next {
        let answered = match code {
            opt::EXPORT_NAME => return self.export_name(exports, payload, out),
            opt::ABORT => {
                push_reply(out, code, rep::ACK, &[]);
                return Next::Close;
            }
            opt::LIST | opt::STRUCTURED_REPLY | opt::STARTTLS if !payload.is_empty() => {
                Err(Refused { reply: rep::ERR_INVALID, why: "the option takes no payload" })
            }
            opt::LIST => {
                list(exports, out);
                Ok(Next::Option)
            }
            opt::STRUCTURED_REPLY => {
                self.structured = true;
                Ok(Next::Option)
            }
            opt::INFO | opt::GO => self.info(exports, code, payload, out),
            opt::LIST_META_CONTEXT => self.list_contexts(exports, payload, out),
            opt::SET_META_CONTEXT => self.set_contexts(exports, payload, out),
            _ => Err(Refused { reply: rep::ERR_UNSUP, why: "the option is not supported" }),
        };
        match answered {
            Ok(next) => {
                push_reply(out, code, rep::ACK, &[]);
                next
            }
            Err(Refused { reply, why }) => {
                push_reply(out, code, reply, &[why.as_bytes()]);
                Next::Option
            }
        }
    }

    /// `EXPORT_NAME` can't be refused, so a bad name closes the connection.
    fn export_name(&self, exports: &Exports, payload: &[u8], out: &mut Vec<u8>) -> Next {
        let Some(export) = parse_export_name(payload).ok().and_then(|name| exports.find(name)) else {
            return Next::Close;
        };
        let terms = self.terms(export);
        out.extend_from_slice(&terms.info.size.to_be_bytes());
        out.extend_from_slice(&transmission_flags(&terms.info, terms.structured).to_be_bytes());
        if !self.no_zeroes {
            out.extend_from_slice(&[0; 124]);
        }
        Next::Go { export: Arc::clone(export), terms }
    }

    fn info(&self, exports: &Exports, code: u32, payload: &[u8], out: &mut Vec<u8>) -> Result<Next, Refused> {
        let request = InfoRequest::parse(payload)?;
        let export = find(exports, request.export)?;
        let terms = self.terms(export);
        let flags = transmission_flags(&terms.info, terms.structured);
        push_reply(out, code, rep::INFO, &[&info_export(terms.info.size, flags)]);
        for (kind, text) in [(info::NAME, &export.name), (info::DESCRIPTION, &export.description)] {
            if request.infos.contains(&kind) && (kind == info::NAME || !text.is_empty()) {
                push_reply(out, code, rep::INFO, &[&kind.to_be_bytes(), text.as_bytes()]);
            }
        }
        if request.infos.contains(&info::BLOCK_SIZE) {
            let (minimum, preferred) = BLOCK_SIZES;
            push_reply(out, code, rep::INFO, &[&info_block_size(minimum, preferred, MAX_PAYLOAD)]);
        }
        if code == opt::GO {
            return Ok(Next::Go { export: Arc::clone(export), terms });
        }
        Ok(Next::Option)
    }

    fn list_contexts(&self, exports: &Exports, payload: &[u8], out: &mut Vec<u8>) -> Result<Next, Refused> {
        let query = MetaQuery::parse(payload)?;
        find(exports, query.export)?;
        if query.queries.is_empty() || query.queries.iter().any(|q| matches!(*q, "base:" | BASE_ALLOCATION)) {
            push_context(out, opt::LIST_META_CONTEXT);
        }
        Ok(Next::Option)
    }

    /// Whatever comes of it, what was selected before is not selected any more.
    fn set_contexts(
        &mut self,
        exports: &Exports,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Next, Refused> {
        self.allocation = None;
        if !self.structured {
            return Err(Refused { reply: rep::ERR_INVALID, why: "contexts need structured replies" });
        }
        let query = MetaQuery::parse(payload)?;
        let export = find(exports, query.export)?;
        if query.queries.contains(&BASE_ALLOCATION) {
            self.allocation = Some(Arc::clone(export));
            push_context(out, opt::SET_META_CONTEXT);
        }
        Ok(Next::Option)
    }

    /// What would hold if the client chose `export` now.
    fn terms(&self, export: &Arc<Export>) -> Terms {
        let allocation = self.allocation.as_ref().is_some_and(|selected| Arc::ptr_eq(selected, export));
        Terms { info: export.device.info(), structured: self.structured, allocation }
    }
}

fn find<'a>(exports: &'a Exports, name: &str) -> Result<&'a Arc<Export>, Refused> {
    exports.find(name).ok_or(Refused { reply: rep::ERR_UNKNOWN, why: "there is no export of this name" })
}

fn list(exports: &Exports, out: &mut Vec<u8>) {
    for export in exports.iter() {
        let length = (export.name.len() as u32).to_be_bytes();
        let parts = [&length, export.name.as_bytes(), export.description.as_bytes()];
        push_reply(out, opt::LIST, rep::SERVER, &parts);
    }
}

fn push_context(out: &mut Vec<u8>, option: u32) {
    let parts = [&ALLOCATION_CONTEXT.to_be_bytes()[..], BASE_ALLOCATION.as_bytes()];
    push_reply(out, option, rep::META_CONTEXT, &parts);
}
