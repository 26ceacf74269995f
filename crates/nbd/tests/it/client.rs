//! A client that sends and receives raw bytes, and a server for it.

use std::{sync::Arc, time::Duration};

use gabion_nbd::{
    Limits, Server, ServerHandle,
    proto::{
        FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, chunk, cmd, opt,
        option::{InfoRequest, MetaQuery, OptionHeader, OptionReply},
        rep,
        reply::{ChunkHeader, SimpleReply},
        request::Request,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

use crate::device::MemDevice;

/// No test takes as long unless it hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A server in a folder of its own.
pub(crate) struct TestServer {
    pub(crate) handle: ServerHandle,
    folder: tempfile::TempDir,
}

impl TestServer {
    pub(crate) async fn with(exports: &[(&str, &Arc<MemDevice>)], limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut builder = Server::builder().limits(limits);
        for (name, device) in exports {
            builder = builder.export(*name, Arc::clone(*device) as _).description(format!("disk {name}"));
        }
        let handle = builder.serve_unix(folder.path().join("s.sock")).await.unwrap();
        Self { handle, folder }
    }

    pub(crate) async fn of(device: &Arc<MemDevice>) -> Self {
        Self::with(&[("vm1", device)], Limits::default()).await
    }

    pub(crate) async fn connect(&self) -> Client {
        Client(UnixStream::connect(self.handle.socket_path().unwrap()).await.unwrap())
    }

    /// A client behind its greeting.
    pub(crate) async fn greeted(&self) -> Client {
        let mut client = self.connect().await;
        client.greet(u32::from(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES)).await;
        client
    }

    /// A client in the transmission phase, with simple replies.
    pub(crate) async fn simple(&self) -> Client {
        let mut client = self.greeted().await;
        client.go("").await;
        client
    }

    /// A client in the transmission phase, with structured replies and `base:allocation`.
    pub(crate) async fn structured(&self) -> Client {
        let mut client = self.greeted().await;
        client.option(opt::STRUCTURED_REPLY, &[]).await;
        let query = MetaQuery { export: "", queries: vec!["base:allocation"] }.encode();
        client.send_option(opt::SET_META_CONTEXT, &query).await;
        assert_eq!(client.option_reply().await.0, rep::META_CONTEXT);
        assert_eq!(client.option_reply().await.0, rep::ACK);
        client.go("").await;
        client
    }

    /// Ends the server; the folder is empty then.
    pub(crate) async fn stop(self) {
        timeout(DEADLINE, self.handle.shutdown()).await.unwrap().unwrap();
        assert_eq!(std::fs::read_dir(self.folder.path()).unwrap().count(), 0);
    }
}

/// One chunk of a structured reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) header: ChunkHeader,
    pub(crate) payload: Vec<u8>,
}

impl Chunk {
    /// The error number of an error chunk.
    pub(crate) fn error(&self) -> u32 {
        assert_eq!(self.header.kind, chunk::ERROR, "{self:?}");
        u32::from_be_bytes(*self.payload.first_chunk().unwrap())
    }

    pub(crate) fn done(&self) -> bool {
        self.header.flags & chunk::DONE != 0
    }
}

pub(crate) struct Client(pub(crate) UnixStream);

impl Client {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        timeout(DEADLINE, self.0.write_all(bytes)).await.expect("the server takes it").unwrap();
    }

    pub(crate) async fn receive<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        timeout(DEADLINE, self.0.read_exact(&mut bytes)).await.expect("the server answers").unwrap();
        bytes
    }

    pub(crate) async fn receive_vec(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        timeout(DEADLINE, self.0.read_exact(&mut bytes)).await.expect("the server answers").unwrap();
        bytes
    }

    /// Whatever comes until the server closes.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let read = timeout(DEADLINE, self.0.read_to_end(&mut bytes)).await.expect("the server closes");
        match read {
            Ok(_) => {}
            // Closed with bytes of ours unread.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
        bytes
    }

    pub(crate) async fn assert_closed(&mut self) {
        assert_eq!(self.rest().await, b"");
    }

    pub(crate) async fn greet(&mut self, flags: u32) {
        assert_eq!(&self.receive::<18>().await, b"NBDMAGICIHAVEOPT\0\x03");
        self.send(&flags.to_be_bytes()).await;
    }

    pub(crate) async fn send_option(&mut self, code: u32, payload: &[u8]) {
        let header = OptionHeader { code, length: payload.len() as u32 };
        self.send(&[&header.encode()[..], payload].concat()).await;
    }

    /// Type and payload of the next reply to an option.
    pub(crate) async fn option_reply(&mut self) -> (u32, Vec<u8>) {
        let header = OptionReply::parse(&self.receive().await).unwrap();
        (header.reply, self.receive_vec(header.length as usize).await)
    }

    /// Sends an option; the replies up to the last one, and that one's type.
    pub(crate) async fn option(&mut self, code: u32, payload: &[u8]) -> (Vec<(u32, Vec<u8>)>, u32) {
        self.send_option(code, payload).await;
        let mut replies = Vec::new();
        loop {
            match self.option_reply().await {
                (last, _) if last == rep::ACK || last & 0x8000_0000 != 0 => return (replies, last),
                reply => replies.push(reply),
            }
        }
    }

    /// Chooses an export; its size and transmission flags.
    pub(crate) async fn go(&mut self, export: &str) -> (u64, u16) {
        let (infos, last) = self.option(opt::GO, &InfoRequest { export, infos: vec![] }.encode()).await;
        assert_eq!(last, rep::ACK);
        let [(rep::INFO, payload)] = &infos[..] else { panic!("one info: {infos:?}") };
        size_and_flags(payload)
    }

    pub(crate) async fn request(&mut self, request: Request, payload: &[u8]) {
        self.send(&[&request.encode()[..], payload].concat()).await;
    }

    pub(crate) async fn simple_reply(&mut self) -> SimpleReply {
        SimpleReply::parse(&self.receive().await).unwrap()
    }

    pub(crate) async fn chunk(&mut self) -> Chunk {
        let header = ChunkHeader::parse(&self.receive().await).unwrap();
        Chunk { header, payload: self.receive_vec(header.length as usize).await }
    }

    /// Sends a request and gives the error of its simple reply.
    pub(crate) async fn simple_error(&mut self, request: Request, payload: &[u8]) -> u32 {
        self.request(request, payload).await;
        let reply = self.simple_reply().await;
        assert_eq!(reply.cookie, request.cookie);
        reply.error
    }

    /// Sends a request that is refused with a structured error, and gives that.
    pub(crate) async fn structured_error(&mut self, request: Request, payload: &[u8]) -> u32 {
        self.request(request, payload).await;
        let chunk = self.chunk().await;
        assert_eq!(chunk.header.cookie, request.cookie);
        assert!(chunk.done());
        chunk.error()
    }

    /// Reads with simple replies.
    pub(crate) async fn read(&mut self, offset: u64, length: u32) -> Vec<u8> {
        assert_eq!(self.simple_error(read(offset, length), &[]).await, 0);
        self.receive_vec(length as usize).await
    }
}

/// Size and transmission flags in an `EXPORT` information.
pub(crate) fn size_and_flags(payload: &[u8]) -> (u64, u16) {
    let (kind, rest) = payload.split_first_chunk::<2>().unwrap();
    assert_eq!(*kind, [0, 0]);
    let (size, flags) = rest.split_first_chunk::<8>().unwrap();
    (u64::from_be_bytes(*size), u16::from_be_bytes(flags.try_into().unwrap()))
}

/// A request without flags; its cookie says nothing in particular.
pub(crate) fn request(command: u16, offset: u64, length: u32) -> Request {
    Request { flags: 0, command, cookie: 0xfeed_0000_dead_0000 | u64::from(command), offset, length }
}

pub(crate) fn read(offset: u64, length: u32) -> Request {
    request(cmd::READ, offset, length)
}

pub(crate) fn write(offset: u64, length: u32) -> Request {
    request(cmd::WRITE, offset, length)
}
