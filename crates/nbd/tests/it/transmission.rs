//! The transmission phase, point by point.

use std::sync::{Arc, atomic::Ordering};

use gabion_nbd::{
    Limits, MAX_PAYLOAD,
    proto::{STATE_HOLE, STATE_ZERO, chunk, cmd, cmd_flag, request::Request},
};
use gabion_store_core::{ErrorKind, device::ZeroMode};
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::io::AsyncWriteExt as _;

use crate::{
    client::{Client, TestServer, read, request, write},
    device::{Call, MemDevice, shared, until},
};

const SIZE: usize = 1 << 20;
const END: u64 = SIZE as u64;
const EPERM: u32 = 1;
const EIO: u32 = 5;
const EINVAL: u32 = 22;
const ENOSPC: u32 = 28;
const ENOTSUP: u32 = 95;

fn with_flags(request: Request, flags: u16) -> Request {
    Request { flags, ..request }
}

/// The session is in step: a read answers with the device's bytes.
async fn assert_in_step(client: &mut Client, device: &MemDevice) {
    assert_eq!(client.read(4096, 100).await, device.contents()[4096..4196]);
}

#[tokio::test]
async fn reads_in_place_and_by_a_task_are_the_same() {
    for device in [MemDevice::patterned(SIZE), MemDevice::patterned(SIZE).waiting()] {
        let device = shared(device);
        let server = TestServer::of(&device).await;
        let (mut simple, mut structured) = (server.simple().await, server.structured().await);
        for (offset, length) in [(0, 1), (0, 4096), (4095, 2), (END - 1, 1), (0, SIZE as u32), (777, 300_000)]
        {
            let expected = device.contents()[offset as usize..][..length as usize].to_vec();
            assert_eq!(simple.read(offset, length).await, expected);
            structured.request(with_flags(read(offset, length), cmd_flag::DF), &[]).await;
            let chunk = structured.chunk().await;
            assert_eq!((chunk.header.kind, chunk.done()), (chunk::OFFSET_DATA, true));
            assert_eq!(chunk.payload, [&offset.to_be_bytes()[..], &expected].concat());
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn reads_larger_than_the_buffers_come_whole() {
    let device = shared(MemDevice::patterned(40 << 20));
    let server = TestServer::of(&device).await;
    let mut client = server.simple().await;
    assert_eq!(client.read(1, MAX_PAYLOAD).await, device.contents()[1..][..MAX_PAYLOAD as usize]);
    assert_eq!(client.simple_error(read(0, MAX_PAYLOAD + 1), &[]).await, EINVAL);
    server.stop().await;
}

#[tokio::test]
async fn ranges_beyond_the_end_are_refused_and_their_payload_consumed() {
    let device = shared(MemDevice::patterned(SIZE));
    let before = device.contents();
    let server = TestServer::of(&device).await;
    let mut client = server.simple().await;
    for (offset, length) in [(END, 1), (END - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 4096), (END + 1, 0)] {
        for (command, expected) in
            [(cmd::READ, EINVAL), (cmd::TRIM, EINVAL), (cmd::CACHE, EINVAL), (cmd::WRITE_ZEROES, ENOSPC)]
        {
            let error = client.simple_error(request(command, offset, length), &[]).await;
            assert_eq!(error, expected, "{command} {offset}+{length}");
        }
        let payload = vec![7; length as usize];
        assert_eq!(client.simple_error(write(offset, length), &payload).await, ENOSPC);
        assert_in_step(&mut client, &device).await;
    }
    assert_eq!(device.contents(), before);
    server.stop().await;
}

#[tokio::test]
async fn a_write_that_is_too_large_is_drained() {
    let device = shared(MemDevice::patterned(SIZE));
    let server = TestServer::of(&device).await;
    let mut client = server.simple().await;
    let length = MAX_PAYLOAD + 1;
    client.send(&write(0, length).encode()).await;
    assert_eq!(client.simple_reply().await.error, EINVAL);
    client.send(&vec![9; length as usize]).await;
    assert_in_step(&mut client, &device).await;
    server.stop().await;
}

#[tokio::test]
async fn a_read_only_export_refuses_writes_and_consumes_them() {
    let device = shared(MemDevice::patterned(SIZE).read_only());
    let server = TestServer::of(&device).await;
    let mut client = server.simple().await;
    for length in [1, 4096, 400_000] {
        assert_eq!(client.simple_error(write(0, length), &vec![7; length as usize]).await, EPERM);
        assert_in_step(&mut client, &device).await;
    }
    assert_eq!(client.simple_error(request(cmd::TRIM, 0, 4096), &[]).await, EPERM);
    assert_eq!(client.simple_error(request(cmd::WRITE_ZEROES, 0, 4096), &[]).await, EPERM);
    assert_eq!(client.simple_error(request(cmd::FLUSH, 0, 0), &[]).await, EINVAL);
    assert!(device.calls.lock().is_empty());
    server.stop().await;
}

#[tokio::test]
async fn unknown_commands_and_flags_are_invalid() {
    let device = shared(MemDevice::patterned(SIZE));
    let server = TestServer::of(&device).await;
    let mut client = server.simple().await;
    assert_eq!(client.simple_error(request(8, 0, 4096), &[]).await, EINVAL);
    assert_eq!(client.simple_error(request(u16::MAX, 0, 4096), &[]).await, EINVAL);
    for (command, known) in [
        (cmd::READ, cmd_flag::FUA),
        (cmd::WRITE, cmd_flag::FUA),
        (cmd::FLUSH, cmd_flag::FUA),
        (cmd::TRIM, cmd_flag::FUA),
        (cmd::CACHE, cmd_flag::FUA),
        (cmd::WRITE_ZEROES, cmd_flag::FUA | cmd_flag::NO_HOLE | cmd_flag::FAST_ZERO),
    ] {
        for bit in 0..16 {
            let asked = with_flags(request(command, 0, 4096), 1 << bit);
            let payload = vec![1; if command == cmd::WRITE { 4096 } else { 0 }];
            let error = client.simple_error(asked, &payload).await;
            if error == 0 && command == cmd::READ {
                client.receive_vec(4096).await;
            }
            assert_eq!(error, if known & 1 << bit != 0 { 0 } else { EINVAL }, "{command} bit {bit}");
        }
    }
    assert_in_step(&mut client, &device).await;
    server.stop().await;
}

#[tokio::test]
async fn what_was_not_advertised_is_invalid() {
    let mut device = MemDevice::patterned(SIZE);
    (device.info.durable_flush, device.info.fast_zero) = (false, false);
    let device = shared(device);
    let server = TestServer::of(&device).await;
    let mut client = server.simple().await;
    assert_eq!(client.simple_error(request(cmd::FLUSH, 0, 0), &[]).await, EINVAL);
    assert_eq!(client.simple_error(with_flags(write(0, 1), cmd_flag::FUA), b"x").await, EINVAL);
    let fast = with_flags(request(cmd::WRITE_ZEROES, 0, 4096), cmd_flag::FAST_ZERO);
    assert_eq!(client.simple_error(fast, &[]).await, EINVAL);
    assert_in_step(&mut client, &device).await;
    server.stop().await;
}

#[tokio::test]
async fn with_structured_replies_a_read_never_gets_a_simple_one() {
    let device = shared(MemDevice::patterned(SIZE));
    let server = TestServer::of(&device).await;
    let mut client = server.structured().await;
    assert_eq!(client.structured_error(read(END, 1), &[]).await, EINVAL);
    assert_eq!(client.structured_error(read(0, MAX_PAYLOAD + 1), &[]).await, EINVAL);
    assert_eq!(client.structured_error(with_flags(read(0, 1), cmd_flag::REQ_ONE), &[]).await, EINVAL);
    client.request(read(0, 0), &[]).await;
    let nothing = client.chunk().await;
    assert_eq!((nothing.header.kind, nothing.done(), nothing.payload.len()), (chunk::NONE, true, 0));
    server.stop().await;
}

#[tokio::test]
async fn a_failed_read_sends_no_content() {
    for device in [MemDevice::patterned(SIZE), MemDevice::patterned(SIZE).waiting()] {
        let device = shared(device.failing(ErrorKind::Corrupt, "chunk 3f2a is damaged"));
        let server = TestServer::of(&device).await;
        let (mut simple, mut structured) = (server.simple().await, server.structured().await);
        assert_eq!(simple.simple_error(read(0, 4096), &[]).await, EIO);
        structured.request(read(0, 4096), &[]).await;
        let chunk = structured.chunk().await;
        assert_eq!((chunk.error(), &chunk.payload[6..]), (EIO, &b"chunk 3f2a is damaged"[..]));
        // The session goes on.
        *device.fail.lock() = None;
        assert_in_step(&mut simple, &device).await;
        server.stop().await;
    }
}

#[tokio::test]
async fn errors_of_the_device_keep_their_kind() {
    let device = shared(MemDevice::patterned(SIZE));
    let server = TestServer::of(&device).await;
    let mut client = server.simple().await;
    let fast = with_flags(request(cmd::WRITE_ZEROES, 0, 4096), cmd_flag::FAST_ZERO);
    for (kind, asked, expected) in [
        (ErrorKind::NoSpace, write(0, 4096), ENOSPC),
        (ErrorKind::ReadOnly, write(0, 4096), EPERM),
        (ErrorKind::Poisoned, request(cmd::FLUSH, 0, 0), EIO),
        (ErrorKind::Unsupported, fast, ENOTSUP),
        (ErrorKind::Unsupported, request(cmd::WRITE_ZEROES, 0, 4096), EINVAL),
        (ErrorKind::NotFound, request(cmd::CACHE, 0, 4096), EIO),
    ] {
        *device.fail.lock() = Some(gabion_store_core::Error::new(kind, "told to"));
        let payload = vec![0; if asked.command == cmd::WRITE { 4096 } else { 0 }];
        assert_eq!(client.simple_error(asked, &payload).await, expected, "{kind:?}");
    }
    *device.fail.lock() = None;
    server.stop().await;
}

#[tokio::test]
async fn fua_is_the_request_and_then_a_flush() {
    for device in [MemDevice::new(SIZE), MemDevice::new(SIZE).waiting()] {
        let device = shared(device);
        let server = TestServer::of(&device).await;
        let mut client = server.simple().await;
        let mode = ZeroMode { no_hole: true, fast: true };
        let zero_flags = cmd_flag::FUA | cmd_flag::NO_HOLE | cmd_flag::FAST_ZERO;
        for (asked, flags, call) in [
            (write(0, 4096), cmd_flag::FUA, Call::Write(0, 4096)),
            (write(0, 300_000), cmd_flag::FUA, Call::Write(0, 300_000)),
            (request(cmd::TRIM, 0, 8192), cmd_flag::FUA, Call::Trim(0, 8192)),
            (request(cmd::WRITE_ZEROES, 1, 5), zero_flags, Call::Zero(1, 5, mode)),
        ] {
            let payload = vec![1; if asked.command == cmd::WRITE { asked.length as usize } else { 0 }];
            assert_eq!(client.simple_error(with_flags(asked, flags), &payload).await, 0);
            assert_eq!(*device.calls.lock(), [call, Call::Flush]);
            device.calls.lock().clear();
        }
        server.stop().await;
    }
}

#[tokio::test]
async fn trims_and_zeroes_may_be_larger_than_a_payload() {
    let device = shared(MemDevice::patterned(80 << 20));
    let server = TestServer::of(&device).await;
    let mut client = server.simple().await;
    let length = 70 << 20;
    for command in [cmd::TRIM, cmd::WRITE_ZEROES, cmd::CACHE] {
        assert_eq!(client.simple_error(request(command, 4096, length), &[]).await, 0);
    }
    let mode = ZeroMode::default();
    let length = u64::from(length);
    let expected = [Call::Trim(4096, length), Call::Zero(4096, length, mode), Call::Prefetch(4096, length)];
    assert_eq!(*device.calls.lock(), expected);
    server.stop().await;
}

#[tokio::test]
async fn requests_of_no_bytes_do_nothing() {
    let device = shared(MemDevice::patterned(SIZE).waiting());
    let server = TestServer::of(&device).await;
    let mut client = server.simple().await;
    for command in [cmd::READ, cmd::WRITE, cmd::TRIM, cmd::WRITE_ZEROES, cmd::CACHE] {
        for offset in [0, END] {
            assert_eq!(client.simple_error(request(command, offset, 0), &[]).await, 0, "{command}");
        }
    }
    assert!(device.calls.lock().is_empty());
    let mut client = server.structured().await;
    assert_eq!(client.structured_error(request(cmd::BLOCK_STATUS, 0, 0), &[]).await, EINVAL);
    server.stop().await;
}

#[tokio::test]
async fn block_status_tells_data_zeros_and_holes() {
    let device = shared(MemDevice::new(SIZE));
    let server = TestServer::of(&device).await;
    let mut client = server.structured().await;
    for (asked, payload) in [
        (write(4096, 8192), vec![1; 8192]),
        (with_flags(request(cmd::WRITE_ZEROES, 12288, 4096), cmd_flag::NO_HOLE), vec![]),
    ] {
        assert_eq!(client.simple_error(asked, &payload).await, 0);
    }
    let hole = STATE_HOLE | STATE_ZERO;
    for (flags, offset, length, expected) in [
        (0, 0, SIZE as u32, vec![(4096, hole), (8192, 0), (4096, STATE_ZERO), (SIZE as u32 - 16384, hole)]),
        (0, 5000, 100, vec![(100, 0)]),
        (cmd_flag::REQ_ONE, 0, SIZE as u32, vec![(4096, hole)]),
        (cmd_flag::REQ_ONE, 4096, 100, vec![(100, 0)]),
        (cmd_flag::REQ_ONE | cmd_flag::FUA, 12288, 8192, vec![(4096, STATE_ZERO)]),
    ] {
        client.request(with_flags(request(cmd::BLOCK_STATUS, offset, length), flags), &[]).await;
        let chunk = client.chunk().await;
        assert_eq!((chunk.header.kind, chunk.done()), (chunk::BLOCK_STATUS, true));
        let (context, extents) = chunk.payload.split_first_chunk::<4>().unwrap();
        assert_eq!(u32::from_be_bytes(*context), 1);
        let word = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        let extents: Vec<_> = extents.chunks(8).map(|e| (word(&e[..4]), word(&e[4..]))).collect();
        assert_eq!(extents, expected, "{offset}+{length}");
    }
    assert_eq!(client.structured_error(request(cmd::BLOCK_STATUS, END, 1), &[]).await, EINVAL);
    server.stop().await;
}

#[tokio::test]
async fn requests_that_arrive_together_in_odd_pieces_are_all_answered() {
    let device = shared(MemDevice::patterned(SIZE));
    let server = TestServer::of(&device).await;
    let mut client = server.simple().await;
    let mut bytes = Vec::new();
    for number in 0..2000_u64 {
        let cookie = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let at = number * 4096 % END;
        if number % 3 == 0 {
            bytes.extend_from_slice(&Request { cookie, ..write(at, 1000) }.encode());
            bytes.extend_from_slice(&[number as u8; 1000]);
        } else {
            bytes.extend_from_slice(&Request { cookie, ..read(at, 1000) }.encode());
        }
    }
    let (mut receive, mut send) = client.0.into_split();
    let sender = tokio::spawn(async move {
        for piece in bytes.chunks(1777) {
            send.write_all(piece).await.unwrap();
        }
        send
    });
    client.0 = {
        use tokio::io::AsyncReadExt as _;
        for number in 0..2000_u64 {
            let mut header = [0; 16];
            receive.read_exact(&mut header).await.unwrap();
            let reply = gabion_nbd::proto::reply::SimpleReply::parse(&header).unwrap();
            assert_eq!((reply.error, reply.cookie), (0, number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            if number % 3 != 0 {
                receive.read_exact(&mut [0; 1000]).await.unwrap();
            }
        }
        receive.reunite(sender.await.unwrap()).unwrap()
    };
    assert_in_step(&mut client, &device).await;
    server.stop().await;
}

#[derive(Clone, Debug)]
enum Step {
    Read(u64, u32),
    Write(u64, u32, u8, bool),
    Trim(u64, u32),
    Zero(u64, u32),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![0..5000_u32, Just(4096), Just(262_144), Just(262_145), 0..500_000_u32];
    let range = (0..END, length).prop_map(|(offset, length)| {
        (offset, u32::try_from(END - offset).map_or(length, |left| length.min(left)))
    });
    prop_oneof![
        range.clone().prop_map(|(offset, length)| Step::Read(offset, length)),
        (range.clone(), any::<u8>(), any::<bool>())
            .prop_map(|((offset, length), byte, fua)| Step::Write(offset, length, byte, fua)),
        range.clone().prop_map(|(offset, length)| Step::Trim(offset, length)),
        range.prop_map(|(offset, length)| Step::Zero(offset, length)),
        Just(Step::Flush),
    ]
}

/// Any sequence of requests over several connections leaves what a model says, at once or by tasks.
#[test]
fn a_model_agrees() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let steps = prop::collection::vec((step(), 0..3_usize), 1..30);
    TestRunner::new(ProptestConfig::with_cases(40))
        .run(&(steps, any::<bool>()), |(steps, fast)| {
            runtime.block_on(async {
                let mut device = MemDevice::patterned(SIZE);
                device.fast = fast;
                let mut model = device.contents();
                let device = Arc::new(device);
                let server = TestServer::of(&device).await;
                let mut clients = [server.simple().await, server.simple().await, server.simple().await];
                for (step, client) in steps {
                    let client = &mut clients[client];
                    match step {
                        Step::Read(offset, length) => {
                            let expected = &model[offset as usize..][..length as usize];
                            assert_eq!(client.read(offset, length).await, expected);
                        }
                        Step::Write(offset, length, byte, fua) => {
                            let payload = vec![byte; length as usize];
                            model[offset as usize..][..length as usize].copy_from_slice(&payload);
                            let flags = if fua { cmd_flag::FUA } else { 0 };
                            let asked = with_flags(write(offset, length), flags);
                            assert_eq!(client.simple_error(asked, &payload).await, 0);
                        }
                        Step::Trim(offset, length) => {
                            assert_eq!(client.simple_error(request(cmd::TRIM, offset, length), &[]).await, 0);
                            let end = offset + u64::from(length);
                            let (first, last) = (offset.div_ceil(4096), end / 4096);
                            if first < last {
                                model[first as usize * 4096..last as usize * 4096].fill(0);
                            }
                        }
                        Step::Zero(offset, length) => {
                            let asked = request(cmd::WRITE_ZEROES, offset, length);
                            assert_eq!(client.simple_error(asked, &[]).await, 0);
                            model[offset as usize..][..length as usize].fill(0);
                        }
                        Step::Flush => {
                            assert_eq!(client.simple_error(request(cmd::FLUSH, 0, 0), &[]).await, 0);
                        }
                    }
                }
                assert_eq!(device.contents(), model);
                server.stop().await;
            });
            Ok(())
        })
        .unwrap();
}

/// Any bytes behind a handshake: nobody but their sender is harmed.
#[test]
fn hostile_requests_harm_nobody() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let device = shared(MemDevice::patterned(SIZE));
    let server = runtime.block_on(TestServer::of(&device));
    let wild =
        (any::<u16>(), 0..10_u16, any::<u64>(), prop_oneof![0..SIZE as u64, any::<u64>()], any::<u32>())
            .prop_map(|(flags, command, cookie, offset, length)| {
                let flags = if flags % 2 == 0 { 0 } else { flags };
                let length = if cookie % 2 == 0 { length % 10_000 } else { length };
                Request { flags, command, cookie, offset, length }.encode().to_vec()
            });
    let bytes = prop::collection::vec(prop_oneof![8 => wild, 1 => any::<Vec<u8>>()], 0..20);
    TestRunner::new(ProptestConfig::with_cases(200))
        .run(&(bytes, any::<bool>()), |(bytes, structured)| {
            runtime.block_on(async {
                let mut client = if structured { server.structured().await } else { server.simple().await };
                let _ = client.0.write_all(&bytes.concat()).await;
                let _ = client.0.shutdown().await;
                client.rest().await;
            });
            Ok(())
        })
        .unwrap();
    runtime.block_on(async {
        assert_in_step(&mut server.simple().await, &device).await;
        server.stop().await;
    });
}

#[tokio::test]
async fn requests_in_flight_are_capped_and_the_rest_waits_in_the_socket() {
    let device = shared(MemDevice::patterned(SIZE).gated());
    let limits = Limits { in_flight: 4, ..Limits::default() };
    let server = TestServer::with(&[("vm1", &device)], limits).await;
    let mut client = server.simple().await;
    for number in 0..20 {
        client.request(Request { cookie: number, ..read(number * 4096, 4096) }, &[]).await;
    }
    until(|| device.begun.load(Ordering::SeqCst) == 4).await;
    // A round trip elsewhere shows that the server had its chance to begin more.
    assert_eq!(server.simple().await.simple_error(read(0, 0), &[]).await, 0);
    assert_eq!(device.begun.load(Ordering::SeqCst), 4);
    device.gate.add_permits(100);
    let mut seen = [false; 20];
    for _ in 0..20 {
        let reply = client.simple_reply().await;
        assert_eq!(reply.error, 0);
        let at = reply.cookie as usize * 4096;
        assert_eq!(client.receive_vec(4096).await, device.contents()[at..at + 4096]);
        assert!(!std::mem::replace(&mut seen[reply.cookie as usize], true));
    }
    server.stop().await;
}

#[tokio::test]
async fn payloads_in_flight_are_bounded_in_bytes() {
    let device = shared(MemDevice::patterned(SIZE).gated());
    let limits = Limits { connection_bytes: 1 << 20, ..Limits::default() };
    let server = TestServer::with(&[("vm1", &device)], limits).await;
    let client = server.simple().await;
    let (mut receive, mut send) = client.0.into_split();
    let sender = tokio::spawn(async move {
        for _ in 0..16 {
            let bytes = [&write(0, 400 << 10).encode()[..], &vec![5; 400 << 10]].concat();
            send.write_all(&bytes).await.unwrap();
        }
        send
    });
    until(|| device.begun.load(Ordering::SeqCst) == 2).await;
    assert_eq!(server.simple().await.simple_error(read(0, 0), &[]).await, 0);
    assert_eq!(device.begun.load(Ordering::SeqCst), 2);
    device.gate.add_permits(100);
    for _ in 0..16 {
        use tokio::io::AsyncReadExt as _;
        receive.read_exact(&mut [0; 16]).await.unwrap();
    }
    sender.await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_slow_request_does_not_hold_back_the_ones_behind_it() {
    let device = shared(MemDevice::patterned(SIZE).gated());
    let server = TestServer::of(&device).await;
    let mut client = server.simple().await;
    client.request(Request { cookie: 1, ..request(cmd::FLUSH, 0, 0) }, &[]).await;
    client.request(Request { cookie: 2, ..read(END, 1) }, &[]).await;
    assert_eq!(client.simple_reply().await.cookie, 2);
    device.gate.add_permits(100);
    assert_eq!(client.simple_reply().await.cookie, 1);
    server.stop().await;
}

#[tokio::test]
async fn disconnect_finishes_what_is_in_flight() {
    let device = shared(MemDevice::patterned(SIZE).gated());
    let server = TestServer::of(&device).await;
    let mut client = server.simple().await;
    client.request(write(0, 4096), &[9; 4096]).await;
    client.request(request(cmd::DISC, 0, 0), &[]).await;
    // Behind a disconnect nothing counts.
    client.request(write(8192, 4096), &[9; 4096]).await;
    until(|| device.begun.load(Ordering::SeqCst) == 1).await;
    device.gate.add_permits(10);
    assert_eq!(client.simple_reply().await.error, 0);
    client.assert_closed().await;
    assert_eq!(*device.calls.lock(), [Call::Write(0, 4096)]);
    server.stop().await;
}
