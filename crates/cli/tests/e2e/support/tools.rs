//! Running clients: each with a time limit, and a failure that shows the command and all it said.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Longest run of one client, in seconds. A limit against hanging, far above what any needs.
const LIMIT: &str = "300";

/// A command that is killed after [`LIMIT`].
pub(crate) fn limited(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=5").arg(LIMIT).arg(program).stdin(Stdio::null());
    command
}

/// Runs a command to its end, whatever that is.
pub(crate) fn output(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    match output.status.code() {
        Some(124 | 137) => panic!("{}", describe(command, &output, "did not end in time")),
        // As `timeout` answers for a program that can't be found or run.
        Some(126 | 127) => {
            panic!("{}", describe(command, &output, "is missing: run scripts/install-test-tools"));
        }
        _ => output,
    }
}

/// Runs a command that must succeed; gives what it printed.
pub(crate) fn run(command: &mut Command) -> Vec<u8> {
    let output = output(command);
    assert!(output.status.success(), "{}", describe(command, &output, "failed"));
    output.stdout
}

/// Runs a command that must fail by itself; gives what it said on standard error.
pub(crate) fn fails(command: &mut Command) -> String {
    let output = output(command);
    assert!(!output.status.success(), "{}", describe(command, &output, "succeeded, but must not"));
    assert!(output.status.code().is_some(), "{}", describe(command, &output, "was killed"));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs `gabion`, which must refuse with `code`: nothing on standard output, one line on standard error, which is
/// given back. Log lines beside it are not counted.
pub(crate) fn refused(code: i32, command: &mut Command) -> String {
    let output = output(command);
    assert_eq!(output.status.code(), Some(code), "{}", describe(command, &output, "must be refused"));
    assert!(output.stdout.is_empty(), "{}", describe(command, &output, "printed a result"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = said.lines().filter(|line| !line.contains(" WARN ")).collect();
    assert!(
        matches!(lines.as_slice(), [line] if line.starts_with("gabion: ") || line.starts_with('{')),
        "{}",
        describe(command, &output, "must say why on one line")
    );
    lines[0].to_owned()
}

fn describe(command: &Command, output: &Output, what: &str) -> String {
    format!(
        "{command:?} {what} ({})\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs `program` with `arguments`, which must succeed; gives what it printed, as text.
pub(crate) fn tool<I: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = I>) -> String {
    String::from_utf8_lossy(&run(limited(program).args(arguments))).into_owned()
}

/// Runs a Python script over `uri`, with libnbd's `nbd` and `uri` at hand. Debian's `python3-libnbd` is for the
/// system's Python alone.
pub(crate) fn nbdsh(uri: &str, script: &str) -> String {
    let whole = format!("import nbd, errno, sys\nuri = sys.argv[1]\n{script}");
    tool("/usr/bin/python3", ["-c", &whole, uri])
}

/// Fails, telling where, if two files differ.
pub(crate) fn assert_same_files(left: &Path, right: &Path) {
    tool("cmp", [left, right]);
}
