//! A history: who goes on next, what fails, and when the power does. All of it is decided by one seed.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures::future::join_all;
use gabion_store_core::{
    BLOCK_SIZE, BlockDevice as _, Error, ErrorKind,
    testing::{Conductor, Gate, Rng},
};
use gabion_store_local::fs::{CrashPoint, Fs, FsFault, FsOp, On};
use parking_lot::Mutex;
use tokio::task::yield_now;

use super::{
    actors::{Client, Keeper, Other, Writing, show},
    facts::{Counts, Facts, Known, Model, Trouble, wrong},
    model::End,
    stage::{Flag, drain, drive, poll},
    world::{IMAGE, Process, World, assert_whole},
};

const CLIENTS: usize = 4;
/// Places of tasks behind those of the clients.
const KEEPER: usize = CLIENTS;
const REPLICATION: usize = CLIENTS + 1;
const OTHER: usize = CLIENTS + 2;
const STEPS: usize = 1500;
/// Images that may get checkpoints.
const IMAGES: [&str; 3] = [IMAGE, "daily", "saved"];
/// Images of a crash that are looked at beside the one that the history goes on from.
const LOOKED_AT: usize = 4;

/// What a history came to.
pub(crate) struct Outcome {
    pub(crate) counts: Counts,
    pub(crate) hash: u64,
}

type Deed = Pin<Box<dyn Future<Output = Result<(), Trouble>>>>;

/// Something that is going on.
struct Task {
    future: Deed,
    flag: Arc<Flag>,
    /// What it writes, if that is known.
    writing: Writing,
    /// Something was wrong when it began, or has been since.
    excused: bool,
    what: &'static str,
}

/// The power fails once so many more operations were done.
#[derive(Default)]
struct Power {
    left: Option<usize>,
    failed: Option<(CrashPoint, Model)>,
}

struct History {
    facts: Facts,
    rng: Rng,
    conductor: Conductor,
    world: World,
    /// None only while nobody has the volume open.
    process: Option<Process>,
    flushes_home: bool,
    tasks: [Option<Task>; OTHER + 1],
    /// Writes that nobody waits for any more, which may still be on their way.
    adrift: Vec<(u64, usize, usize)>,
    power: Arc<Mutex<Power>>,
    /// Something is wrong with the disk or with home; a process that met it may refuse until it is started anew.
    trouble: bool,
    /// A sync of the disk is to fail.
    bad_disk: Arc<AtomicUsize>,
    /// What home holds back.
    gates: Vec<Arc<Gate>>,
    /// The process is to be killed, as it is of no use any more.
    useless: bool,
}

/// Lives through a history. The runtime is of one thread, polls one task at a time, and its time stands still.
pub(crate) async fn live(seed: u64, facts: &Facts) -> Result<Outcome, String> {
    let conductor = Conductor::new(seed);
    let _installed = conductor.install();
    let mut rng = Rng::new(seed);
    let size = facts.model.lock().disk.size();
    let far = rng.below(2) == 0;
    let world = World::new(rng.next(), size, far, facts);
    let flushes_home = rng.below(4) == 0;
    facts.note(format!("a disk of {size} bytes, home far: {far}, flushes reach it: {flushes_home}"));
    let process = drive(&conductor, world.start(flushes_home, false)).await.map_err(|e| e.report())?;
    let mut history = History {
        facts: facts.clone(),
        rng,
        conductor,
        world,
        process: Some(process),
        flushes_home,
        tasks: Default::default(),
        adrift: Vec::new(),
        power: Arc::default(),
        trouble: false,
        bad_disk: Arc::default(),
        gates: Vec::new(),
        useless: false,
    };
    history.watch();
    let ended = history.run().await;
    // Whatever is left goes on until its end, or threads would wait for ever.
    history.tasks = Default::default();
    history.relieve();
    let conductor = history.conductor.clone();
    drop(history);
    drain(&conductor).await;
    ended.map_err(|trouble| match trouble {
        Trouble::Wrong(why) => why,
        Trouble::Refused(error) => format!("refused for no reason: {}", error.report()),
    })?;
    Ok(Outcome { counts: *facts.counts.lock(), hash: facts.trace.lock().hash() })
}

