//! The handshake, point by point, and against clients that mean no good.

use std::sync::Arc;

use gabion_nbd::{
    Limits, MAX_PAYLOAD,
    proto::{
        FLAG_FIXED_NEWSTYLE, cmd, info, opt,
        option::{InfoRequest, MetaQuery, OptionHeader, info_block_size},
        rep, transmission,
    },
};
use proptest::{prelude::*, test_runner::TestRunner};
use tokio::io::AsyncWriteExt as _;

use crate::{
    client::{Client, TestServer, read, request, size_and_flags},
    device::{MemDevice, shared},
};

const SIZE: usize = 64 << 10;

fn info_request(export: &str, infos: &[u16]) -> Vec<u8> {
    InfoRequest { export, infos: infos.to_vec() }.encode()
}

fn meta(export: &str, queries: &[&str]) -> Vec<u8> {
    MetaQuery { export, queries: queries.to_vec() }.encode()
}

/// The session is in step and alive.
async fn assert_in_step(client: &mut Client) {
    let (infos, last) = client.option(opt::INFO, &info_request("", &[])).await;
    assert_eq!((infos.len(), last), (1, rep::ACK));
}

#[tokio::test]
async fn unknown_client_flags_close() {
    let server = TestServer::of(&shared(MemDevice::new(SIZE))).await;
    let mut client = server.connect().await;
    client.greet(u32::from(FLAG_FIXED_NEWSTYLE) | 1 << 7).await;
    client.assert_closed().await;
    server.stop().await;
}

#[tokio::test]
async fn export_name_is_padded_unless_agreed_otherwise() {
    let server = TestServer::of(&shared(MemDevice::patterned(SIZE))).await;
    for (flags, padding) in [(1, 124), (3, 0)] {
        let mut client = server.connect().await;
        client.greet(flags).await;
        client.send_option(opt::EXPORT_NAME, b"vm1").await;
        let answer = client.receive::<10>().await;
        assert_eq!(answer[..8], (SIZE as u64).to_be_bytes());
        assert_eq!(client.receive_vec(padding).await, vec![0; padding]);
        assert_eq!(client.read(0, 16).await.len(), 16);
    }
    server.stop().await;
}

