//! `check`: is everything there, and is it what it must be?

use std::{collections::BTreeMap, process::ExitCode, sync::Arc};

use gabion::{
    Host, StoreKind,
    core::{
        Error, Result,
        ops::{self, CheckOptions, CheckReport, Damage, Depth, Sample},
        types::WriteId,
    },
    format_bytes,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::blocking;
use crate::{
    args::{Check, CheckDepth},
    exit,
    output::Output,
};

pub(super) async fn check(host: &Host, output: &Output, how: Check, volumes: bool) -> Result<ExitCode> {
    let opened = host.store().await?;
    let options = options(how)?;
    let (job, bar) = output.job("checking");
    if let Some(time) = how.at_most {
        let enough = options.enough.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            enough.cancel();
        });
    }
    // Not through the caches: what is asked is what the store holds.
    let checked = async {
        let mut report = ops::check_with(&opened.direct, &options, &job).await?;
        let mut superseded = 0;
        if let StoreKind::Local(local) = &opened.kind {
            let (local, options, job) = (Arc::clone(local), options.clone(), job.clone());
            let intact = std::mem::take(&mut report.intact);
            let files = blocking(move || local.check_files(&options, &intact, &job)).await?;
            report.damage.extend(files.damage);
            report.bytes += files.bytes;
            superseded = files.superseded;
        }
        Ok::<_, Error>((report, superseded))
    };
    let checked = checked.await;
    bar.finish_and_clear();
    let (mut report, superseded) = checked?;
    report.cut_short = options.enough.is_cancelled();
    if volumes {
        report.damage.extend(damaged_volumes(host).await?);
    }
    let whole = report.damage.is_empty();
    output.result(&value(&report, superseded), &text(&report, superseded, options.depth))?;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(exit::DAMAGE) })
}

fn options(how: Check) -> Result<CheckOptions> {
    let depth = match how.depth {
        _ if how.content => Depth::Hashes,
        Some(CheckDepth::Structure) => Depth::Structure,
        Some(CheckDepth::Checksums) => Depth::Checksums,
        Some(CheckDepth::Hashes) => Depth::Hashes,
        None if how.sample.is_some() => Depth::Hashes,
        None => Depth::Structure,
    };
    let seed = u64::from_le_bytes(*WriteId::random()?.as_bytes().first_chunk().unwrap_or(&[0; 8]));
    let sample = match (how.sample, how.at_most) {
        (Some(part), _) => Sample::part(part, seed)?,
        (None, Some(_)) => Sample::shuffled(seed),
        (None, None) => Sample::default(),
    };
    Ok(CheckOptions { depth, sample, enough: CancellationToken::new() })
}

/// Damage in the files of this host's volumes.
async fn damaged_volumes(host: &Host) -> Result<Vec<Damage>> {
    let volumes = host.volumes().clone();
    blocking(move || {
        let mut damage = Vec::new();
        for found in volumes.list()? {
            if let Err(error) = volumes.check(&found) {
                let volume = match &found.record {
                    Ok(record) => format!("volume '{}'", record.info.name),
                    Err(_) => "a volume".to_owned(),
                };
                damage.push(Damage::of_object(None, error.context(volume)));
            }
        }
        Ok(damage)
    })
    .await
}

fn value(report: &CheckReport, superseded: u64) -> Value {
    let damage = report.damage.iter().map(|damage| {
        json!({
            "image": damage.image.as_ref().map(ToString::to_string),
            "checkpoints": damage.checkpoints.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "entry": damage.entry.map(|key| key.id.to_string()),
            "ranges": damage.ranges.iter().map(|range| [range.start, range.end]).collect::<Vec<_>>(),
            "error": damage.error.report(),
        })
    });
    json!({
        "ok": report.damage.is_empty(), "complete": !report.cut_short && report.skipped == 0,
        "images": report.images, "checkpoints": report.checkpoints, "nodes": report.nodes,
        "chunks": report.chunks, "skipped": report.skipped, "bytes": report.bytes, "superseded": superseded,
        "damage": damage.collect::<Vec<_>>(),
    })
}

fn text(report: &CheckReport, superseded: u64, depth: Depth) -> String {
    let mut text = String::new();
    let mut lost: BTreeMap<String, u64> = BTreeMap::new();
    for damage in &report.damage {
        text.push_str(&format!("DAMAGED {}: {}\n", subject(damage), damage.error.report()));
        if let Some(image) = &damage.image {
            *lost.entry(image.to_string()).or_default() +=
                damage.ranges.iter().map(|range| range.end - range.start).sum::<u64>();
        }
    }
    for (image, bytes) in lost.into_iter().filter(|(_, bytes)| *bytes > 0) {
        text.push_str(&format!("image '{image}': {} can't be read\n", format_bytes(bytes)));
    }
    if superseded > 0 {
        text.push_str(&format!(
            "{superseded} damaged copies of what is whole elsewhere: they harm nothing\n"
        ));
    }
    let read = match depth {
        Depth::Structure => String::new(),
        _ => format!(", {} read and verified", format_bytes(report.bytes)),
    };
    let skipped = match (report.cut_short, report.skipped) {
        (false, 0) => String::new(),
        (false, skipped) => format!("; {skipped} chunks are not in the sample"),
        (true, skipped) => format!("; the time was over before {skipped} chunks and what else was left"),
    };
    text.push_str(&format!(
        "{}: {} images, {} checkpoints, {} nodes, {} chunks{read}{skipped}",
        if report.damage.is_empty() { "whole" } else { "NOT whole" },
        report.images,
        report.checkpoints,
        report.nodes,
        report.chunks,
    ));
    text
}

/// Ranges that are told one by one.
const RANGES: usize = 4;

/// What is damaged: image, checkpoints and where in the disk, or the store.
pub(super) fn subject(damage: &Damage) -> String {
    let mut subject = match (&damage.image, damage.checkpoints.first()) {
        (Some(image), _) => format!("image '{image}'"),
        (None, Some(_)) => "pinned".to_owned(),
        (None, None) => "store".to_owned(),
    };
    if let Some((newest, older)) = damage.checkpoints.split_first() {
        subject.push_str(&format!(", checkpoint {}", newest.short()));
        if !older.is_empty() {
            subject.push_str(&format!(" and {} older", older.len()));
        }
    }
    let ranges = damage.ranges.iter().take(RANGES).map(|range| format!("{}..{}", range.start, range.end));
    let ranges: Vec<_> = ranges.collect();
    if !ranges.is_empty() {
        let more = damage.ranges.len().saturating_sub(RANGES);
        let more = if more > 0 { format!(" and {more} more ranges") } else { String::new() };
        subject.push_str(&format!(", bytes {}{more}", ranges.join(", ")));
    }
    subject
}
