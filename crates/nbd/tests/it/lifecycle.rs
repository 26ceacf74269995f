//! Servers and connections from their beginning to their end, with clients that stall and vanish.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use gabion_nbd::{Limits, Server, proto::cmd};
use gabion_store_core::ErrorKind;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::{
    client::{Client, DEADLINE, TestServer, read, request, write},
    device::{Call, MemDevice, shared, until},
};

const SIZE: usize = 1 << 20;

#[tokio::test]
async fn what_can_not_be_served_is_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let device = shared(MemDevice::new(SIZE));
    let path = folder.path().join("s.sock");
    for names in [&[][..], &["a", "a"], &["a\0"], &[&"x".repeat(4097)]] {
        let mut builder = Server::builder();
        for name in names {
            builder = builder.export(*name, Arc::clone(&device) as _);
        }
        assert_eq!(builder.serve_unix(&path).await.unwrap_err().kind(), ErrorKind::Invalid, "{names:?}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn uris_name_each_export() {
    let device = shared(MemDevice::new(SIZE));
    let server = TestServer::with(&[("vm1", &device), ("b c", &device)], Limits::default()).await;
    let path = server.handle.socket_path().unwrap();
    let path = path.to_str().unwrap();
    assert_eq!(server.handle.uri(), format!("nbd+unix:///vm1?socket={path}"));
    assert_eq!(server.handle.uri_of("b c").unwrap(), format!("nbd+unix:///b%20c?socket={path}"));
    assert_eq!(server.handle.uri_of("nope"), None);
    server.stop().await;
}

#[tokio::test]
async fn tcp_is_for_loopback() {
    let device = shared(MemDevice::new(SIZE));
    let builder = || Server::builder().export("vm1", Arc::clone(&device) as _);
    let refused = builder().serve_tcp(([0, 0, 0, 0], 0).into()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let server = builder().serve_tcp(([127, 0, 0, 1], 0).into()).await.unwrap();
    let uri = server.uri();
    let address = uri.strip_prefix("nbd://").unwrap().strip_suffix("/vm1").unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut greeting = [0; 18];
    client.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting[..8], b"NBDMAGIC");
    timeout(DEADLINE, server.shutdown()).await.unwrap().unwrap();
}

#[tokio::test]
async fn shutdown_does_not_wait_for_idle_clients_and_flushes() {
    let device = shared(MemDevice::new(SIZE));
    let server = TestServer::of(&device).await;
    let (mut idle, mut haggling) = (server.simple().await, server.greeted().await);
    assert_eq!(idle.simple_error(write(0, 4096), &[1; 4096]).await, 0);
    server.stop().await;
    idle.assert_closed().await;
    haggling.assert_closed().await;
    assert_eq!(*device.calls.lock(), [Call::Write(0, 4096), Call::Flush]);
}

#[tokio::test]
async fn shutdown_answers_what_is_in_flight() {
    let device = shared(MemDevice::new(SIZE).gated());
    let server = TestServer::of(&device).await;
    let mut client = server.simple().await;
    client.request(write(0, 4096), &[1; 4096]).await;
    until(|| device.begun.load(Ordering::SeqCst) == 1).await;
    let stopping = tokio::spawn(server.stop());
    device.gate.add_permits(2);
    stopping.await.unwrap();
    assert_eq!(client.simple_reply().await.error, 0);
    client.assert_closed().await;
}

#[tokio::test]
async fn shutdown_is_bounded_when_a_device_hangs() {
    let device = shared(MemDevice::new(SIZE).gated());
    let brief = Duration::from_millis(20);
    let limits = Limits { drain: brief, flush: brief, ..Limits::default() };
    let server = TestServer::with(&[("vm1", &device)], limits).await;
    let mut client = server.simple().await;
    client.request(write(0, 4096), &[1; 4096]).await;
    until(|| device.begun.load(Ordering::SeqCst) == 1).await;
    let error = timeout(DEADLINE, server.handle.shutdown()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    client.assert_closed().await;
    until(|| device.ended.load(Ordering::SeqCst) == device.begun.load(Ordering::SeqCst)).await;
}

#[tokio::test]
async fn a_flush_that_fails_at_the_end_is_reported() {
    let device = shared(MemDevice::new(SIZE).failing(ErrorKind::Poisoned, "reopen it"));
    let server = TestServer::of(&device).await;
    let error = timeout(DEADLINE, server.handle.shutdown()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    assert!(error.report().contains("vm1") && error.report().contains("reopen it"), "{error:?}");
}

#[tokio::test]
async fn dropping_the_handle_stops_the_server() {
    let device = shared(MemDevice::new(SIZE));
    let server = TestServer::of(&device).await;
    let path = server.handle.socket_path().unwrap();
    let mut client = server.simple().await;
    drop(server.handle);
    assert!(!path.exists());
    client.assert_closed().await;
    assert!(device.calls.lock().is_empty());
}

#[tokio::test]
async fn connections_are_capped() {
    let device = shared(MemDevice::new(SIZE));
    let limits = Limits { connections: 2, ..Limits::default() };
    let server = TestServer::with(&[("vm1", &device)], limits).await;
    let (mut first, mut second) = (server.simple().await, server.simple().await);
    server.connect().await.assert_closed().await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.read(0, 10).await, [0; 10]);
    }
    drop(first);
    // Its place becomes free once the server noticed.
    loop {
        let mut next = server.connect().await;
        if next.0.read_u64().await.is_ok() {
            break;
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_write_is_seen_by_every_connection_and_export_of_its_device() {
    let device = shared(MemDevice::new(SIZE));
    let server = TestServer::with(&[("a", &device), ("b", &device)], Limits::default()).await;
    let mut writer = server.simple().await;
    let mut readers = [server.simple().await, server.greeted().await];
    readers[1].go("b").await;
    assert_eq!(writer.simple_error(write(5, 3), b"abc").await, 0);
    for reader in &mut readers {
        assert_eq!(reader.read(4, 5).await, b"\0abc\0");
    }
    server.stop().await;
}

/// Sends reads and takes no reply until the server takes no more; how many requests it took.
async fn stall(client: &mut Client) -> usize {
    let bytes = read(0, 4096).encode().repeat(1024);
    let mut taken = 0;
    // The server is idle between its turns, so "no progress for long" needs no clock of its own: the
    // socket's buffer being full for many turns of this thread means that nobody empties it.
    let mut idle = 0;
    while idle < 2000 {
        match client.0.try_write(&bytes) {
            Ok(sent) => {
                (taken, idle) = (taken + sent, 0);
                // Far more than all buffers hold; without a bound, this would only end with the memory.
                assert!(taken < 4 << 20, "a client that does not read is answered for ever");
            }
            Err(_) => {
                idle += 1;
                tokio::task::yield_now().await;
            }
        }
    }
    taken / 28
}

/// Row 39.
#[tokio::test]
async fn a_client_that_does_not_read_stalls_itself_alone() {
    let device = shared(MemDevice::patterned(SIZE));
    let server = TestServer::of(&device).await;
    let mut stalled = server.simple().await;
    let requests = stall(&mut stalled).await;
    // What was taken in and not answered is bounded by buffers, not by what was asked for.
    assert!(requests > 256, "{requests}");
    let expected = &device.contents()[..4096];
    assert_eq!(server.simple().await.read(0, 4096).await, expected);
    // Nothing was lost: replies to all that was taken whole arrive once they are wanted.
    for _ in 0..requests {
        assert_eq!(stalled.simple_reply().await.error, 0);
        assert_eq!(stalled.receive_vec(4096).await, expected);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_does_not_hold_up_the_end() {
    let device = shared(MemDevice::patterned(SIZE));
    let limits = Limits { drain: Duration::from_millis(20), ..Limits::default() };
    let server = TestServer::with(&[("vm1", &device)], limits).await;
    let mut stalled = server.simple().await;
    stall(&mut stalled).await;
    server.stop().await;
    assert_eq!(*device.calls.lock(), [Call::Flush]);
}

/// Row 39.
#[tokio::test]
async fn clients_that_vanish_harm_nobody() {
    let device = shared(MemDevice::patterned(SIZE).waiting());
    let server = TestServer::of(&device).await;
    for _ in 0..20 {
        // Mid-handshake, mid-request, mid-payload, mid-reply.
        drop(server.connect().await);
        let mut client = server.greeted().await;
        client.send(&[0x49; 3]).await;
        drop(client);
        let mut client = server.simple().await;
        client.send(&write(0, 300_000).encode()).await;
        client.send(&[1; 1000]).await;
        drop(client);
        let mut client = server.simple().await;
        client.request(read(0, SIZE as u32), &[]).await;
        client.receive::<20>().await;
        drop(client);
    }
    assert_eq!(device.contents(), MemDevice::patterned(SIZE).contents());
    assert_eq!(server.simple().await.read(0, 4096).await, device.contents()[..4096]);
    server.stop().await;
}

#[tokio::test]
async fn what_a_vanished_client_asked_for_is_cancelled() {
    let device = shared(MemDevice::patterned(SIZE).gated());
    let server = TestServer::of(&device).await;
    let mut client = server.simple().await;
    client.request(read(0, 4096), &[]).await;
    until(|| device.begun.load(Ordering::SeqCst) == 1).await;
    drop(client);
    until(|| device.ended.load(Ordering::SeqCst) == 1).await;
    device.gate.add_permits(1);
    server.stop().await;
}

#[tokio::test]
async fn a_device_that_panics_ends_one_connection() {
    for device in [MemDevice::patterned(SIZE), MemDevice::patterned(SIZE).waiting()] {
        let device = shared(device);
        let server = TestServer::of(&device).await;
        let (mut victim, mut other) = (server.simple().await, server.simple().await);
        device.panics.store(true, Ordering::SeqCst);
        victim.request(read(0, 4096), &[]).await;
        victim.assert_closed().await;
        device.panics.store(false, Ordering::SeqCst);
        assert_eq!(other.simple_error(request(cmd::FLUSH, 0, 0), &[]).await, 0);
        server.stop().await;
    }
}

#[tokio::test]
async fn a_second_server_is_refused_and_a_dead_ones_socket_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.sock");
    let device = shared(MemDevice::new(SIZE));
    let builder = || Server::builder().export("vm1", Arc::clone(&device) as _);
    let first = builder().serve_unix(&path).await.unwrap();
    assert_eq!(builder().serve_unix(&path).await.unwrap_err().kind(), ErrorKind::Conflict);
    first.shutdown().await.unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let second = builder().serve_unix(&path).await.unwrap();
    let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
    assert_eq!(client.read_u64().await.unwrap(), gabion_nbd::proto::NBDMAGIC);
    client.shutdown().await.unwrap();
    second.shutdown().await.unwrap();
}
