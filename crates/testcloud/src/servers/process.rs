//! A server's process, from its first word to its end.

use std::{
    ffi::OsStr,
    fmt,
    io::{BufRead as _, BufReader, Read},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Runs a server until it ends, or until standard input ends: that is when whoever holds its other end is gone, in
/// whatever way.
const WATCH: &str = r#"
exec 3<&0
"$@" </dev/null 3<&- & server=$!
{ cat <&3; kill -KILL $server; } >/dev/null 2>&1 & watch=$!
wait $server
kill $watch
"#;

/// A limit against hanging, far above what any server needs to start.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process that is ended when this is dropped, or when this process ends.
pub(super) struct Process {
    watch: Child,
    address: String,
}

impl Process {
    /// Starts a server, and waits until it says where it listens: the words behind `marker` on a line of
    /// its output.
    ///
    /// # Panics
    ///
    /// If it can't be started, or ends before it listens.
    #[expect(clippy::expect_used, reason = "a test that has no server can only fail")]
    pub(super) fn start<A: AsRef<OsStr>>(
        program: impl AsRef<OsStr>,
        arguments: impl IntoIterator<Item = A>,
        variables: &[(&str, &str)],
        marker: &'static str,
    ) -> Self {
        let program = program.as_ref();
        let mut watch = Command::new("sh")
            .args(["-c", WATCH, "watch"])
            .arg(program)
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("sh can be started");
        let (said, lines) = mpsc::channel();
        let output = watch.stdout.take().expect("it is piped");
        let errors = watch.stderr.take().expect("it is piped");
        read(output, said.clone());
        read(errors, said);

        let mut heard = String::new();
        let mut process = Self { watch, address: String::new() };
        loop {
            let Ok(line) = lines.recv_timeout(PATIENCE) else {
                panic!("{} does not say where it listens, but:\n{heard}", program.display());
            };
            if let Some((_, address)) = line.split_once(marker) {
                // What is coloured ends in an escape.
                let end =
                    address.find(|c: char| c.is_whitespace() || c.is_control()).unwrap_or(address.len());
                address[..end].clone_into(&mut process.address);
                return process;
            }
            heard += &line;
            heard.push('\n');
        }
    }

    /// What it said behind the marker.
    pub(super) fn address(&self) -> &str {
        &self.address
    }
}

/// Reads to the end, so that the server never waits for a reader, and passes on lines as long as they are wanted.
fn read(stream: impl Read + Send + 'static, said: mpsc::Sender<String>) {
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let _ = said.send(String::from_utf8_lossy(&line).into_owned());
        }
    });
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.watch.stdin.take());
        // It ends as soon as it hears that.
        let _ = self.watch.wait();
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("address", &self.address).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_where_and_ends_when_dropped() {
        let script = "echo starting; echo listens on $$ >&2; exec sleep 1000";
        let process = Process::start("sh", ["-c", script], &[], "listens on ");
        let pid: u32 = process.address().parse().unwrap();
        let alive = || std::path::Path::new(&format!("/proc/{pid}/cmdline")).exists();
        assert!(alive());
        drop(process);
        assert!(!alive());
    }

    #[test]
    #[should_panic(expected = "does not say where it listens, but:\nno port")]
    fn says_what_a_server_said_that_does_not_start() {
        Process::start("sh", ["-c", "echo no port"], &[], "listens on ");
    }
}
