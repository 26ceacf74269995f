//! `repair`: makes good what is damaged in a store, or a volume, as far as it can be had.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use gabion::{
    Host, StoreUrl,
    core::{
        Error, ImageName, Result,
        format::catalog::Pin,
        ops::{self, Depth, Job},
    },
    format_bytes,
    local::{
        fs::{Fs, StdFs},
        store::{LocalStore, RepairOptions, RepairReport},
    },
};
use serde_json::json;

use super::{blocking, check::subject};
use crate::{exit, output::Output};

pub(super) async fn repair(
    host: &Host,
    output: &Output,
    from: Option<&str>,
    dry_run: bool,
) -> Result<ExitCode> {
    let url = host.url_of(None)?;
    let asked_for = from.is_some();
    let from = match from {
        Some(from) => Some(host.store_url(from)?),
        None => host.heal_from(&url)?,
    };
    let (job, bar) = output.job("repairing");
    let repaired = match &url {
        StoreUrl::Folder(folder) => rebuild(host, folder.clone(), dry_run, &job).await,
        StoreUrl::Remote(_) if from.is_none() => Err(Error::invalid(format!(
            "{} is in a bucket: what is damaged there is fetched from another store, with --from URL",
            url.place()
        ))),
        StoreUrl::Remote(_) => Ok(RepairReport::default()),
    };
    let mut report = repaired.inspect_err(|_| bar.finish_and_clear())?;
    if dry_run {
        bar.finish_and_clear();
        let text = match &report.done[..] {
            [] => "nothing to do without another store: 'gabion check' tells what is missing".to_owned(),
            done => done.iter().map(|step| format!("would {step}\n")).collect(),
        };
        output.result(&json!({ "would": report.done, "lost": report.lost }), &text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let opened = host.open_store(&url).await.inspect_err(|_| bar.finish_and_clear())?;
    let mut unasked = None;
    let left = async {
        let Some(from) = &from else { return ops::check(&opened.direct, Depth::Structure, &job).await };
        // One that stands in the configuration may be away, as long as nothing is needed of it.
        let source = match asked_for {
            true => host.open_store(from).await?.direct.chunks,
            false => host.in_need(from.clone()),
        };
        // What is in a folder was read above.
        let depth = if matches!(url, StoreUrl::Folder(_)) { Depth::Structure } else { Depth::Hashes };
        let healed = ops::heal(&opened.direct, &source, depth, &job).await?;
        if healed.entries > 0 {
            let bytes = format_bytes(healed.bytes);
            report.done.push(format!("fetch {} entries, {bytes}, from {}", healed.entries, from.place()));
        }
        unasked = healed.unasked.map(|e| format!("{} could not be asked: {}", from.place(), e.report()));
        Ok(healed.left)
    };
    let left = left.await;
    bar.finish_and_clear();
    let left = left?;
    let mut text: String = report.done.iter().map(|step| format!("done: {step}\n")).collect();
    let lost = report.lost.iter().map(|lost| format!("LOST {lost}\n"));
    text.extend(lost);
    let still = left.damage.iter();
    text.extend(still.map(|damage| format!("LOST {}: {}\n", subject(damage), damage.error.report())));
    let whole = left.damage.is_empty() && report.lost.is_empty();
    text.push_str(&match (whole, report.done.is_empty(), &unasked) {
        (true, true, _) => "whole: there was nothing to repair".to_owned(),
        (true, false, _) => "whole".to_owned(),
        (false, _, None) => {
            "NOT whole: import a disk that has it, or repair from a store that does, with --from URL"
                .to_owned()
        }
        (false, _, Some(why)) => format!("NOT whole: {why}; repair again once it can be"),
    });
    let damage: Vec<_> =
        left.damage.iter().map(|damage| format!("{}: {}", subject(damage), damage.error.report())).collect();
    let result = json!({
        "ok": whole, "done": report.done, "lost": report.lost, "damage": damage, "unasked": unasked,
    });
    output.result(&result, &text)?;
    Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(exit::DAMAGE) })
}

/// Repairs a folder's store out of itself.
async fn rebuild(host: &Host, folder: PathBuf, dry_run: bool, job: &Job) -> Result<RepairReport> {
    let (volumes, clock) = (host.volumes().clone(), Arc::clone(host.clock()));
    let job = job.clone();
    blocking(move || {
        // What is lost with a catalog, and known here: what this host's volumes stand on.
        let records = volumes.list()?.into_iter().filter_map(|found| found.record.ok());
        let pins = records.filter(|record| is_same(&record.info.home, &folder)).filter_map(|record| {
            Some(Pin { owner: record.info.id, checkpoint: record.info.base?, since: record.info.created })
        });
        let options = RepairOptions { dry_run, pins: pins.collect(), clock };
        let fs: Arc<dyn Fs> = Arc::new(StdFs);
        LocalStore::repair(&fs, &folder, &options, &job)
    })
    .await
}

/// Whether a volume's home is the store in this folder, by whatever path.
fn is_same(home: &str, folder: &Path) -> bool {
    let Ok(StoreUrl::Folder(home)) = home.parse() else { return false };
    home == folder || matches!((home.canonicalize(), folder.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Keeps what is whole of a volume whose journal is damaged.
pub(super) async fn volume(host: &Host, output: &Output, name: &ImageName, dry_run: bool) -> Result<()> {
    let (volumes, wanted) = (host.volumes().clone(), name.clone());
    let salvaged = blocking(move || volumes.repair(&wanted, dry_run)).await?;
    let would = if dry_run { "would salvage" } else { "salvaged" };
    let mut text = String::new();
    for journal in &salvaged {
        let lost = journal.lost.iter().map(|lost| match (lost.start(), lost.end()) {
            (first, last) if first == last => format!("batch {first}"),
            (first, last) => format!("batches {first} to {last}"),
        });
        let lost = match lost.collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => "no batch is lost".to_owned(),
            lost => format!("LOST {lost}, and what they told of shows as it was before"),
        };
        text.push_str(&format!(
            "{would} {}: {} of data stay; {lost}; kept as {}\n",
            journal.journal.display(),
            format_bytes(journal.blocks * gabion::core::BLOCK_SIZE as u64),
            journal.kept_as.display(),
        ));
    }
    text.push_str(match (salvaged.is_empty(), dry_run) {
        (true, _) => "whole: there is nothing to salvage",
        (false, true) => "nothing was changed",
        (false, false) => "it can be opened again: check its file system before you rely on it",
    });
    let journals: Vec<_> = salvaged
        .iter()
        .map(|journal| {
            json!({
                "journal": journal.journal, "kept_as": journal.kept_as, "blocks": journal.blocks,
                "lost": journal.lost.iter().map(|lost| [*lost.start(), *lost.end()]).collect::<Vec<_>>(),
            })
        })
        .collect();
    output.result(&json!({ "volume": name.to_string(), "salvaged": journals }), &text)
}
