use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    BLOCK_SIZE, BlockDevice, Store,
    format::{checkpoint::Checkpoint, image_record::HistoryEntry},
    ops::{
        IngestOptions, NewBase, Publish, claim, open_checkpoint, publish, resolve, store_checkpoint,
        tests::{memory, name, nodes, noise},
    },
    overlay::MemoryOverlay,
    testing::{Call, Fault, FaultStore, FixedClock, Gate},
    types::VolumeId,
    volume::{Base, IndexBase},
};

const SIZE: u64 = 1 << 20;
const EVERY: Duration = Duration::from_secs(30);

/// A volume, its replication, and the disk that clients see with remote flushes.
struct Host {
    clock: Arc<FixedClock>,
    volume: Volume,
    replicator: Arc<Replicator>,
    disk: FlushRemote,
    local: Arc<AtomicBool>,
    owner: u8,
}

impl Host {
    /// A host with an empty volume, or one that stands on the newest checkpoint of the image.
    async fn new(store: &Store, owner: u8, from: Option<&str>) -> Self {
        let clock = Arc::new(FixedClock::new(Timestamp(1_000)));
        let home = Home { store: store.clone(), nodes: nodes(store), clock: clock.clone() };
        let mut base = (Base::Empty, None);
        if let Some(image) = from {
            let entry = resolve(store, &image.parse().unwrap()).await.unwrap();
            let (_, index) = open_checkpoint(&home.nodes, entry.checkpoint).await.unwrap();
            base = (Base::Index(IndexBase::new(index)), Some(entry.checkpoint));
        }
        let overlay = Arc::new(MemoryOverlay::new(SIZE));
        let volume = Volume::writable("volume 'vm'", overlay, base.0, base.1, SIZE);
        let replicator = Arc::new(Replicator::new(volume.clone(), home, options("vm", owner), EVERY));
        let local = Arc::new(AtomicBool::new(false));
        let disk = FlushRemote::new(Arc::new(volume.clone()), replicator.clone(), local.clone());
        Self { clock, volume, replicator, disk, local, owner }
    }

    async fn write(&self, block: u64, byte: u8) {
        self.disk.write(block * BLOCK_SIZE as u64, Bytes::from(vec![byte; BLOCK_SIZE])).await.unwrap();
    }

    /// Its replication after a restart.
    fn restarted(&self) -> Replicator {
        let Home { store, nodes, clock } = &self.replicator.home;
        let home = Home { store: store.clone(), nodes: nodes.clone(), clock: clock.clone() };
        Replicator::new(self.volume.clone(), home, options("vm", self.owner), EVERY)
    }

    fn state(&self) -> ReplicationState {
        self.replicator.status().state
    }

    async fn checkpoint(&self, image: &str) -> Result<CheckpointId> {
        let mut options = options(image, 1);
        if image == "vm" {
            options.append = self.replicator.append();
        }
        Ok(self.volume.checkpoint(&self.replicator.home, &options, &Job::default()).await?.checkpoint)
    }
}

fn options(image: &str, owner: u8) -> CheckpointOptions {
    CheckpointOptions {
        owner: VolumeId::from_bytes([owner; 16]),
        image: name(image),
        lineage: None,
        labels: BTreeMap::new(),
        ingest: IngestOptions::default(),
        append: Append::Any,
    }
}

async fn record(store: &Store, image: &str) -> ImageRecord {
    store.index.read_image(&name(image)).await.unwrap().unwrap().value
}

/// The disk of an image's newest checkpoint.
async fn published(store: &Store, image: &str) -> Vec<u8> {
    let entry = resolve(store, &image.parse().unwrap()).await.unwrap();
    let (checkpoint, index) = open_checkpoint(&nodes(store), entry.checkpoint).await.unwrap();
    let mut disk = vec![0xEE; checkpoint.size as usize];
    IndexBase::new(index).read(0, &mut disk).await.unwrap();
    disk
}

