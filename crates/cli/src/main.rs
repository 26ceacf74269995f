//! The `gabion` command: parses, calls the library, prints.

mod args;
mod commands;
mod exit;
mod output;

use std::process::ExitCode;

use clap::Parser;
use gabion::core::Error;

use crate::{args::Args, output::Output};

fn main() -> ExitCode {
    let args = Args::parse();
    let output = Output::new(args.json);
    let filter = tracing_subscriber::EnvFilter::try_from_env("GABION_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::io("the runtime can't start", e))
        .and_then(|runtime| {
            let done = runtime.block_on(commands::run(args, &output));
            // A read that hangs in a dead disk must not keep the process: it can be asked for again.
            runtime.shutdown_timeout(std::time::Duration::from_millis(200));
            done
        });
    match done {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            exit::code(error.kind())
        }
    }
}
