//! Images from store to store: `push`, `pull`, `copy`.

use std::{sync::Arc, time::Instant};

use gabion::{
    Host, InStore, StoreUrl,
    core::{
        Error, ErrorKind, ImageName, Result, Store,
        ops::{self, ImageRef, Plan, Side, TransferOptions},
        stores::MemoryStore,
    },
    format_bytes, format_dollars,
    s3::RemoteOptions,
};
use serde_json::json;

use crate::{args::Transfer, output::Output};

/// Which image goes where.
#[derive(Debug)]
pub(super) struct Route {
    from: StoreUrl,
    image: ImageRef,
    to: StoreUrl,
    name: ImageName,
    /// Whether the store it goes to is made if there is none.
    init: bool,
}

impl Route {
    /// From the local store, or the one that is named, to the store in force, or the one that is named.
    pub(super) fn push(
        host: &Host,
        image: InStore<ImageRef>,
        to: Option<InStore<ImageName>>,
        from: Option<&str>,
        init: bool,
    ) -> Result<Self> {
        let to = to.unwrap_or_else(|| image.name.name.clone().into());
        let from = one_store(host, &image, from)?.unwrap_or_else(|| host.local_url());
        let target = match &to.store {
            Some(store) => host.url_of(Some(store))?,
            None if host.settings().store.value.is_none() => {
                return Err(Error::invalid(format!(
                    "there is no store to push to: say --store s3://BUCKET/PREFIX, set GABION_STORE, or name one \
                     under [stores] in {} and push to NAME:{}",
                    host.places().config.display(),
                    to.name
                )));
            }
            None => host.url_of(None)?,
        };
        Self { from, image: image.name, to: target, name: to.name, init }.checked(Direction::Push)
    }

    /// From the store in force, or the one that is named, to the local store, or the one that is named.
    pub(super) fn pull(
        host: &Host,
        image: InStore<ImageRef>,
        to: Option<InStore<ImageName>>,
        into: Option<&str>,
    ) -> Result<Self> {
        if image.store.is_none() && host.settings().store.value.is_none() {
            return Err(Error::invalid(format!(
                "there is no store to pull from: say --store s3://BUCKET/PREFIX, set GABION_STORE, or name one \
                 under [stores] in {} and pull NAME:{}",
                host.places().config.display(),
                image.name
            )));
        }
        let to = to.unwrap_or_else(|| image.name.name.clone().into());
        let target = one_store(host, &to, into)?.unwrap_or_else(|| host.local_url());
        let from = host.url_of(image.store.as_deref())?;
        Self { from, image: image.name, to: target, name: to.name, init: false }.checked(Direction::Pull)
    }

    /// Between two stores; one that is not named is the store in force.
    pub(super) fn copy(
        host: &Host,
        image: InStore<ImageRef>,
        to: InStore<ImageName>,
        (from, into): (Option<&str>, Option<&str>),
        init: bool,
    ) -> Result<Self> {
        let in_force = || host.url_of(None);
        let from = one_store(host, &image, from)?.map_or_else(in_force, Ok)?;
        let target = one_store(host, &to, into)?.map_or_else(in_force, Ok)?;
        Self { from, image: image.name, to: target, name: to.name, init }.checked(Direction::Copy)
    }

    fn checked(self, direction: Direction) -> Result<Self> {
        if self.from != self.to {
            return Ok(self);
        }
        let advice = match direction {
            Direction::Push => "name the store to push to with --store, or the one to push from with --from",
            Direction::Pull => "name the store to pull from with --store, or the one to pull to with --to",
            Direction::Copy => "'gabion tag' gives a checkpoint another name within a store",
        };
        Err(Error::invalid(format!("{} from {} to itself: {advice}", direction.name(), self.from.place())))
    }
}

/// The store of an address and that of a flag, which are the same thing said twice.
fn one_store<T: std::fmt::Display>(
    host: &Host,
    image: &InStore<T>,
    flag: Option<&str>,
) -> Result<Option<StoreUrl>> {
    match (&image.store, flag) {
        (Some(_), Some(flag)) => {
            Err(Error::invalid(format!("'{image}' names its store: --from or --to {flag} says another")))
        }
        (Some(store), None) => host.url_of(Some(store)).map(Some),
        (None, Some(flag)) => host.store_url(flag).map(Some),
        (None, None) => Ok(None),
    }
}