async fn byte_of(store: &Store, block: usize) -> u8 {
    published(store, "vm").await[block * BLOCK_SIZE]
}

#[tokio::test]
async fn rounds_publish_what_was_written_and_nothing_else() {
    let faults = FaultStore::new(memory(), 1);
    let store = faults.store();
    let host = Host::new(&store, 1, None).await;
    assert_eq!(host.state(), ReplicationState::Behind);
    // An empty disk, too, so that its name has an owner.
    host.replicator.round().await.unwrap();
    let epoch = record(&store, "vm").await.writer_epoch;
    assert_eq!((epoch > 0, host.replicator.status().epoch), (true, Some(epoch)));
    host.write(3, 7).await;
    host.clock.advance_ms(5_000);
    assert_eq!(
        (host.state(), host.replicator.status().lag),
        (ReplicationState::Behind, Duration::from_secs(5))
    );
    host.replicator.round().await.unwrap();
    assert_eq!(byte_of(&store, 3).await, 7);
    host.clock.advance_ms(5_000);
    assert_eq!((host.state(), host.replicator.status().lag), (ReplicationState::Current, Duration::ZERO));
    // Nothing was written: not one request.
    let calls = [Call::ReadImage, Call::WriteImage, Call::ReadCatalog, Call::Sync, Call::Contains];
    let before = calls.map(|call| faults.calls(call));
    for _ in 0..3 {
        host.replicator.round().await.unwrap();
        host.disk.flush().await.unwrap();
    }
    assert_eq!(calls.map(|call| faults.calls(call)), before);
    assert_eq!(record(&store, "vm").await.history.len(), 2);
    let status = host.replicator.status();
    assert_eq!(status.replicated.map(|last| last.checkpoint), host.volume.base());
    // A disk that grew is another disk.
    host.volume.grow(SIZE + 100).await.unwrap();
    host.replicator.round().await.unwrap();
    assert_eq!(published(&store, "vm").await.len() as u64, SIZE + 100);
}

#[tokio::test]
async fn a_flush_joins_only_a_round_that_has_not_begun() {
    let faults = FaultStore::new(memory(), 1);
    let host = Host::new(&faults.store(), 1, None).await;
    host.disk.flush().await.unwrap();
    host.write(0, 1).await;
    let gate = Arc::new(Gate::new());
    faults.script(Call::WriteImage, 0, Fault::Hold(gate.clone()));
    let mut first = std::pin::pin!(host.disk.flush());
    tokio::select! {
        _ = &mut first => panic!("the round is held"),
        () = gate.arrived(1) => {}
    }
    // What is written now misses that round, so these wait for the next, one for both.
    host.write(0, 2).await;
    let mut later = std::pin::pin!(futures::future::join(host.disk.flush(), host.disk.flush()));
    assert!(futures::poll!(&mut later).is_pending());
    gate.open();
    first.await.unwrap();
    assert_eq!(byte_of(&faults.store(), 0).await, 1);
    let (one, other) = later.await;
    one.and(other).unwrap();
    assert_eq!(byte_of(&faults.store(), 0).await, 2);
    assert_eq!(record(&faults.store(), "vm").await.history.len(), 3);
}

#[tokio::test]
async fn whoever_goes_away_takes_nobody_with_him() {
    let faults = FaultStore::new(memory(), 1);
    let host = Host::new(&faults.store(), 1, None).await;
    host.disk.flush().await.unwrap();
    host.write(0, 1).await;
    let gate = Arc::new(Gate::new());
    faults.script(Call::WriteImage, 0, Fault::Hold(gate.clone()));
    {
        let mut first = std::pin::pin!(host.disk.flush());
        tokio::select! {
            _ = &mut first => panic!("the round is held"),
            () = gate.arrived(1) => {}
        }
    }
    // Dropped in its middle: the layer it froze is taken by the next.
    assert_eq!(host.volume.unfinished(), 1);
    host.write(1, 2).await;
    host.disk.flush().await.unwrap();
    let disk = published(&faults.store(), "vm").await;
    assert_eq!((disk[0], disk[BLOCK_SIZE], host.volume.unfinished()), (1, 2, 0));
}

