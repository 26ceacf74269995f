//! The server: exports behind a listening socket, from its start to its end.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use gabion_store_core::{BlockDevice, Error, ErrorKind, Result, blocking::spawn_blocking};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::{JoinHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, debug, debug_span, warn};

use crate::{
    connection,
    export::{Export, Exports},
    handshake::{Outcome, handshake},
    limits::Limits,
    socket::SocketFile,
    uri,
};

/// Kernel buffers of a Unix socket, in bytes, as far as the system allows: with those of the system's
/// default, a reply of 1 MiB takes a handful of wake-ups.
const SOCKET_BUFFER: usize = 4 << 20;
/// Pause before accepting again when the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Makes NBD servers: see [`Server::builder`].
#[derive(Debug)]
pub struct Server;

impl Server {
    /// A server without exports.
    pub fn builder() -> ServerBuilder {
        ServerBuilder { exports: Vec::new(), limits: Limits::default() }
    }
}

/// What a server will serve. Mistakes are reported when it starts.
#[derive(Debug)]
pub struct ServerBuilder {
    exports: Vec<Export>,
    limits: Limits,
}

impl ServerBuilder {
    /// Offers a device under a name of at most 4096 bytes; the first one is also the default export.
    #[must_use]
    pub fn export(mut self, name: impl Into<String>, device: Arc<dyn BlockDevice>) -> Self {
        self.exports.push(Export { name: name.into(), description: String::new(), device });
        self
    }

    /// Describes the export added last, for people who list exports; at most 4096 bytes.
    #[must_use]
    pub fn description(mut self, text: impl Into<String>) -> Self {
        if let Some(export) = self.exports.last_mut() {
            export.description = text.into();
        }
        self
    }

    /// Bounds what clients may use.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Listens on a Unix socket of mode 0600 at `path`. A socket that a dead server left there is
    /// replaced.
    ///
    /// Errors: `Invalid` for exports that can't be served and paths that are too long, `Conflict` if a
    /// server listens there, `AlreadyExists` if something that is no socket is there.
    pub async fn serve_unix(self, path: impl AsRef<Path>) -> Result<ServerHandle> {
        let exports = Exports::new(self.exports)?;
        let path = std::path::absolute(path.as_ref())
            .map_err(|error| Error::io("can't make the socket's path absolute", error))?;
        let (socket, listener) = spawn_blocking(move || SocketFile::bind(&path))
            .await
            .map_err(|error| Error::with_source(ErrorKind::Cancelled, "binding the socket", error))??;
        let listener =
            UnixListener::from_std(listener).map_err(|error| Error::io("listening on the socket", error))?;
        Ok(ServerHandle::start(exports, self.limits, Listener::Unix(listener), Address::Unix(socket)))
    }

    /// Listens on TCP, on a loopback address only: there is no TLS and no authentication, so anybody who
    /// reaches the port can read and write. Port 0 takes a free one.
    ///
    /// Errors: `Invalid` for exports that can't be served and addresses that are not loopback.
    pub async fn serve_tcp(self, address: SocketAddr) -> Result<ServerHandle> {
        let exports = Exports::new(self.exports)?;
        if !address.ip().is_loopback() {
            return Err(Error::invalid(format!(
                "{address} is no loopback address, and connections are not encrypted: use a Unix socket or \
                 127.0.0.1 and forward it through ssh"
            )));
        }
        let at = |error| Error::io(format!("can't listen on {address}"), error);
        let listener = TcpListener::bind(address).await.map_err(at)?;
        let address = listener.local_addr().map_err(at)?;
        Ok(ServerHandle::start(exports, self.limits, Listener::Tcp(listener), Address::Tcp(address)))
    }