/// Small disks, where most writes meet others, and larger ones. No multiple of a block or a sector.
pub(crate) fn size(seed: u64) -> usize {
    [6, 14, 40][(seed % 3) as usize] * BLOCK_SIZE + 700
}

impl History {
    fn process(&self) -> &Process {
        self.process.as_ref().expect("it is opened again before anything goes on")
    }

    async fn run(&mut self) -> Result<(), Trouble> {
        for _ in 0..STEPS {
            self.step().await?;
            let failed = self.power.lock().failed.take();
            if let Some((point, model)) = failed {
                self.power_failure(point, model).await?;
            } else if self.useless && self.rng.below(20) == 0 {
                self.killed().await?;
            }
        }
        self.end().await
    }

    /// One thing goes on.
    async fn step(&mut self) -> Result<(), Trouble> {
        self.settle_adrift();
        match self.rng.below(100) {
            0..=29 => self.poll_one(),
            30..=54 => {
                self.work();
                Ok(())
            }
            55..=74 => {
                match self.rng.below(4) {
                    // The time of a request, or of the pause before another attempt at it.
                    0 => tokio::time::advance(Duration::from_millis(self.rng.below(100) as u64)).await,
                    _ => yield_now().await,
                }
                Ok(())
            }
            75..=96 => {
                self.begin_one();
                Ok(())
            }
            _ => self.event().await,
        }
    }

    /// Polls a task that was woken.
    fn poll_one(&mut self) -> Result<(), Trouble> {
        let woken = |task: &Option<Task>| task.as_ref().is_some_and(|task| task.flag.is_set());
        let ready: Vec<usize> = (0..=OTHER).filter(|n| woken(&self.tasks[*n])).collect();
        let Some(&n) = ready.get(self.rng.below(ready.len())) else { return Ok(()) };
        let task = self.tasks[n].as_mut().unwrap();
        task.excused |= self.trouble;
        let flag = task.flag.clone();
        let Poll::Ready(done) = poll(task.future.as_mut(), &flag) else { return Ok(()) };
        let task = self.tasks[n].take().unwrap();
        match done {
            Ok(()) => Ok(()),
            Err(Trouble::Wrong(why)) => wrong(format!("{}: {why}", task.what)),
            Err(Trouble::Refused(error)) => self.refused(&task, &error),
        }
    }

    /// Something was refused: there has to be a reason.
    fn refused(&mut self, task: &Task, error: &Error) -> Result<(), Trouble> {
        self.facts.note(format!("{} is refused: {:?}", task.what, error.kind()));
        self.facts.count(|counts| counts.refused += 1);
        self.useless |= error.kind() == ErrorKind::Poisoned;
        // Others publish, take over and remove what this one is about.
        let crossed =
            matches!(error.kind(), ErrorKind::Conflict | ErrorKind::AlreadyExists | ErrorKind::NotFound);
        let of_image = task.what != "a request" || self.flushes_home;
        if task.excused || self.trouble || (crossed && of_image) {
            return Ok(());
        }
        wrong(format!("{} is refused for no reason: {}", task.what, error.report()))
    }

    /// Runs a piece of work that is ready; perhaps another write comes while it syncs, or the sync fails.
    fn work(&mut self) {
        let ready = self.conductor.ready();
        let Some(&number) = ready.get(self.rng.below(ready.len())) else { return };
        if self.rng.below(4) == 0 || self.bad_disk.load(Ordering::SeqCst) > 0 {
            let mut race = Race {
                facts: self.facts.clone(),
                process: self.process().volume.clone(),
                rng: Rng::new(self.rng.next()),
                bad_disk: self.bad_disk.clone(),
            };
            self.world.below.on(move |op, path| {
                if op == FsOp::Sync || op == FsOp::SyncDir { race.sync(op, path) } else { Ok(()) }
            });
        }
        self.conductor.run(number);
        self.world.below.heal();
    }

