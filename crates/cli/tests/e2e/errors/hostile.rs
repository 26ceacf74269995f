//! Bytes that no client sends: the server stays up, and its memory bounded.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::says;
use crate::support::nbd::Client;
use crate::support::{Home, Rng, Server, files};

/// Resident memory that a server may have whatever it is sent, in KiB.
const MEMORY: u64 = 200 << 10;

fn resident(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("the server lives");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux tells it");
    line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("a number")
}

fn connect(path: &Path) -> UnixStream {
    let socket = UnixStream::connect(path).expect("a connection");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    socket.set_write_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    socket
}

/// Sends bytes, however many are taken, and then nothing more; gives what comes until the server closes.
fn send(path: &Path, bytes: &[u8]) -> Vec<u8> {
    let mut socket = connect(path);
    // The server may close before it has read all.
    let _taken = socket.write_all(bytes).and_then(|()| socket.shutdown(Shutdown::Write));
    rest(socket)
}

/// A request that asks for the connection's end. The side of the requests stays open: closed early, it means that
/// the client has given up.
fn ask(path: &Path, head: &str, body: &[u8]) -> String {
    let mut socket = connect(path);
    let _taken = socket.write_all(&[head.as_bytes(), b"Connection: close\r\n\r\n", body].concat());
    String::from_utf8_lossy(&rest(socket)).into_owned()
}

fn rest(socket: UnixStream) -> Vec<u8> {
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _closed = socket.take(1 << 20).read_to_end(&mut answer);
    answer
}

/// A server that closes before it has read all may take its answer with it.
fn refuses(answer: &str, status: &str) {
    assert!(answer.is_empty() || answer.contains(status), "{status}, not {answer}");
}

fn served() -> (Home, Server, PathBuf) {
    let home = Home::new();
    let server = home.serve(["vm", "--size", "16M"]);
    let folder = server.socket();
    let controls = files(folder.parent().expect("a folder"));
    let control = controls.into_iter().find(|path| path.to_string_lossy().contains("control-"));
    (home, server, control.expect("a control socket"))
}

fn still_serves(server: &Server) {
    let mut client = Client::connect(server.uri()).expect("a connection");
    client.write(0, &[1; 4096]).expect("a write");
    let mut read = [0; 4096];
    client.read(0, &mut read).expect("a read");
    assert!(read == [1; 4096]);
    let resident = resident(server);
    assert!(resident < MEMORY, "the server grew to {resident} KiB");
}

/// Row 40.
#[test]
fn hostile_bytes_on_the_nbd_socket() {
    let (_home, server, _) = served();
    let path = server.socket();
    let mut rng = Rng::new(9);
    let mut noise = vec![0; 64 << 10];
    let option = |number: u32, length: u32| {
        let mut bytes = Vec::from(3_u32.to_be_bytes());
        bytes.extend(b"IHAVEOPT");
        bytes.extend(number.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes
    };
    for _ in 0..20 {
        rng.fill(&mut noise);
        send(&path, &noise);
        send(&path, &[&[0, 0, 0, 3][..], &noise].concat());
        for number in [1, 3, 6, 7, 8, 10, 99] {
            send(&path, &[&option(number, 64)[..], &noise[..64]].concat());
            send(&path, &option(number, u32::MAX));
        }
    }
    send(&path, b"GET / HTTP/1.1\r\n\r\n");
    // A client that is let in and then sends anything: a write of 4 GiB, unknown commands, no magic.
    let requests = [
        (0x2560_9513_u32, 1_u16, 0_u64, u32::MAX),
        (0x2560_9513, 0, 0, u32::MAX),
        (0x2560_9513, 0, u64::MAX - 5, 4096),
        (0x2560_9513, 99, 0, 4096),
        (0xdead_beef, 0, 0, 0),
    ];
    let (_, name) = server.uri().split_once("///").expect("a URI");
    let name = name.split('?').next().expect("a name");
    for (magic, command, offset, length) in requests {
        let mut bytes = option(7, name.len() as u32 + 6);
        bytes.extend((name.len() as u32).to_be_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(0_u16.to_be_bytes());
        bytes.extend(magic.to_be_bytes());
        bytes.extend(0_u16.to_be_bytes());
        bytes.extend(command.to_be_bytes());
        bytes.extend(7_u64.to_be_bytes());
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        bytes.extend(&noise);
        send(&path, &bytes);
    }
    still_serves(&server);
    server.terminate();
}

#[test]
fn hostile_bytes_on_the_control_socket() {
    let (home, server, control) = served();
    let mut noise = vec![0; 64 << 10];
    Rng::new(10).fill(&mut noise);
    send(&control, &noise);
    send(&control, &b"x".repeat(1 << 20));
    let post = |length: usize| {
        format!(
            "POST /v1/checkpoint HTTP/1.1\r\nHost: g\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
        )
    };
    let answer = |head: String, body: &[u8]| ask(&control, &head, body);
    refuses(&answer(post(10 << 20), &vec![b' '; 10 << 20]), "413");
    says(&answer(post(5), b"{\"vol"), &["400"]);
    says(&answer(post(40), br#"{"volume":"vm","image":null,"x":"yzabc"}"#), &["422"]);
    says(&answer(post(17), br#"{"volume":"nope"}"#), &["404", "nope"]);
    says(&answer(post(28), br#"{"volume":"vm","image":".."}"#), &["400", "bad name"]);
    says(&answer("GET /nothing HTTP/1.1\r\nHost: g\r\n".to_owned(), b""), &["404"]);
    refuses(&answer(format!("GET / HTTP/1.1\r\n{}", "a: b\r\n".repeat(10_000)), b""), "431");
    // Headers that never end hold up nobody, not even the end.
    let slow: Vec<UnixStream> = (0..50)
        .map(|_| {
            let mut socket = connect(&control);
            socket.write_all(b"POST /v1/checkpoint HTTP/1.1\r\nHost").expect("a write");
            socket
        })
        .collect();
    home.run(["checkpoint", "vm"]);
    still_serves(&server);
    server.terminate();
    drop(slow);
}
