//! A plain NBD client, one request at a time, that does exactly what a test tells it and nothing else:
//! simple replies, no reconnects, no retries.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
const FLAG_FUA: u16 = 1;

/// `nbd+unix:///EXPORT?socket=PATH`, taken apart.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) export: String,
    pub(crate) socket: PathBuf,
}

impl Address {
    pub(crate) fn parse(uri: &str) -> Self {
        let rest = uri.strip_prefix("nbd+unix:///").unwrap_or_else(|| panic!("{uri}: not nbd+unix:///"));
        let (export, socket) = rest.split_once("?socket=").unwrap_or_else(|| panic!("{uri}: no ?socket="));
        Self { export: unescape(export), socket: unescape(socket).into() }
    }
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = std::str::from_utf8(&tail[..2]).expect("two hex digits after %");
        bytes.push(u8::from_str_radix(digits, 16).expect("two hex digits after %"));
        rest = &tail[2..];
    }
    String::from_utf8(bytes).expect("UTF-8 in a URI")
}

/// One connection. Every error is an `io::Error`: the server's, with its errno's number, or the socket's.
#[derive(Debug)]
pub(crate) struct Client {
    socket: UnixStream,
    size: u64,
    cookie: u64,
}

impl Client {
    pub(crate) fn connect(uri: &str) -> io::Result<Self> {
        let address = Address::parse(uri);
        let mut socket = UnixStream::connect(&address.socket)?;
        socket.set_read_timeout(Some(Duration::from_secs(120)))?;
        socket.set_write_timeout(Some(Duration::from_secs(120)))?;
        let mut hello = [0; 18];
        socket.read_exact(&mut hello)?;
        assert_eq!(&hello[..16], b"NBDMAGICIHAVEOPT", "the server's greeting");

        let mut go = Vec::from(3_u32.to_be_bytes()); // fixed newstyle, no zeroes
        go.extend(b"IHAVEOPT");
        go.extend(OPTION_GO.to_be_bytes());
        go.extend((address.export.len() as u32 + 6).to_be_bytes());
        go.extend((address.export.len() as u32).to_be_bytes());
        go.extend(address.export.as_bytes());
        go.extend(0_u16.to_be_bytes());
        socket.write_all(&go)?;

        let mut size = None;
        loop {
            let mut header = [0; 20];
            socket.read_exact(&mut header)?;
            let kind = u32_at(&header, 12);
            let mut body = vec![0; u32_at(&header, 16) as usize];
            socket.read_exact(&mut body)?;
            match kind {
                REPLY_ACK => break,
                REPLY_INFO if body[..2] == [0, 0] => size = Some(u64_at(&body, 2)),
                REPLY_INFO => {}
                _ => {
                    let text = String::from_utf8_lossy(&body);
                    return Err(io::Error::other(format!("option refused with {kind:#x}: {text}")));
                }
            }
        }
        Ok(Self { socket, size: size.expect("the server tells the size before it acknowledges"), cookie: 0 })
    }

    /// The export's size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.request(0, 0, offset, buffer.len(), &[])?;
        self.socket.read_exact(buffer)
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.request(1, 0, offset, data.len(), data)
    }

    pub(crate) fn write_fua(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.request(1, FLAG_FUA, offset, data.len(), data)
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.request(3, 0, 0, 0, &[])
    }

    pub(crate) fn trim(&mut self, offset: u64, length: usize) -> io::Result<()> {
        self.request(4, 0, offset, length, &[])
    }

    pub(crate) fn write_zeroes(&mut self, offset: u64, length: usize) -> io::Result<()> {
        self.request(6, 0, offset, length, &[])
    }

    /// Sends one request and reads the header of its reply.
    fn request(
        &mut self,
        command: u16,
        flags: u16,
        offset: u64,
        length: usize,
        data: &[u8],
    ) -> io::Result<()> {
        self.cookie += 1;
        let mut message = Vec::from(0x2560_9513_u32.to_be_bytes());
        message.extend(flags.to_be_bytes());
        message.extend(command.to_be_bytes());
        message.extend(self.cookie.to_be_bytes());
        message.extend(offset.to_be_bytes());
        message.extend((length as u32).to_be_bytes());
        message.extend(data);
        self.socket.write_all(&message)?;

        let mut header = [0; 16];
        self.socket.read_exact(&mut header)?;
        assert_eq!(u32_at(&header, 0), 0x6744_6698, "a simple reply");
        assert_eq!(u64_at(&header, 8), self.cookie, "the cookie of the only request");
        match u32_at(&header, 4) {
            0 => Ok(()),
            errno => Err(io::Error::other(format!("command {command} at {offset}+{length}: errno {errno}"))),
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
