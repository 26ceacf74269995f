//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Parser, Subcommand};
use gabion::{
    InStore,
    core::{ImageName, chunking::Chunking, format::codec::Compression, ops::ImageRef},
    parse_compression, parse_duration, parse_size,
};

use crate::exit;

/// Content-addressed storage for virtual disks, served over NBD
///
/// A store keeps images: names whose history is a list of checkpoints. A volume is a writable disk on this
/// host, started from a checkpoint. `serve` offers either to virtual machines.
#[derive(Debug, Parser)]
#[command(name = "gabion", version, after_help = exit::HELP)]
pub(crate) struct Args {
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Store to use: a folder, s3://BUCKET/PREFIX (gs://, az://, https://), or a name from the configuration
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) store: Option<String>,
    /// What to do
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

impl Verb {
    /// Whether it copies images between stores.
    pub(crate) const fn transfers(&self) -> bool {
        matches!(self, Self::Push { .. } | Self::Pull { .. } | Self::Copy { .. })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make an empty store
    Init {
        /// Where: a folder, s3://BUCKET/PREFIX, gs://…, az://…, or a name from the configuration
        url: String,
    },
    /// Import a disk as the newest checkpoint of an image
    Import {
        /// Raw or qcow2 file, block device, or - for a raw disk on standard input
        file: PathBuf,
        /// Image; the file's name without its ending if absent
        name: Option<InStore<ImageName>>,
        /// How to cut: content, or fixed:SIZE with SIZE from 4K to 128K
        #[arg(long)]
        chunker: Option<Chunking>,
        /// How to encode new chunks: none, or zstd:LEVEL
        #[arg(long, value_parser = parse_compression)]
        compression: Option<Compression>,
        /// Say something of the checkpoint (may be repeated)
        #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
        label: Vec<(String, String)>,
    },
    /// Make a volume
    Create {
        /// The volume
        volume: ImageName,
        /// Image to start from, as vm1, vm1~2 or vm1@3f2a
        #[arg(long, required_unless_present = "size")]
        from: Option<InStore<ImageRef>>,
        /// Size, as 20G; larger than the image grows the disk
        #[arg(long, value_parser = parse_size)]
        size: Option<u64>,
        /// Make it even if its image's store can't be written, so that nothing but the image's history and the
        /// grace of the store's garbage collection keeps what it stands on
        #[arg(long, requires = "from")]
        unpinned: bool,
    },
    /// Serve volumes, images or raw files over NBD, until SIGTERM or Ctrl-C
    Serve(Serve),
    /// Copy an image to the store in force (a bucket, say); only what it lacks travels
    Push {
        /// The image, as vm1 or vm1~2
        image: InStore<ImageRef>,
        /// Its name there, as vm1 or prod:vm1; the same if absent
        #[arg(value_name = "AS")]
        to: Option<InStore<ImageName>>,
        /// Store to push from; the host's local store if absent
        #[arg(long, value_name = "STORE")]
        from: Option<String>,
        #[command(flatten)]
        how: Transfer,
        /// Make the store that is pushed to, if there is none
        #[arg(long)]
        init: bool,
    },
    /// Copy an image from the store in force to this host; only what it lacks travels
    Pull {
        /// The image, as vm1, vm1~2 or prod:vm1
        image: InStore<ImageRef>,
        /// Its name here; the same if absent
        #[arg(value_name = "AS")]
        to: Option<InStore<ImageName>>,
        /// Store to pull to; the host's local store if absent
        #[arg(long = "to", value_name = "STORE")]
        into: Option<String>,
        #[command(flatten)]
        how: Transfer,
    },
    /// Copy an image from one store to another; only what it lacks travels
    Copy {
        /// The image, as prod:vm1, or with --from
        image: InStore<ImageRef>,
        /// Its name there, as backup:vm1, or with --to
        #[arg(value_name = "AS")]
        to: InStore<ImageName>,
        /// Store to copy from
        #[arg(long, value_name = "STORE")]
        from: Option<String>,
        /// Store to copy to
        #[arg(long = "to", value_name = "STORE")]
        into: Option<String>,
        #[command(flatten)]
        how: Transfer,
        /// Make the store that is copied to, if there is none
        #[arg(long)]
        init: bool,
    },
    /// Append a volume's state to an image, whether it is served or not
    Checkpoint {
        /// The volume
        volume: ImageName,
        /// Image of the volume's home store to append to; that of the volume's name if absent
        image: Option<InStore<ImageName>>,
        /// Say something of the checkpoint (may be repeated)
        #[arg(long, value_name = "KEY=VALUE", value_parser = label)]
        label: Vec<(String, String)>,
    },
    /// List images and volumes
    Ls,
    /// Show an image or a volume
    Show {
        /// Image, as vm1, vm1~2 or prod:vm1, or volume
        name: InStore<ImageRef>,
    },
    /// Show an image's history, newest first
    Log {
        /// The image
        image: InStore<ImageName>,
    },
    /// Show where two checkpoints differ
    Diff {
        /// One, as vm1~1
        a: InStore<ImageRef>,
        /// The other
        b: InStore<ImageRef>,
    },
    /// Write an image's disk to a file, with holes where it is zero
    Export {
        /// The image, as vm1, vm1~2 or vm1@3f2a
        image: InStore<ImageRef>,
        /// File or block device, or - for standard output
        file: PathBuf,
        /// Replace the file if it exists
        #[arg(long)]
        force: bool,
    },
    /// Make a new image of a checkpoint
    Tag {
        /// Which checkpoint, as vm1@3f2a
        from: InStore<ImageRef>,
        /// The new image, in the same store
        to: InStore<ImageName>,
    },
    /// Remove an image or a volume
    Rm {
        /// Its name
        name: InStore<ImageName>,
        /// The image of that name
        #[arg(long, conflicts_with = "volume")]
        image: bool,
        /// The volume of that name
        #[arg(long)]
        volume: bool,
    },
    /// Check that everything images and volumes need is there and intact
    Check(Check),
    /// Make good what is damaged in a store, as far as it can be had; nothing is deleted
    Repair {
        /// Store that has what this one lacks
        #[arg(long, value_name = "STORE")]
        from: Option<String>,
        /// Not the store: keep what is whole of this volume, whose journal is damaged; what a lost flush wrote shows as
        /// it was before
        #[arg(long, value_name = "VOLUME", conflicts_with = "from")]
        volume: Option<ImageName>,
        /// Change nothing; say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Show what a store and the volumes take
    Du,
    /// Show settings, where they come from, and where things lie
    Config,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// Volumes, images (read-only), or raw disk files (anything with a / or a .)
    #[arg(required = true, value_name = "VOLUME|IMAGE|FILE")]
    pub(crate) what: Vec<String>,
    /// Make the volume if it does not exist, with this size; a larger size grows it
    #[arg(long, value_parser = parse_size)]
    pub(crate) size: Option<u64>,
    /// Unix socket to listen on
    #[arg(long)]
    pub(crate) socket: Option<PathBuf>,
    /// Serve an image writable; what is written is discarded at the end
    #[arg(long)]
    pub(crate) ephemeral: bool,
    /// Take every name for a file
    #[arg(long)]
    pub(crate) file: bool,
    /// Fetch all of a disk of a remote store into the disk cache, in the background
    #[arg(long, value_name = "WHAT")]
    pub(crate) prefetch: Option<Prefetch>,
    /// Neither fetch ahead what a disk of a remote store read at its last start, nor record it
    #[arg(long)]
    pub(crate) no_trace: bool,
    /// Publish the volumes to the images of their names, in their home stores, while they are served
    #[arg(long)]
    pub(crate) replicate: bool,
    /// Replicate even to an image with a newer checkpoint that the volume doesn't go on from
    #[arg(long)]
    pub(crate) take_over: bool,
    /// How often to publish what was written, as 30s (the default) or 5m
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) every: Option<Duration>,
    /// How far a FLUSH reaches before it is answered: remote also publishes, and replicates
    #[arg(long, value_enum, default_value_t)]
    pub(crate) flush: Flush,
}

/// How far a FLUSH reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Flush {
    /// This host's disk
    #[default]
    Local,
    /// The home store
    Remote,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Transfer {
    /// Copy nothing; say how much it would be, in how many requests, at which cost
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Copy the image's older checkpoints, too
    #[arg(long)]
    pub(crate) history: bool,
    /// Append even if the image there has checkpoints that the one here does not know
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Check {
    /// How closely to look [default: structure, with --sample hashes]
    #[arg(long, value_enum)]
    pub(crate) depth: Option<CheckDepth>,
    /// Read every chunk and verify its hash: --depth hashes
    #[arg(long, conflicts_with = "depth")]
    pub(crate) content: bool,
    /// Read only a part of the chunks, another one each time, as 5%
    #[arg(long, value_name = "PART", value_parser = percent)]
    pub(crate) sample: Option<f64>,
    /// End after this time, as 10m, with what was found by then
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    pub(crate) at_most: Option<Duration>,
}

/// How closely `check` looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum CheckDepth {
    /// Records, indexes, and that every chunk is there
    Structure,
    /// Also the checksum of every chunk as it is stored
    Checksums,
    /// Also the hash of every chunk's content
    Hashes,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
    let part: f64 = number.ok_or("a part is given in percent, as 5%")?;
    if part > 0.0 && part <= 100.0 {
        Ok(part / 100.0)
    } else {
        Err("a part is above 0% and at most 100%".into())
    }
}

/// What `serve` fetches unasked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Prefetch {
    /// The whole disk
    All,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}