    fn begin_one(&mut self) {
        let n = match self.rng.below(40) {
            0 => KEEPER,
            1 => REPLICATION,
            2 => OTHER,
            _ => self.rng.below(CLIENTS),
        };
        if self.tasks[n].is_some() {
            return;
        }
        let Ok(truth) = self.world.truth() else { return };
        let (facts, writing, rng) = (self.facts.clone(), Writing::default(), Rng::new(self.rng.next()));
        let image = IMAGES[self.rng.below(IMAGES.len())];
        let deed = self.rng.below(8);
        let process = self.process();
        let keeper = || Keeper {
            facts: facts.clone(),
            volume: process.volume.clone(),
            home: process.home.clone(),
            replicator: process.replicator.clone(),
            truth: truth.clone(),
        };
        let (what, future): (_, Deed) = match n {
            KEEPER => {
                let fs: Arc<dyn Fs> = Arc::new(process.faults.clone());
                ("a checkpoint", Box::pin(keeper().checkpoint(image, fs)))
            }
            REPLICATION => ("a round", Box::pin(keeper().round())),
            OTHER => {
                let clock = self.world.clock.clone();
                let other = Other { facts: facts.clone(), truth: truth.clone(), clock, rng };
                match deed {
                    0 => ("a removal", Box::pin(other.remove(image))),
                    1 => ("a takeover", Box::pin(other.take_over())),
                    2..=4 => ("a pull", Box::pin(other.pull(image))),
                    _ => ("a look", Box::pin(other.look(image))),
                }
            }
            number => {
                let device = process.device.clone();
                let home = self.flushes_home.then(|| truth.clone());
                let client =
                    Client { number, facts: facts.clone(), device, writing: writing.clone(), rng, home };
                ("a request", Box::pin(client.request()))
            }
        };
        self.tasks[n] = Some(Task { future, flag: Flag::new(), writing, excused: self.trouble, what });
    }

    /// Something that nobody here decides.
    async fn event(&mut self) -> Result<(), Trouble> {
        match self.rng.below(40) {
            0..=9 => {
                let passed = 1000 * (1 + self.rng.below(40) as u64);
                self.world.clock.advance_ms(passed);
                tokio::time::advance(Duration::from_millis(passed)).await;
            }
            10..=13 => self.drop_one(),
            14 => self.killed().await?,
            15 | 16 => {
                // In the midst of what is going on, or not.
                let after = self.rng.below(30);
                self.facts.note(format!("killed after {after} more operations"));
                self.process().faults.fail(On::change().skip(after as u64).always(), FsFault::EIO);
                (self.trouble, self.useless) = (true, true);
            }
            17 | 18 => self.power.lock().left = Some(self.rng.below(40)),
            19 => {
                self.facts.note("a sync is to fail");
                self.bad_disk.store(1 + self.rng.below(4), Ordering::SeqCst);
                self.hurt();
            }
            20 | 21 => {
                let most = [600, 6000, 60_000, 3 << 20][self.rng.below(4)];
                let left = self.rng.below(most);
                self.facts.note(format!("{left} bytes of space are left"));
                self.process().faults.set_space(Some(left as u64));
                self.hurt();
            }
            22 | 23 => self.spoil_home(),
            24 => {
                if let Some(far) = &self.world.far {
                    far.land();
                }
            }
            25..=29 => {
                self.facts.note("all is well again");
                self.relieve();
            }
            _ => {}
        }
        Ok(())
    }

    fn hurt(&mut self) {
        self.trouble = true;
        self.facts.count(|counts| counts.faults += 1);
    }

    fn spoil_home(&mut self) {
        let Some(far) = self.world.far.clone() else { return };
        self.facts.note("home fails");
        if far.spoil(&mut self.rng, &mut self.gates) {
            self.hurt();
        }
    }

    /// Ends what is wrong with the disk and with home.
    fn relieve(&mut self) {
        self.bad_disk.store(0, Ordering::SeqCst);
        self.gates.drain(..).for_each(|gate| gate.open());
        if let Some(far) = &self.world.far {
            far.heal();
        }
        if let Some(process) = self.process.as_ref().filter(|_| !self.useless) {
            process.faults.heal();
        }
    }