#[tokio::test]
async fn an_outage_fails_flushes_and_nothing_else() {
    let faults = FaultStore::new(memory(), 1);
    let host = Host::new(&faults.store(), 1, None).await;
    host.disk.flush().await.unwrap();
    faults.outage(Some(ErrorKind::Unavailable));
    for round in 1..20 {
        host.write(round, round as u8).await;
        assert_eq!(host.disk.flush().await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(host.volume.unfinished() <= 1, "an outage costs one layer");
    }
    let status = host.replicator.status();
    assert_eq!((status.state, status.failures), (ReplicationState::Failing, 19));
    assert!(status.last_error.unwrap().report().contains("injected"));
    let mut block = [0; 1];
    host.disk.read(19 * BLOCK_SIZE as u64, &mut block).await.unwrap();
    assert_eq!(block, [19]);
    // The last flush of a server whose clients are gone reaches this host, which is all that can be had.
    host.local.store(true, Ordering::Release);
    host.disk.flush().await.unwrap();
    host.local.store(false, Ordering::Release);
    faults.outage(None);
    host.disk.flush().await.unwrap();
    for round in 1..20 {
        assert_eq!(byte_of(&faults.store(), round).await, round as u8);
    }
    assert_eq!((host.state(), host.volume.unfinished()), (ReplicationState::Current, 0));
}

/// Row 38.
#[tokio::test]
async fn a_zombie_can_not_publish_even_before_the_new_owner_has() {
    let store = memory();
    let old = Host::new(&store, 1, None).await;
    old.write(0, 1).await;
    old.disk.flush().await.unwrap();
    let before = record(&store, "vm").await.writer_epoch;
    let new = Host::new(&store, 2, Some("vm")).await;
    // Its state is the image's newest, so it takes the name over and publishes nothing yet.
    new.replicator.round().await.unwrap();
    assert_ne!(record(&store, "vm").await.writer_epoch, before);
    assert_eq!(record(&store, "vm").await.history.len(), 1);
    old.write(0, 9).await;
    for _ in 0..2 {
        let error = old.disk.flush().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.report().contains("'gabion checkpoint"), "{error:?}");
    }
    assert_eq!(old.state(), ReplicationState::Displaced);
    // It ends by itself.
    old.replicator.run(&CancellationToken::new()).await;
    // Its own hand can't do either what replication can't.
    assert_eq!(old.checkpoint("vm").await.unwrap_err().kind(), ErrorKind::Conflict);
    new.write(1, 2).await;
    new.disk.flush().await.unwrap();
    let disk = published(&store, "vm").await;
    assert_eq!((disk[0], disk[BLOCK_SIZE]), (1, 2));
    // What the old one has is published under another name.
    old.checkpoint("saved").await.unwrap();
    assert_eq!(published(&store, "saved").await[0], 9);
    assert_eq!(old.state(), ReplicationState::Displaced);
}