    /// Serves one client over a stream that is connected already, until it leaves: a socket that another process
    /// accepted and handed over, or a stream in memory. Flushes nothing of its own.
    ///
    /// Errors: `Invalid` for exports that can't be served and for a client that does not speak the protocol, those of
    /// the stream otherwise. **Cancel safety**: dropping the future hangs up; what is in flight is cancelled.
    pub async fn serve_stream<S: AsyncRead + AsyncWrite + Unpin>(self, stream: S) -> Result<()> {
        let exports = Exports::new(self.exports)?;
        serve(stream, &exports, self.limits, &CancellationToken::new()).await.map_err(|error| {
            match error.kind() {
                io::ErrorKind::InvalidData => {
                    Error::invalid(format!("the client does not speak NBD: {error}"))
                }
                _ => Error::io("the connection to an NBD client", error),
            }
        })
    }
}

/// A running server. Dropping it stops the server, closes its connections and removes its socket, but
/// flushes nothing: for that, and to finish what is in flight, there is [`shutdown`](Self::shutdown).
#[derive(Debug)]
pub struct ServerHandle {
    exports: Arc<Exports>,
    limits: Limits,
    address: Option<Address>,
    stop: CancellationToken,
    /// `None` once it has ended.
    acceptor: Option<JoinHandle<()>>,
}

/// Where a server listens.
#[derive(Debug)]
enum Address {
    Unix(SocketFile),
    Tcp(SocketAddr),
}

impl ServerHandle {
    fn start(exports: Exports, limits: Limits, listener: Listener, address: Address) -> Self {
        let exports = Arc::new(exports);
        let stop = CancellationToken::new();
        let acceptor = Acceptor {
            exports: Arc::clone(&exports),
            limits,
            stop: stop.clone(),
            connections: JoinSet::new(),
        };
        let acceptor = tokio::spawn(acceptor.run(listener));
        Self { exports, limits, address: Some(address), stop, acceptor: Some(acceptor) }
    }

    /// URI of the default export, for any NBD client.
    pub fn uri(&self) -> String {
        self.exports.iter().next().map(|export| self.uri_for(&export.name)).unwrap_or_default()
    }

    /// URI of an export; `None` if there is none of this name.
    pub fn uri_of(&self, name: &str) -> Option<String> {
        self.exports.find(name).map(|export| self.uri_for(&export.name))
    }

    fn uri_for(&self, name: &str) -> String {
        match &self.address {
            Some(Address::Unix(socket)) => uri::unix(name, socket.path()),
            Some(Address::Tcp(address)) => uri::tcp(name, *address),
            None => String::new(),
        }
    }

    /// Path of the Unix socket, absolute; `None` for a server on TCP.
    pub fn socket_path(&self) -> Option<PathBuf> {
        match &self.address {
            Some(Address::Unix(socket)) => Some(socket.path().to_owned()),
            _ => None,
        }
    }

    /// Stops accepting, removes the socket, finishes and answers what is in flight, and closes all connections.
    /// Clients that idle hold nothing up; requests that take longer than [`Limits::drain`] are cancelled.
    ///
    /// **Cancel safety**: may be called again.
    pub async fn drain(&mut self) {
        self.address = None;
        self.stop.cancel();
        if let Some(acceptor) = &mut self.acceptor {
            if let Err(error) = acceptor.await {
                warn!(%error, "the accepting task failed");
            }
            self.acceptor = None;
        }
    }

    /// [Drains](Self::drain), then flushes every writable device.
    ///
    /// **Durability**: success means that every device flushed. **Errors**: the first flush that failed,
    /// or `Unavailable` if it took longer than [`Limits::flush`]; the server is stopped all the same.
    /// **Cancel safety**: dropping the future is dropping the handle.
    pub async fn shutdown(mut self) -> Result<()> {
        self.drain().await;
        let mut flushes = JoinSet::new();
        for export in self.exports.iter().filter(|export| !export.device.info().read_only).cloned() {
            flushes.spawn(async move {
                export.device.flush().await.map_err(|error| {
                    error.context(format!("flushing export {:?} at the server's end", export.name))
                })
            });
        }
        let flushed = async {
            let mut first = Ok(());
            while let Some(flushed) = flushes.join_next().await {
                let flushed = flushed.unwrap_or_else(|error| {
                    Err(Error::with_source(ErrorKind::Cancelled, "a flush did not finish", error))
                });
                first = first.and(flushed);
            }
            first
        };
        timeout(self.limits.flush, flushed).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Unavailable,
                "a device took too long to flush at the server's end: what was written since its last flush \
                 may not survive a power loss",
            ))
        })
    }
}