    /// A client goes away in the midst of its request, or whoever makes a checkpoint does.
    fn drop_one(&mut self) {
        let n = self.rng.below(REPLICATION + 1);
        let Some(task) = self.tasks[n].take() else { return };
        self.facts.note(format!("{} is dropped", task.what));
        self.facts.count(|counts| counts.dropped += 1);
        drop(task.future);
        self.adrift.extend(task.writing.lock().take());
        // Its checkpoint may be published or not; it was asked for.
    }

    /// Once no work is under way, what was dropped has happened or will not.
    fn settle_adrift(&mut self) {
        if self.adrift.is_empty() || self.conductor.alive() > 0 {
            return;
        }
        let model = &mut *self.facts.model.lock();
        for (begin, offset, len) in self.adrift.drain(..) {
            model.disk.end(begin, offset, len, End::Unknown);
        }
    }

    /// Notes each operation of the machine, and lets its power fail after one of them.
    fn watch(&self) {
        let (facts, power) = (self.facts.clone(), self.power.clone());
        self.world.crash.observe(move |point| {
            facts.note(format!("fs: {}", point.after()));
            let power = &mut *power.lock();
            match power.left {
                Some(0) => {
                    power.left = None;
                    power.failed = Some((point, facts.model.lock().clone()));
                }
                Some(more) => power.left = Some(more - 1),
                None => {}
            }
        });
    }

    /// Nothing of what is going on has an effect any more, and it comes to its end.
    async fn stop(&mut self) {
        self.tasks = Default::default();
        self.adrift.clear();
        self.useless = true;
        self.relieve();
        if let Some(process) = self.process.take() {
            process.faults.heal();
            process.faults.fail(On::change().always(), FsFault::EIO);
        }
        drain(&self.conductor).await;
    }

    /// The process is killed; the machine goes on, and another process opens the volume.
    async fn killed(&mut self) -> Result<(), Trouble> {
        self.facts.note("the process is killed");
        self.facts.count(|counts| counts.kills += 1);
        // Another host goes on, but here it would have to wait until all is still.
        self.stop().await;
        // Whatever it was about to do it does not do now: the power may fail later.
        let left = self.power.lock().left.take();
        self.facts.model.lock().died();
        self.start(false).await?;
        self.power.lock().left = left;
        Ok(())
    }

    /// The power fails: images of the disk are looked at, and the history goes on from one.
    async fn power_failure(&mut self, point: CrashPoint, model: Model) -> Result<(), Trouble> {
        self.facts.note(format!("the power fails after {}, with {} pending", point.after(), point.pending()));
        self.facts.count(|counts| counts.power_failures += 1);
        self.world.crash.unobserve();
        self.stop().await;
        self.facts.model.lock().back_to(model, self.world.far.is_some());
        let (seed, chosen) = (self.rng.next(), self.rng.below(LOOKED_AT));
        let died = self.facts.model.lock().clone();
        for (n, image) in point.images(seed, LOOKED_AT).enumerate() {
            self.facts.count(|counts| counts.images += 1);
            self.facts.note(format!("image {n}: {image}"));
            if n == chosen {
                continue;
            }
            *self.facts.model.lock() = died.clone();
            self.world = self.world.restarted(image, 1);
            self.start(true).await?;
            self.stop().await;
        }
        *self.facts.model.lock() = died;
        let image = point.images(seed, LOOKED_AT).nth(chosen).or_else(|| point.images(seed, 1).next());
        self.world = self.world.restarted(image.expect("there is one at least"), self.rng.next());
        self.watch();
        self.start(true).await
    }

    /// A process starts, and everything is as it must be.
    async fn start(&mut self, after_power_failure: bool) -> Result<(), Trouble> {
        (self.useless, self.trouble) = (false, false);
        let take_over = self.rng.below(2) == 0;
        let opened = drive(&self.conductor, self.world.start(self.flushes_home, take_over)).await;
        let process = opened.map_err(|e| Trouble::Wrong(format!("it does not open: {}", e.report())))?;
        let shown = drive(&self.conductor, show(&process.volume)).await;
        self.process = Some(process);
        let shown = shown.or_else(|e| wrong(format!("it can't be read: {e:?}")))?;
        {
            let model = &mut *self.facts.model.lock();
            model.disk.recovered(&shown, after_power_failure).or_else(wrong)?;
            if take_over {
                model.displaced = None;
            }
        }
        for image in IMAGES {
            self.look(image).await?;
        }
        self.check().await
    }

