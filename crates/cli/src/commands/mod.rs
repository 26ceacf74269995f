//! The verbs, a file for each family.

mod check;
mod images;
mod import;
mod inspect;
mod repair;
mod serve;
mod transfer;
mod volumes;

use std::process::ExitCode;

use gabion::{
    Host, Origin, Places, Settings,
    core::{Error, Result},
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    args::{Args, Verb},
    commands::transfer::{Direction, Route},
    output::Output,
};

/// Runs a command line.
pub(crate) async fn run(args: Args, output: &Output) -> Result<ExitCode> {
    let places = Places::from_env()?;
    let mut settings = Settings::load(&places.config)?;
    let other_store = args.store.is_some();
    settings.store.set(args.store.map(Some), Origin::Flag);
    if let Verb::Import { chunker, compression, .. } = &args.verb {
        settings.chunker.set(*chunker, Origin::Flag);
        settings.compression.set(*compression, Origin::Flag);
    }
    let mut host = Host::new(places, settings);
    if !matches!(args.verb, Verb::Serve(_)) {
        host = host.without_disk_cache();
    }
    match args.verb {
        Verb::Init { url } => images::init(&host, output, &url).await?,
        Verb::Import { file, name, label, .. } => {
            import::import(&host, output, &file, name, label.into_iter().collect()).await?;
        }
        Verb::Create { volume, from, size, unpinned } => {
            volumes::create(&host, output, &volume, from.as_ref(), size, unpinned).await?;
        }
        Verb::Push { image, to, from, how, init } => {
            let route = Route::push(&host, image, to, from.as_deref(), init)?;
            transfer::run(&host, output, Direction::Push, &route, how).await?;
        }
        Verb::Pull { image, to, into, how } => {
            let route = Route::pull(&host, image, to, into.as_deref())?;
            transfer::run(&host, output, Direction::Pull, &route, how).await?;
        }
        Verb::Copy { image, to, from, into, how, init } => {
            let route = Route::copy(&host, image, to, (from.as_deref(), into.as_deref()), init)?;
            transfer::run(&host, output, Direction::Copy, &route, how).await?;
        }
        // Ends within two seconds, whatever buckets do.
        Verb::Serve(serve) => return serve::serve(&host, output, serve).await.map(|()| ExitCode::SUCCESS),
        Verb::Checkpoint { volume, image, label } => {
            volumes::checkpoint(&host, output, &volume, image, label.into_iter().collect()).await?;
        }
        Verb::Ls => inspect::ls(&host, output).await?,
        Verb::Show { name } => inspect::show(&host, output, &name).await?,
        Verb::Log { image } => inspect::log(&host, output, &image).await?,
        Verb::Diff { a, b } => images::diff(&host, output, &a, &b).await?,
        Verb::Export { image, file, force } => import::export(&host, output, &image, &file, force).await?,
        Verb::Tag { from, to } => images::tag(&host, output, &from, &to).await?,
        Verb::Rm { name, image, volume } => volumes::remove(&host, output, &name, image, volume).await?,
        // The volumes are this host's, whatever store is asked for.
        Verb::Check(how) => return check::check(&host, output, how, !other_store).await,
        Verb::Repair { volume: Some(volume), dry_run, .. } => {
            repair::volume(&host, output, &volume, dry_run).await?;
        }
        Verb::Repair { from, dry_run, .. } => {
            return repair::repair(&host, output, from.as_deref(), dry_run).await;
        }
        Verb::Du => inspect::du(&host, output).await?,
        Verb::Config => inspect::config(&host, output)?,
    }
    host.settle().await;
    Ok(ExitCode::SUCCESS)
}

/// SIGTERM or SIGINT, caught from this call on and told by the future. If neither can be caught, they end
/// the process as they always did.
pub(crate) fn stop_signal() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async {
        match signals {
            (Ok(mut terminate), Ok(mut interrupt)) => {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            }
            _ => std::future::pending().await,
        }
    }
}

/// Runs what blocks on a thread for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    gabion::core::blocking::spawn_blocking(work)
        .await
        .map_err(|e| Error::with_source(gabion::core::ErrorKind::Unavailable, "a worker died", e))?
}

/// A time for people, in UTC.
fn time(at: gabion::core::clock::Timestamp) -> String {
    let time = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| "?".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}
