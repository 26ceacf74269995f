//! Tests of the server over its socket: by a client of raw bytes, and by the clients people use.

#[cfg(test)]
mod client;
#[cfg(test)]
mod device;
#[cfg(test)]
mod handshake;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod real_clients;
#[cfg(test)]
mod transmission;