#[tokio::test]
async fn two_that_make_the_image_at_once_do_not_share_it() {
    let faults = FaultStore::new(memory(), 1);
    let store = faults.store();
    let (a, b) = (Host::new(&store, 1, None).await, Host::new(&store, 2, None).await);
    b.write(5, 5).await;
    let gate = Arc::new(Gate::new());
    faults.script(Call::WriteImage, 0, Fault::Hold(gate.clone()));
    let mut first = std::pin::pin!(a.replicator.round());
    tokio::select! {
        _ = &mut first => panic!("the round is held"),
        () = gate.arrived(1) => {}
    }
    b.replicator.round().await.unwrap();
    gate.open();
    assert_eq!(first.await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(a.replicator.status().epoch, None);
    // The loser has nothing to do with what the other one made.
    assert_eq!(a.replicator.round().await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!((a.state(), a.replicator.status().epoch), (ReplicationState::Displaced, None));
    b.write(0, 1).await;
    b.replicator.round().await.unwrap();
}

#[tokio::test]
async fn a_displaced_writer_does_not_take_the_name_back_unasked() {
    let store = memory();
    let old = Host::new(&store, 1, None).await;
    old.write(0, 1).await;
    old.replicator.round().await.unwrap();
    // A restart of its own goes on: from its base, and from what came before that.
    old.restarted().round().await.unwrap();
    old.checkpoint("other").await.unwrap();
    old.write(0, 2).await;
    old.checkpoint("other").await.unwrap();
    old.restarted().round().await.unwrap();
    assert_eq!(byte_of(&store, 0).await, 2);

    let new = Host::new(&store, 2, Some("vm")).await;
    new.write(0, 7).await;
    new.replicator.round().await.unwrap();
    let epoch = record(&store, "vm").await.writer_epoch;
    old.write(0, 3).await;
    let back = old.restarted();
    for _ in 0..2 {
        let refused = back.round().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        let said = refused.report();
        assert!(said.contains("'gabion checkpoint VOLUME OTHER'") && said.contains("--take-over"), "{said}");
    }
    assert_eq!(back.status().state, ReplicationState::Displaced);
    assert!(back.displaced().is_some());
    assert_eq!((byte_of(&store, 0).await, record(&store, "vm").await.writer_epoch), (7, epoch));
    // Nothing became of it for the new one.
    new.write(0, 8).await;
    new.replicator.round().await.unwrap();
    // On purpose it does.
    let home = Home { store: store.clone(), nodes: nodes(&store), clock: old.clock.clone() };
    let taking = Replicator::new(old.volume.clone(), home, options("vm", 1), EVERY).take_over(true);
    taking.round().await.unwrap();
    assert_eq!(byte_of(&store, 0).await, 3);
    new.write(0, 9).await;
    assert_eq!(new.replicator.round().await.unwrap_err().kind(), ErrorKind::Conflict);
}

/// What the owner publishes between another one's look at the image and its claim is not covered by that.
#[tokio::test]
async fn a_claim_is_of_what_was_looked_at() {
    let store = memory();
    let old = Host::new(&store, 1, None).await;
    old.replicator.round().await.unwrap();
    let epoch = record(&store, "vm").await.writer_epoch;
    let faults = FaultStore::new(store.clone(), 1);
    let new = Host::new(&faults.store(), 2, Some("vm")).await;
    let gate = Arc::new(Gate::new());
    faults.script(Call::WriteImage, 0, Fault::Hold(gate.clone()));
    let (claimed, ()) = futures::join!(new.replicator.round(), async {
        gate.arrived(1).await;
        old.write(0, 5).await;
        old.disk.flush().await.unwrap();
        gate.open();
    });
    assert_eq!(claimed.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(new.state(), ReplicationState::Displaced);
    old.write(1, 6).await;
    old.disk.flush().await.unwrap();
    assert_eq!((byte_of(&store, 0).await, record(&store, "vm").await.writer_epoch), (5, epoch));
}

/// What was staged goes home before the first publish, and makes the image: that is no other writer's.
#[tokio::test]
async fn an_image_made_of_what_was_staged_is_its_own() {
    let store = memory();
    let host = Host::new(&store, 1, None).await;
    host.write(0, 1).await;
    let (beside, clock) = (store.clone(), host.clock.clone());
    let sent = Arc::new(AtomicBool::new(false));
    let replicator = host.restarted().before(Box::new(move || {
        let (beside, clock, sent) = (beside.clone(), clock.clone(), sent.clone());
        Box::pin(async move {
            if sent.swap(true, Ordering::Relaxed) {
                return Ok(());
            }
            let staged = Checkpoint::new(SIZE, None, Timestamp(5))?;
            let checkpoint = store_checkpoint(&beside, &staged).await?;
            let entry = HistoryEntry { checkpoint, size: SIZE, created: Timestamp(5) };
            let pin = Some(NewBase { volume: VolumeId::from_bytes([1; 16]), base: None });
            let image = name("vm");
            let what = Publish { epoch: Some(1), pin, ..Publish::append(&image, entry) };
            publish(&beside, &*clock, what).await.map(drop)
        })
    }));
    replicator.round().await.unwrap();
    let record = record(&store, "vm").await;
    assert_eq!((record.history.len(), byte_of(&store, 0).await), (2, 1));
    assert_ne!(record.writer_epoch, 1);
    assert_eq!(replicator.status().epoch, Some(record.writer_epoch));
}

/// Killed after the image got its checkpoint, and before the volume's record did: it is its own.
#[tokio::test]
async fn what_a_killed_writer_published_is_its_own() {
    let store = memory();
    let killed = Host::new(&store, 1, None).await;
    killed.write(0, 1).await;
    killed.replicator.round().await.unwrap();
    let again = Host::new(&store, 1, None).await;
    again.write(0, 2).await;
    again.replicator.round().await.unwrap();
    assert_eq!(byte_of(&store, 0).await, 2);
    let other = Host::new(&store, 3, None).await;
    assert_eq!(other.replicator.round().await.unwrap_err().kind(), ErrorKind::Conflict);
}

/// A volume's folder that was put back from a copy is behind what the volume published since.
#[tokio::test]
async fn an_older_copy_of_a_volume_covers_nothing() {
    let store = memory();
    let lost = Host::new(&store, 1, None).await;
    for byte in 1..4 {
        lost.write(0, byte).await;
        lost.replicator.round().await.unwrap();
    }
    let copy = Host::new(&store, 1, None).await;
    copy.write(0, 9).await;
    assert_eq!(copy.replicator.round().await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!((copy.state(), byte_of(&store, 0).await), (ReplicationState::Displaced, 3));
}

#[tokio::test]
async fn checkpoints_by_hand_are_not_published_twice_and_not_missed() {
    let store = memory();
    let host = Host::new(&store, 1, None).await;
    host.write(0, 1).await;
    host.replicator.round().await.unwrap();
    host.write(0, 2).await;
    let by_hand = host.checkpoint("vm").await.unwrap();
    host.replicator.round().await.unwrap();
    let history = record(&store, "vm").await.history;
    assert_eq!((history.len(), history[0].checkpoint), (2, by_hand));
    // To another image: the volume stands on what its own image does not have.
    host.write(0, 3).await;
    host.checkpoint("other").await.unwrap();
    assert_eq!(byte_of(&store, 0).await, 2);
    host.replicator.round().await.unwrap();
    assert_eq!(byte_of(&store, 0).await, 3);
}

#[tokio::test]
async fn an_image_that_was_removed_is_made_anew() {
    let store = memory();
    let host = Host::new(&store, 1, None).await;
    host.replicator.round().await.unwrap();
    crate::ops::remove(&store, &name("vm")).await.unwrap();
    host.write(0, 1).await;
    let _refused_or_done = host.replicator.round().await;
    host.replicator.round().await.unwrap();
    assert_eq!(byte_of(&store, 0).await, 1);
}

#[tokio::test(start_paused = true)]
async fn rounds_come_at_intervals_and_less_often_after_failures() {
    let faults = FaultStore::new(memory(), 1);
    let host = Host::new(&faults.store(), 1, None).await;
    let cancel = CancellationToken::new();
    let running = tokio::spawn({
        let (replicator, cancel) = (host.replicator.clone(), cancel.clone());
        async move { replicator.run(&cancel).await }
    });
    let start = tokio::time::Instant::now();
    let at = |seconds| tokio::time::sleep_until(start + Duration::from_secs(seconds));
    // The first at once.
    at(1).await;
    assert_eq!(host.state(), ReplicationState::Current);
    host.write(0, 1).await;
    at(29).await;
    assert_eq!(host.state(), ReplicationState::Behind);
    at(31).await;
    assert_eq!(host.state(), ReplicationState::Current);
    faults.outage(Some(ErrorKind::Unavailable));
    host.write(0, 2).await;
    // At 60, then after 60, 120 and 240 seconds, and so on.
    at(61 + 60 + 120 + 240 + 240).await;
    assert_eq!(host.replicator.status().failures, 5);
    faults.outage(None);
    at(61 + 60 + 120 + 240 + 240 + 240).await;
    assert_eq!(host.state(), ReplicationState::Current);
    assert_eq!(byte_of(&faults.store(), 0).await, 2);
    cancel.cancel();
    running.await.unwrap();
}

#[derive(Clone, Debug)]
enum Op {
    Write { block: u64, seed: u64 },
    Flush,
    Round,
    ByHand,
    Takeover,
    Chaos(bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (0..SIZE / BLOCK_SIZE as u64, any::<u64>()).prop_map(|(block, seed)| Op::Write { block, seed }),
        3 => Just(Op::Flush),
        2 => Just(Op::Round),
        1 => Just(Op::ByHand),
        1 => Just(Op::Takeover),
        1 => any::<bool>().prop_map(Op::Chaos),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever fails before or after its effect: a flush that succeeds has published exactly the disk, and one
    /// that does not has lost nothing.
    #[test]
    fn a_flush_that_succeeds_has_published_the_disk(seed in any::<u64>(), ops in prop::collection::vec(op(), 1..40)) {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap().block_on(async {
            let inner = memory();
            let faults = FaultStore::new(inner.clone(), seed);
            let host = Host::new(&faults.store(), 1, None).await;
            let mut model = vec![0; SIZE as usize];
            let mut chaos = false;
            for op in ops {
                faults.chaos(
                    if chaos { 6 } else { 0 },
                    vec![Fault::Before(ErrorKind::Unavailable), Fault::After(ErrorKind::Unavailable)],
                );
                match op {
                    Op::Write { block, seed } => {
                        let at = block as usize * BLOCK_SIZE;
                        model[at..at + BLOCK_SIZE].copy_from_slice(&noise(BLOCK_SIZE, seed));
                        let data = Bytes::copy_from_slice(&model[at..at + BLOCK_SIZE]);
                        host.disk.write(at as u64, data).await.unwrap();
                    }
                    Op::Flush | Op::Round => {
                        let done = match op {
                            Op::Flush => host.disk.flush().await,
                            _ => host.replicator.round().await,
                        };
                        match done {
                            Ok(()) => assert!(published(&inner, "vm").await == model),
                            Err(e) => assert!(
                                matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Conflict | ErrorKind::AlreadyExists),
                                "{e:?}"
                            ),
                        }
                    }
                    Op::ByHand => if host.checkpoint("other").await.is_ok() {
                        assert!(published(&inner, "other").await == model);
                    },
                    Op::Takeover => {
                        let thief = claim(&inner, &name("vm")).await;
                        if thief.is_ok() && host.replicator.status().epoch.is_some() {
                            host.write(0, 1).await;
                            model[..BLOCK_SIZE].fill(1);
                            let before = published(&inner, "vm").await;
                            assert!(host.disk.flush().await.is_err());
                            assert!(published(&inner, "vm").await == before);
                        }
                    }
                    Op::Chaos(on) => chaos = on,
                }
                let mut disk = vec![0xEE; SIZE as usize];
                faults.chaos(0, Vec::new());
                host.volume.read(0, &mut disk).await.unwrap();
                assert!(disk == model);
            }
        });
    }
}