/// Opens both stores and copies, or plans to.
pub(super) async fn run(
    host: &Host,
    output: &Output,
    direction: Direction,
    route: &Route,
    how: Transfer,
) -> Result<()> {
    let Route { image, name, .. } = route;
    let from = host.open_or_default(&route.from).await?;
    let to = target(host, direction, route, how.dry_run).await?;
    let (from_place, to_place) = (route.from.place(), route.to.place());
    let source = from.uncached();
    let from_side = Side { store: &source, place: &from_place };
    let to_side = Side { store: &to, place: &to_place };
    let options = TransferOptions { history: how.history, force: how.force, ..TransferOptions::default() };
    if how.dry_run {
        let (job, bar) = output.job("planning");
        let plan = ops::plan(from_side, to_side, image, name, options, &job).await;
        bar.finish_and_clear();
        return show_plan(host, output, &plan?, route);
    }
    let (job, bar) = output.job(direction.doing());
    let began = Instant::now();
    let done = ops::transfer(from_side, to_side, image, name, &**host.clock(), options, &job).await;
    bar.finish_and_clear();
    let done = done.map_err(|e| e.context(format!("{} '{image}' to {to_place}", direction.doing())))?;
    let seconds = began.elapsed().as_secs_f64();
    let value = json!({
        "image": name.as_str(), "checkpoint": done.checkpoint.to_string(), "size": done.size,
        "from": route.from.to_string(), "to": route.to.to_string(), "published": done.published, "chunks": done.chunks,
        "nodes": done.nodes, "skipped_chunks": done.skipped, "bytes": done.bytes, "seconds": seconds,
    });
    let text = if done.published == 0 {
        format!("{name}@{} is in {to_place} already", done.checkpoint.short())
    } else {
        format!(
            "{name}@{} is in {to_place}: {} in {} chunks and {} index nodes travelled, in {seconds:.1} s",
            done.checkpoint.short(),
            format_bytes(done.bytes),
            done.chunks,
            done.nodes,
        )
    };
    output.result(&value, &text)
}

/// The store that a route leads to; an empty one in memory for a plan if there is none yet.
async fn target(host: &Host, direction: Direction, route: &Route, dry_run: bool) -> Result<Store> {
    let error = match host.open_or_default(&route.to).await {
        Ok(opened) => return Ok(opened.direct),
        Err(error) if error.kind() == ErrorKind::NotFound => error,
        Err(error) => return Err(error),
    };
    match (route.init, dry_run) {
        (true, true) => Ok(Arc::new(MemoryStore::new(&**host.clock())?).store()),
        (true, false) => {
            host.init_store(&route.to).await?;
            Ok(host.open_store(&route.to).await?.direct)
        }
        _ if direction == Direction::Pull => Err(error),
        _ => Err(Error::not_found(format!("{} (or {} with --init)", error.report(), direction.name()))),
    }
}

fn show_plan(host: &Host, output: &Output, plan: &Plan, route: &Route) -> Result<()> {
    let Route { from, image, to, name, .. } = route;
    let remote = |url: &StoreUrl, count: u64| if matches!(url, StoreUrl::Remote(_)) { count } else { 0 };
    let puts = remote(to, plan.puts(RemoteOptions::default().pack_target));
    let gets = remote(from, plan.gets());
    let cost = host.settings().prices.cost(puts, gets, remote(to, plan.bytes), remote(from, plan.bytes));
    let value = json!({
        "dry_run": true, "image": name.as_str(), "checkpoint": plan.checkpoint.to_string(), "size": plan.size,
        "from": from.to_string(), "to": to.to_string(), "checkpoints": plan.publishes, "chunks": plan.chunks,
        "nodes": plan.nodes, "bytes": plan.bytes, "disk": plan.disk, "put_requests": puts,
        "get_requests": gets,
        "cost_usd": { "requests": cost.requests, "out": cost.out, "month": cost.month },
    });
    if plan.publishes == 0 {
        return output.result(&value, &format!("nothing to do: {name} is in {} already", to.place()));
    }
    let mut text = format!(
        "{image} from {} to {}, as {name}@{}\n  {:<10} {} in {} chunks ({} of disk) and {} index nodes\n",
        from.place(),
        to.place(),
        plan.checkpoint.short(),
        "travels",
        format_bytes(plan.bytes),
        plan.chunks,
        format_bytes(plan.disk),
        plan.nodes,
    );
    if puts + gets > 0 {
        text.push_str(&format!("  {:<10} about {puts} PUT and {gets} GET\n", "requests"));
        text.push_str(&format!(
            "  {:<10} {} for the requests, {} for bytes that leave the provider, {} a month for what is added\n",
            "cost",
            format_dollars(cost.requests),
            format_dollars(cost.out),
            format_dollars(cost.month),
        ));
    }
    output.result(&value, &text)
}

/// The verb, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Push,
    Pull,
    Copy,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Pull => "pull",
            Self::Copy => "copy",
        }
    }

    fn doing(self) -> &'static str {
        match self {
            Self::Push => "pushing",
            Self::Pull => "pulling",
            Self::Copy => "copying",
        }
    }
}