    async fn check(&mut self) -> Result<(), Trouble> {
        let truth = self.world.truth()?;
        drive(&self.conductor, assert_whole(&truth)).await.or_else(wrong)
    }

    async fn look(&mut self, image: &'static str) -> Result<(), Trouble> {
        let (facts, truth, clock) = (self.facts.clone(), self.world.truth()?, self.world.clock.clone());
        let other = Other { facts, truth, clock, rng: Rng::new(self.rng.next()) };
        drive(&self.conductor, other.look(image)).await
    }

    /// Everything comes to a good end.
    async fn end(&mut self) -> Result<(), Trouble> {
        self.facts.note("the end");
        self.power.lock().left = None;
        self.relieve();
        // Together, for one may wait for another.
        let mut left: Vec<Task> = self.tasks.iter_mut().filter_map(Option::take).collect();
        let ends = join_all(left.iter_mut().map(|task| task.future.as_mut()));
        let ends = drive(&self.conductor, ends).await;
        for (task, done) in left.iter().zip(ends) {
            match done {
                Err(Trouble::Wrong(why)) => return wrong(format!("{}: {why}", task.what)),
                Err(Trouble::Refused(error)) => self.refused(task, &error)?,
                Ok(()) => {}
            }
        }
        if self.trouble {
            self.killed().await?;
        }
        drain(&self.conductor).await;
        self.settle_adrift();
        let since = self.facts.model.lock().disk.look();
        let shown = drive(&self.conductor, show(&self.process().volume)).await?;
        self.facts.model.lock().disk.check_read(since, 0, &shown).or_else(wrong)?;
        self.facts.model.lock().disk.seen(since);
        drive(&self.conductor, self.process().volume.flush()).await?;
        let keeper = Keeper {
            facts: self.facts.clone(),
            volume: self.process().volume.clone(),
            home: self.process().home.clone(),
            replicator: self.process().replicator.clone(),
            truth: self.world.truth()?,
        };
        drive(&self.conductor, keeper.checkpoint("saved", self.world.fs())).await?;
        for image in IMAGES {
            self.look(image).await?;
        }
        self.check().await?;
        self.killed().await
    }
}

/// What comes between a sync and its end.
struct Race {
    facts: Facts,
    process: gabion_store_core::volume::Volume,
    rng: Rng,
    bad_disk: Arc<AtomicUsize>,
}

impl Race {
    fn sync(&mut self, op: FsOp, path: &std::path::Path) -> std::io::Result<()> {
        let bad = &self.bad_disk;
        if bad.load(Ordering::SeqCst) > 0 && bad.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.facts.note(format!("fs: {op:?} of {} fails", path.display()));
            return Err(std::io::Error::from_raw_os_error(5));
        }
        if op != FsOp::Sync || !path.to_string_lossy().contains(".data") {
            return Ok(());
        }
        let place = {
            let model = &mut *self.facts.model.lock();
            let block = self.rng.below(model.disk.size() / BLOCK_SIZE) * BLOCK_SIZE;
            model.disk.writable(block, BLOCK_SIZE).filter(|place| *place == (block, BLOCK_SIZE)).map(|_| {
                let bytes = self.rng.bytes(BLOCK_SIZE);
                (model.disk.begin(block, &bytes), block, bytes)
            })
        };
        let Some((begin, block, bytes)) = place else { return Ok(()) };
        let how = match self.process.try_write(block as u64, &bytes) {
            Some(Ok(())) => End::Done,
            _ => End::Unknown,
        };
        self.facts.note(format!("{begin}: a write of {BLOCK_SIZE} at {block} while it syncs: {how:?}"));
        self.facts.model.lock().disk.end(begin, block, BLOCK_SIZE, how);
        Ok(())
    }
}

/// The facts of a history that is about to begin.
pub(crate) fn facts(seed: u64) -> Facts {
    Known::new(size(seed))
}