impl Drop for ServerHandle {
    fn drop(&mut self) {
        // While it still listens, nobody takes its socket for a dead one.
        self.address = None;
        self.stop.cancel();
        // Its connections go with it.
        if let Some(acceptor) = &self.acceptor {
            acceptor.abort();
        }
    }
}

/// A listening socket.
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// An accepted socket.
enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Listener {
    /// The next connection. Its socket's options are wishes: a client that is gone again, or a system
    /// that grants less, is no error of the listener.
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let socket = SockRef::from(&stream);
                let sized = socket
                    .set_send_buffer_size(SOCKET_BUFFER)
                    .and_then(|()| socket.set_recv_buffer_size(SOCKET_BUFFER));
                if let Err(error) = sized {
                    debug!(%error, "the socket keeps its small buffers");
                }
                Ok(Accepted::Unix(stream))
            }
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "the socket delays small replies");
                }
                Ok(Accepted::Tcp(stream))
            }
        }
    }
}

/// The task that accepts connections and owns theirs.
struct Acceptor {
    exports: Arc<Exports>,
    limits: Limits,
    stop: CancellationToken,
    connections: JoinSet<()>,
}

impl Acceptor {
    async fn run(mut self, listener: Listener) {
        let mut number = 0_u64;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some(ended) = self.connections.join_next() => {
                    if let Err(error) = ended {
                        warn!(%error, "a connection's task failed");
                    }
                }
                accepted = listener.accept() => match accepted {
                    Ok(_) if self.connections.len() >= self.limits.connections => {
                        warn!(limit = self.limits.connections, "too many connections: one more was closed");
                    }
                    Ok(accepted) => {
                        number += 1;
                        self.spawn(accepted, number);
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => {
                        warn!(%error, "can't accept a connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(listener);
        let drained = async { while self.connections.join_next().await.is_some() {} };
        if timeout(self.limits.drain, drained).await.is_err() {
            warn!(connections = self.connections.len(), "requests in flight were cancelled at the end");
            self.connections.shutdown().await;
        }
    }

    fn spawn(&mut self, accepted: Accepted, number: u64) {
        let (exports, limits, stop) = (Arc::clone(&self.exports), self.limits, self.stop.clone());
        let serve = async move {
            let ended = match accepted {
                Accepted::Unix(socket) => serve(socket, &exports, limits, &stop).await,
                Accepted::Tcp(socket) => serve(socket, &exports, limits, &stop).await,
            };
            match ended {
                Ok(()) => debug!("connection closed"),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    warn!(%error, "connection closed: the client does not speak the protocol");
                }
                Err(error) => debug!(%error, "connection ended"),
            }
        };
        self.connections.spawn(serve.instrument(debug_span!("nbd", connection = number)));
    }
}

/// Serves one connection from its first byte to its last.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: S,
    exports: &Exports,
    limits: Limits,
    stop: &CancellationToken,
) -> io::Result<()> {
    let outcome = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        outcome = timeout(limits.handshake, handshake(&mut socket, exports)) => outcome??,
    };
    match outcome {
        Outcome::Closed => Ok(()),
        Outcome::Transmission { export, terms } => {
            debug!(export = export.name, ?terms, "export opened");
            connection::serve(&mut socket, Arc::clone(&export.device), terms, limits, stop).await
        }
    }
}
