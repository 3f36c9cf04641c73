//! A property of the settling rules: whatever the order of changes, deliveries and fetches, the mirror ends in the truth.

use chrono::{TimeZone, Utc};

use super::{
    settle::{Announcement, Deletion, Evidence, Known, Mirrored, Observed, Then, Verdict, decide},
    time::{DatabaseTime, SourceTime},
};

/// Seconds on the mirror's clock.
fn d(seconds: i64) -> DatabaseTime {
    DatabaseTime::new(Utc.timestamp_opt(1_770_000_000 + seconds, 0).unwrap())
}

/// Seconds on the source's clock.
fn s(seconds: i64) -> SourceTime {
    SourceTime::as_if(d(seconds))
}

/// One row in a small world: a source, notifications on their way, a mirror and a worker.
struct World {
    now: i64,
    /// What the source's clock adds to the mirror's.
    skew: i64,
    /// Whether webhooks tell `ChangedTimestamp`.
    dated: bool,
    source: Option<i64>,
    on_their_way: Vec<(bool, i64)>,
    dirty: bool,
    generation: u32,
    evidence: Evidence,
    known: Known,
    mirror: Option<i64>,
    under_way: Option<(u32, Observed, Option<i64>)>,
}

impl World {
    fn new(skew: i64, dated: bool) -> Self {
        Self {
            now: 0,
            skew,
            dated,
            source: None,
            on_their_way: vec![],
            dirty: false,
            generation: 0,
            evidence: Evidence::default(),
            known: Known::default(),
            mirror: None,
            under_way: None,
        }
    }

    fn change(&mut self, delete: bool) {
        self.now += 1;
        let at = self.now + self.skew;
        match (delete, self.source) {
            (true, None) => return,
            (true, Some(_)) => self.source = None,
            (false, _) => self.source = Some(at),
        }
        self.on_their_way.push((delete, at));
    }

    fn deliver(&mut self, index: usize) {
        self.now += 1;
        let (delete, at) = self.on_their_way.remove(index);
        let evidence = &mut self.evidence;
        if delete {
            let known = evidence.deletion.map_or(i64::MIN, |deletion| (deletion.at - s(0)).num_seconds());
            evidence.deletion = Some(Deletion { at: s(at.max(known)), received_at: d(self.now) });
        } else {
            let changed_at = self.dated.then(|| s(at));
            let latest = match evidence.announcement {
                Some(earlier) => earlier.changed_at.zip(changed_at).map(|(one, other)| one.max(other)),
                None => changed_at,
            };
            evidence.announcement = Some(Announcement { changed_at: latest });
        }
        evidence.rechecks = 0;
        self.generation += 1;
        self.dirty = true;
    }

    /// Starts a fetch, or applies what needs none.
    fn begin(&mut self) {
        if !self.dirty || self.under_way.is_some() {
            return;
        }
        self.now += 1;
        match decide(&self.evidence, &self.known, Observed::Nothing) {
            Verdict::Remove { deletion, .. } => {
                self.remove(deletion);
                self.finish();
            }
            Verdict::Keep { then: Then::Settled, .. } => self.finish(),
            Verdict::Fetch => {
                let started_at = d(self.now);
                let observed = match self.source {
                    Some(at) => Observed::Found { started_at, changed_at: Some(s(at)) },
                    None => Observed::Missing { started_at },
                };
                self.under_way = Some((self.generation, observed, self.source));
            }
            other => panic!("without a fetch: {other:?}"),
        }
    }

    fn end(&mut self) {
        let Some((generation, observed, row)) = self.under_way.take() else { return };
        self.now += 1;
        let then = match decide(&self.evidence, &self.known, observed) {
            Verdict::Write { then, .. } => {
                let (Some(at), Observed::Found { started_at, .. }) = (row, observed) else {
                    panic!("only a found row is written")
                };
                if self.mirror != row {
                    self.known.mirrored = Some(Mirrored { changed_at: Some(s(at)), fetched_at: started_at });
                }
                self.mirror = row;
                self.known.tombstone = None;
                then
            }
            Verdict::Remove { deletion, .. } => {
                self.remove(deletion);
                Then::Settled
            }
            Verdict::Keep { then, .. } => then,
            Verdict::Fetch => panic!("the source was asked"),
        };
        match then {
            Then::Settled if generation == self.generation => self.finish(),
            Then::Settled => {}
            Then::Recheck { pause, counts } => {
                self.now += pause.num_seconds();
                if generation == self.generation && counts {
                    self.evidence.rechecks += 1;
                }
            }
        }
    }

    fn remove(&mut self, deletion: Deletion) {
        self.mirror = None;
        self.known.mirrored = None;
        let later = |earlier: Deletion| Deletion {
            at: earlier.at.max(deletion.at),
            received_at: earlier.received_at.max(deletion.received_at),
        };
        self.known.tombstone = Some(self.known.tombstone.map_or(deletion, later));
    }

    fn finish(&mut self) {
        self.dirty = false;
        self.evidence = Evidence::default();
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4_000))]

    /// Up to six changes, delivered in any order, with fetches under way at any time and clocks that disagree.
    #[test]
    fn every_order_of_events_and_fetches_ends_in_the_truth(
        steps in proptest::collection::vec((0..6_u8, proptest::prelude::any::<usize>(), 0..120_i64), 1..40),
        skew in proptest::sample::select(vec![0, -3_600, 3_600]),
        dated in proptest::prelude::any::<bool>(),
    ) {
        let mut world = World::new(skew, dated);
        let mut changes = 0;
        for (step, choice, gap) in steps {
            world.now += gap;
            match step {
                0 | 1 if changes < 6 => {
                    changes += 1;
                    world.change(step == 1);
                }
                2 | 3 if !world.on_their_way.is_empty() => world.deliver(choice % world.on_their_way.len()),
                4 => world.begin(),
                _ => world.end(),
            }
        }
        while !world.on_their_way.is_empty() {
            world.deliver(world.on_their_way.len() - 1);
        }
        let mut turns = 0;
        while world.dirty || world.under_way.is_some() {
            world.begin();
            world.end();
            turns += 1;
            proptest::prop_assert!(turns < 50, "never settles");
        }
        proptest::prop_assert_eq!(world.mirror, world.source);
    }
}
