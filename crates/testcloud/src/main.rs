//! `testcloud`: a cloud on loopback until it is killed. One line on standard output says where.

use std::{io::Write as _, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, ValueEnum};
use gabion_testcloud::{Cloud, Conditions, Settings};

/// An object store in memory that speaks S3 (below /s3), Google Cloud Storage (/gcs) and plain HTTP (/http), counts
/// what is asked, and is slow or faulty on demand. Steered by flags, and while it runs through /_cloud.
#[derive(Debug, Parser)]
struct Args {
    /// Where to listen; port 0 is a free one
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// A bucket to make; may be given more than once
    #[arg(long = "bucket", value_name = "NAME", default_value = "bucket")]
    buckets: Vec<String>,
    /// Put a file, or the files of a folder, into a bucket under that key
    #[arg(long = "load", value_name = "BUCKET[/KEY]=PATH", value_parser = load)]
    loads: Vec<Load>,
    /// Time before each request has its effect, in milliseconds
    #[arg(long, default_value_t = 0)]
    latency_ms: u64,
    /// Bandwidth of the link in each direction, in MB/s; 0 is without a limit
    #[arg(long, default_value_t = 0)]
    mb_per_s: u64,
    /// What becomes of conditional writes
    #[arg(long, value_enum, default_value_t = Conditional::Kept)]
    conditions: Conditional,
    /// Access key (S3) or bearer token (GCS) that requests must carry; signatures are not verified
    #[arg(long, value_name = "ID")]
    access_key: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Conditional {
    Kept,
    Ignored,
    Racy,
}

#[derive(Clone, Debug)]
struct Load {
    bucket: String,
    key: String,
    path: PathBuf,
}

fn load(text: &str) -> Result<Load, String> {
    let (place, path) = text.split_once('=').ok_or("it has no =")?;
    let (bucket, key) = place.split_once('/').unwrap_or((place, ""));
    let path = PathBuf::from(path);
    if key.is_empty() && !path.is_dir() {
        return Err(format!("{} is no folder, so it needs a key", path.display()));
    }
    Ok(Load { bucket: bucket.to_owned(), key: key.to_owned(), path })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let cloud = Cloud::start(&Settings {
        address: args.listen,
        buckets: args.buckets,
        latency: Duration::from_millis(args.latency_ms),
        bandwidth: args.mb_per_s.saturating_mul(1_000_000),
        conditions: match args.conditions {
            Conditional::Kept => Conditions::Kept,
            Conditional::Ignored => Conditions::Ignored,
            Conditional::Racy => Conditions::Racy,
        },
        access_key: args.access_key,
    });
    for load in args.loads {
        cloud
            .load(&load.bucket, &load.key, &load.path)
            .map_err(|error| format!("{}: {error}", load.path.display()))?;
    }
    let mut out = std::io::stdout();
    writeln!(out, "http://{}", cloud.address())?;
    out.flush()?;
    loop {
        std::thread::park();
    }
}