#[tokio::test]
async fn export_name_that_can_not_be_had_closes() {
    let server = TestServer::of(&shared(MemDevice::new(SIZE))).await;
    for name in [&b"nope"[..], b"\xff", b"vm1\0", &[b'x'; 5000], &[b'x'; 70_000]] {
        let mut client = server.greeted().await;
        client.send_option(opt::EXPORT_NAME, name).await;
        client.assert_closed().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn options_not_known_are_drained_and_refused() {
    let server = TestServer::of(&shared(MemDevice::new(SIZE))).await;
    let mut client = server.greeted().await;
    for code in [0, 4, opt::EXTENDED_HEADERS, 99, u32::MAX] {
        for length in [0, 1, 1000, 64 << 10, (64 << 10) + 1, 5 << 20] {
            assert_eq!(client.option(code, &vec![0xaa; length]).await.1, rep::ERR_UNSUP, "{code} {length}");
        }
    }
    assert_eq!(client.option(opt::STARTTLS, &[]).await.1, rep::ERR_UNSUP);
    assert_in_step(&mut client).await;
    server.stop().await;
}

#[tokio::test]
async fn options_without_payload_refuse_one() {
    let server = TestServer::of(&shared(MemDevice::new(SIZE))).await;
    let mut client = server.greeted().await;
    for code in [opt::LIST, opt::STRUCTURED_REPLY, opt::STARTTLS] {
        for length in [1, 100_000] {
            assert_eq!(client.option(code, &vec![1; length]).await.1, rep::ERR_INVALID, "{code}");
        }
    }
    // The refused STRUCTURED_REPLY had no effect.
    let (_, flags) = client.go("").await;
    assert_eq!(flags & transmission::SEND_DF, 0);
    server.stop().await;
}

#[tokio::test]
async fn abort_is_acknowledged_whatever_it_carries() {
    let server = TestServer::of(&shared(MemDevice::new(SIZE))).await;
    for length in [0, 10, 100_000] {
        let mut client = server.greeted().await;
        assert_eq!(client.option(opt::ABORT, &vec![0; length]).await.1, rep::ACK);
        client.assert_closed().await;
    }
    // Closing without waiting for the answer harms nobody.
    let mut client = server.greeted().await;
    client.send_option(opt::ABORT, &[]).await;
    drop(client);
    assert_in_step(&mut server.greeted().await).await;
    server.stop().await;
}

#[tokio::test]
async fn list_names_and_describes_every_export() {
    let device = shared(MemDevice::new(SIZE));
    let server = TestServer::with(&[("vm1", &device), ("team/ü", &device)], Limits::default()).await;
    let (listed, last) = server.greeted().await.option(opt::LIST, &[]).await;
    assert_eq!(last, rep::ACK);
    let expected = ["vm1", "team/ü"].map(|name| {
        let length = (name.len() as u32).to_be_bytes();
        (rep::SERVER, [&length[..], name.as_bytes(), b"disk ", name.as_bytes()].concat())
    });
    assert_eq!(listed, expected);
    server.stop().await;
}

#[tokio::test]
async fn info_and_go_answer_alike() {
    let (first, second) = (shared(MemDevice::new(SIZE)), shared(MemDevice::new(4096).read_only()));
    let server = TestServer::with(&[("vm1", &first), ("ro", &second)], Limits::default()).await;
    let all = [info::NAME, 77, info::BLOCK_SIZE, info::DESCRIPTION, info::EXPORT];
    for (name, canonical, size) in [("", "vm1", SIZE), ("vm1", "vm1", SIZE), ("ro", "ro", 4096)] {
        let mut client = server.greeted().await;
        let (infos, last) = client.option(opt::INFO, &info_request(name, &all)).await;
        assert_eq!(last, rep::ACK);
        assert_eq!(size_and_flags(&infos[0].1).0, size as u64);
        let rest: Vec<_> = infos[1..].iter().map(|(reply, payload)| (*reply, &payload[..])).collect();
        let named = [&info::NAME.to_be_bytes(), canonical.as_bytes()].concat();
        let described = [&info::DESCRIPTION.to_be_bytes(), &b"disk "[..], canonical.as_bytes()].concat();
        let sizes = info_block_size(1, 4096, MAX_PAYLOAD);
        assert_eq!(rest, [(rep::INFO, &named[..]), (rep::INFO, &described), (rep::INFO, &sizes)]);
        assert_eq!(client.option(opt::GO, &info_request(name, &all)).await, (infos, rep::ACK));
    }
    server.stop().await;
}

#[tokio::test]
async fn flags_promise_what_the_device_can_do() {
    use transmission::{
        CAN_MULTI_CONN, HAS_FLAGS, READ_ONLY, SEND_CACHE, SEND_DF, SEND_FAST_ZERO, SEND_FLUSH, SEND_FUA,
        SEND_TRIM, SEND_WRITE_ZEROES,
    };
    let writable = MemDevice::new(SIZE);
    let mut volatile = MemDevice::new(SIZE);
    (volatile.info.durable_flush, volatile.info.fast_zero) = (false, false);
    let base = HAS_FLAGS | SEND_CACHE;
    let writes = base | SEND_TRIM | SEND_WRITE_ZEROES;
    for (device, expected) in [
        (MemDevice::new(SIZE).read_only(), base | READ_ONLY | CAN_MULTI_CONN),
        (writable, writes | SEND_FLUSH | SEND_FUA | CAN_MULTI_CONN | SEND_FAST_ZERO),
        (volatile, writes),
    ] {
        let server = TestServer::of(&shared(device)).await;
        assert_eq!(server.greeted().await.go("").await.1, expected);
        let mut client = server.structured().await;
        assert_eq!(client.structured_error(request(99, 0, 0), &[]).await, 22);
        let mut client = server.greeted().await;
        client.option(opt::STRUCTURED_REPLY, &[]).await;
        assert_eq!(client.go("").await.1, expected | SEND_DF);
        server.stop().await;
    }
}

#[tokio::test]
async fn malformed_info_is_refused_and_the_session_goes_on() {
    let server = TestServer::of(&shared(MemDevice::new(SIZE))).await;
    let mut client = server.greeted().await;
    let wraps = [&[0xff; 4][..], b"vm1\0\0"].concat();
    let long_name = info_request(&"x".repeat(4097), &[]);
    let nul = info_request("vm\0", &[]);
    let too_many = [info_request("vm1", &[]), vec![0; 2]].concat();
    for code in [opt::INFO, opt::GO] {
        for (payload, expected) in [
            (&b""[..], rep::ERR_INVALID),
            (b"\0\0\0", rep::ERR_INVALID),
            (b"\0\0\0\x04vm1\0\0", rep::ERR_INVALID),
            (b"\0\0\0\x03vm1\0\x01", rep::ERR_INVALID),
            (&wraps, rep::ERR_INVALID),
            (&nul, rep::ERR_INVALID),
            (&too_many, rep::ERR_INVALID),
            (b"\0\0\0\x01\xff\0\0", rep::ERR_INVALID),
            (&long_name, rep::ERR_TOO_BIG),
            (&vec![0; 100_000], rep::ERR_TOO_BIG),
            (&info_request("nope", &[]), rep::ERR_UNKNOWN),
        ] {
            assert_eq!(client.option(code, payload).await, (vec![], expected), "{code} {payload:?}");
        }
    }
    assert_in_step(&mut client).await;
    server.stop().await;
}

#[tokio::test]
async fn contexts_are_listed() {
    let server = TestServer::of(&shared(MemDevice::new(SIZE))).await;
    let mut client = server.greeted().await;
    let context = vec![(rep::META_CONTEXT, [&[0, 0, 0, 1], &b"base:allocation"[..]].concat())];
    for (queries, found) in [
        (&[][..], true),
        (&["base:"][..], true),
        (&["base:allocation", "base:allocation"], true),
        (&["x-other:", "base:other", "gabion:dirty"], false),
    ] {
        let (replies, last) = client.option(opt::LIST_META_CONTEXT, &meta("vm1", queries)).await;
        assert_eq!((replies, last), (if found { context.clone() } else { vec![] }, rep::ACK), "{queries:?}");
    }
    for (payload, expected) in [
        (&meta("nope", &[])[..], rep::ERR_UNKNOWN),
        (b"\0\0\0\0\0\0\0\x01", rep::ERR_INVALID),
        (&[0xff; 16], rep::ERR_INVALID),
        (&vec![0; 100_000], rep::ERR_TOO_BIG),
    ] {
        assert_eq!(client.option(opt::LIST_META_CONTEXT, payload).await, (vec![], expected));
    }
    assert_in_step(&mut client).await;
    server.stop().await;
}

/// Whether BLOCK_STATUS works after these `SET_META_CONTEXT`s and a GO to `export`.
async fn selected(server: &TestServer, sets: &[(Vec<u8>, u32)], export: &str) -> bool {
    let mut client = server.greeted().await;
    assert_eq!(client.option(opt::STRUCTURED_REPLY, &[]).await.1, rep::ACK);
    for (payload, expected) in sets {
        assert_eq!(client.option(opt::SET_META_CONTEXT, payload).await.1, *expected);
    }
    client.go(export).await;
    client.request(request(cmd::BLOCK_STATUS, 0, 4096), &[]).await;
    let chunk = client.chunk().await;
    chunk.header.kind == gabion_nbd::proto::chunk::BLOCK_STATUS
}

#[tokio::test]
async fn a_selected_context_belongs_to_its_export_and_its_last_set() {
    let (first, second) = (shared(MemDevice::new(SIZE)), shared(MemDevice::new(SIZE)));
    let server = TestServer::with(&[("vm1", &first), ("vm2", &second)], Limits::default()).await;
    let good = || (meta("vm1", &["base:allocation"]), rep::ACK);
    for (sets, export, expected) in [
        (vec![], "vm1", false),
        (vec![good()], "vm1", true),
        // The default export is vm1.
        (vec![good()], "", true),
        (vec![good()], "vm2", false),
        (vec![good(), (meta("vm1", &[]), rep::ACK)], "vm1", false),
        (vec![(meta("vm1", &["base:"]), rep::ACK)], "vm1", false),
        (vec![good(), (meta("vm1", &["x:y"]), rep::ACK)], "vm1", false),
        (vec![good(), (meta("nope", &["base:allocation"]), rep::ERR_UNKNOWN)], "vm1", false),
        (vec![good(), (vec![1, 2, 3], rep::ERR_INVALID)], "vm1", false),
        (vec![good(), (vec![0; 100_000], rep::ERR_TOO_BIG)], "vm1", false),
        (vec![(vec![1, 2, 3], rep::ERR_INVALID), good()], "vm1", true),
    ] {
        assert_eq!(selected(&server, &sets, export).await, expected, "{sets:?} {export}");
    }
    server.stop().await;
}

#[tokio::test]
async fn contexts_need_structured_replies() {
    let server = TestServer::of(&shared(MemDevice::new(SIZE))).await;
    let mut client = server.greeted().await;
    let payload = meta("vm1", &["base:allocation"]);
    assert_eq!(client.option(opt::SET_META_CONTEXT, &payload).await, (vec![], rep::ERR_INVALID));
    client.go("").await;
    assert_eq!(client.simple_error(request(cmd::BLOCK_STATUS, 0, 4096), &[]).await, 22);
    server.stop().await;
}

#[tokio::test]
async fn a_silent_client_is_closed_at_the_deadline() {
    let device = shared(MemDevice::new(SIZE));
    let limits = Limits { handshake: std::time::Duration::from_millis(50), ..Limits::default() };
    let server = TestServer::with(&[("vm1", &device)], limits).await;
    let mut client = server.connect().await;
    client.greet(3).await;
    client.assert_closed().await;
    server.stop().await;
}

#[tokio::test]
async fn a_wrong_magic_number_closes() {
    let server = TestServer::of(&shared(MemDevice::new(SIZE))).await;
    let mut client = server.greeted().await;
    client.send(&[0; OptionHeader::LEN]).await;
    client.assert_closed().await;
    let mut client = server.simple().await;
    client.send(&[0; 28]).await;
    client.assert_closed().await;
    server.stop().await;
}

/// Options with lengths that lie, codes that may exist, and plain noise.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..300);
    let option = (0..13_u32, prop_oneof![0..64_u32, Just(u32::MAX)], noise.clone())
        .prop_map(|(code, length, payload)| [&OptionHeader { code, length }.encode()[..], &payload].concat());
    let options = prop::collection::vec(option, 0..4).prop_map(|options| options.concat());
    (prop_oneof![Just([0, 0, 0, 3]), any::<[u8; 4]>()], prop_oneof![noise, options])
        .prop_map(|(flags, rest)| [&flags[..], &rest].concat())
}

/// Row 40.
#[test]
fn hostile_bytes_harm_nobody() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let device = Arc::new(MemDevice::new(SIZE));
    let server = runtime.block_on(TestServer::of(&device));
    TestRunner::new(ProptestConfig::with_cases(300))
        .run(&hostile(), |bytes| {
            runtime.block_on(async {
                let mut client = server.connect().await;
                // It may be closed on us while we send.
                let _ = client.0.write_all(&bytes).await;
                let _ = client.0.shutdown().await;
                client.rest().await;
            });
            Ok(())
        })
        .unwrap();
    runtime.block_on(async {
        assert_eq!(server.simple().await.simple_error(read(0, 0), &[]).await, 0);
        server.stop().await;
    });
}
