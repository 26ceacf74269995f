//! The `gabion` command: parses, calls the library, prints.

mod arenas;
mod args;
mod commands;
mod exit;
mod output;

use std::process::ExitCode;

use clap::{Parser, error::ErrorKind as ErrorKindOfUsage};
use gabion::core::{Error, ErrorKind};

use crate::{args::Args, output::Output};

/// Answers a command line that asks for help or is not understood: the latter on one line, like every error.
fn answer(usage: &clap::Error) -> ExitCode {
    let asked = matches!(usage.kind(), ErrorKindOfUsage::DisplayHelp | ErrorKindOfUsage::DisplayVersion);
    // `gabion` alone shows the help, too.
    if asked || usage.kind() == ErrorKindOfUsage::DisplayHelpOnMissingArgumentOrSubcommand {
        // Whoever has stopped reading has read what was wanted.
        let _shown = usage.print();
        return if asked { ExitCode::SUCCESS } else { exit::code(ErrorKind::Invalid) };
    }
    let text = usage.render().to_string();
    let what: Vec<&str> = text
        .split("\n\n")
        .filter(|part| !part.starts_with("Usage:") && !part.starts_with("For more"))
        .collect();
    let what = what.join(";").trim_start_matches("error: ").to_owned();
    // Where it stands may be what was not reached.
    let json = std::env::args_os().any(|argument| argument == "--json");
    Output::new(json).error(&Error::invalid(format!("{} (see --help)", what.trim())));
    exit::code(ErrorKind::Invalid)
}

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(usage) => return answer(&usage),
    };
    if args.verb.transfers() {
        arenas::few();
    }
    let output = Output::new(args.json);
    let asked = std::env::var("GABION_LOG").ok().filter(|text| !text.is_empty());
    let filter =
        asked.as_deref().map(tracing_subscriber::EnvFilter::try_new).transpose().unwrap_or_else(|e| {
            output.warn(&format!("GABION_LOG is not understood and not used: {e}"));
            None
        });
    let filter = filter.unwrap_or_else(|| tracing_subscriber::EnvFilter::new("warn"));
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
