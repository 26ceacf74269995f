//! What the command prints: text for people or one JSON object on standard output, progress and errors on
//! standard error.

#![expect(clippy::print_stderr, reason = "this is the one place that prints")]

use std::{io::Write, sync::Arc, time::Duration};

use gabion::core::{Error, Result, ops::Job};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// Prints JSON or text.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// A result: the object, or the text that says the same.
    pub(crate) fn result(&self, value: &Value, text: &str) -> Result<()> {
        let line = if self.json { value.to_string() } else { text.trim_end().to_owned() };
        let mut stdout = std::io::stdout().lock();
        match writeln!(stdout, "{line}").and_then(|()| stdout.flush()) {
            // A reader that has gone away (`| head`) has what it wanted.
            Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Error::io("it is done, but standard output can't be written", e))
            }
            _ => Ok(()),
        }
    }

    /// An error, on one line.
    pub(crate) fn error(&self, error: &Error) {
        let report = one_line(&error.report());
        if self.json {
            eprintln!("{}", json!({ "error": report, "kind": format!("{:?}", error.kind()) }));
        } else {
            eprintln!("gabion: {report}");
        }
    }

    /// Something people should know.
    pub(crate) fn warn(&self, text: &str) {
        eprintln!("gabion: warning: {text}");
    }

    /// A job that shows its progress on a terminal and is cancelled by Ctrl-C or SIGTERM.
    pub(crate) fn job(&self, verb: &'static str) -> (Job, ProgressBar) {
        let cancel = CancellationToken::new();
        let on_signal = cancel.clone();
        let stopped = crate::commands::stop_signal();
        tokio::spawn(async move {
            stopped.await;
            on_signal.cancel();
        });
        let target = if self.json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_message(verb);
        bar.enable_steady_tick(Duration::from_millis(200));
        let style = |template| {
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
        };
        let known =
            style("{msg} {bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta}");
        bar.set_style(style("{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}"));
        let shown = bar.clone();
        let progress = move |progress: gabion::core::ops::Progress| {
            if let Some(total) = progress.total
                && shown.length() != Some(total)
            {
                shown.set_length(total);
                shown.set_style(known.clone());
            }
            shown.set_position(progress.done);
        };
        (Job { progress: Some(Arc::new(progress)), cancel }, bar)
    }
}

/// Text on one line, without control characters: a name in a message may hold anything.
fn one_line(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
