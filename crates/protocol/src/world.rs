//! One row at the source, on its way, in the queue, and in the mirror.

use nxt_mirror::domain::settle::{Doubted, Known, Observed, Then, Verdict, decide};

use super::{bounds::Bounds, clocks::Clocks};

mod reduction;

/// Seconds since the beginning, by the database's clock.
pub type Moment = u16;

/// How late a DELETE's notification is stamped, in seconds.
const STAMPED_LATE: Moment = 1;
/// A pause that is longer than the window within which two times do not tell which was first.
const LONG: Moment = 200;

/// Whether the rules are the product's, or broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rules {
    /// Those of the product.
    Product,
    /// A verdict clears the dirty row, whatever has been notified since it was claimed.
    ClearsWhateverCame,
    /// A row that becomes dirty again counts its generations from 1 anew.
    CountsGenerations,
    /// A row that a fetch does not find is removed, whatever others have settled since it was claimed.
    TrustsWhatIsOvertaken,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// The source writes the row, this long after what happened before.
    Change(Moment),
    /// The source deletes the row.
    Delete(Moment),
    /// A notification is stored and answered.
    Deliver(usize),
    /// A notification is stored, and the answer is lost.
    Repeat(usize),
    /// What is stored becomes dirty.
    Fold,
    /// A worker claims the row.
    Claim(usize),
    /// A worker settles the row without a request, or starts one.
    Begin(usize),
    /// A request reads the row.
    Read(usize),
    /// A request reads the row as it was before its last change.
    ReadLate(usize),
    /// A worker settles the row by what was read.
    Settle(usize),
    /// A worker is killed.
    Kill(usize),
    /// A worker stands still, and counts as dead.
    Freeze(usize),
    /// A walk asks for a page.
    WalkBegin,
    /// The page is read.
    WalkRead,
    /// The page is applied.
    WalkSettle,
}

/// The row, as the source or the mirror has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Row {
    /// Grows with each change.
    pub version: u8,
    /// How many deletions went before it.
    pub life: u8,
    /// When the source wrote it.
    pub changed_at: Moment,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Notice {
    Changed { at: Moment },
    Deleted { at: Moment },
}

/// A deletion that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gone {
    /// When the row went.
    pub at: Moment,
    /// When the database heard of it.
    pub received_at: Moment,
    /// Whether `at` is of the database's clock: a fetch found the row gone.
    pub is_found: bool,
}

/// The row, while it waits to be settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Dirty {
    /// Moves with each notification, and with each write by somebody else.
    pub generation: u8,
    /// The latest deletion that is announced.
    pub deletion: Option<Gone>,
    /// The latest change that is announced.
    pub announced: Option<Moment>,
    /// Answers that were not believed yet: there, not there.
    pub rechecks: (u8, u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Job {
    Idle,
    Claimed { dirty: Dirty },
    Asking { generation: u8, started_at: Moment },
    Answered { generation: u8, started_at: Moment, row: Option<Row> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Page {
    Idle,
    Asking { started_at: Moment },
    Answered { started_at: Moment, row: Option<Row> },
}

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    now: Moment,
    left: Bounds,
    source: Option<Row>,
    /// The row before its last change: what a copy that lags still has.
    before: Option<Row>,
    versions: u8,
    lives: u8,
    on_the_way: Vec<Notice>,
    /// Stored and not yet folded, with the time of arrival.
    ledger: Vec<(Notice, Moment)>,
    dirty: Option<Dirty>,
    generations: u8,
    mirror: Option<(Row, Moment)>,
    tombstone: Option<Gone>,
    jobs: [Job; 2],
    /// The worker that has the target's lease.
    lease: Option<usize>,
    page: Page,
    /// The newest version that a reader has seen.
    shown: u8,
    has_shown_a_second_life: bool,
    fault: Option<&'static str>,
}

impl World {
    /// The beginning: nothing is anywhere.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            now: 0,
            left: bounds,
            source: None,
            before: None,
            versions: 0,
            lives: 0,
            on_the_way: vec![],
            ledger: vec![],
            dirty: None,
            generations: 0,
            mirror: None,
            tombstone: None,
            jobs: [Job::Idle; 2],
            lease: None,
            page: Page::Idle,
            shown: 0,
            has_shown_a_second_life: false,
            fault: None,
        }
    }

    /// What a reader has seen that must never be.
    pub fn fault(&self) -> Option<&'static str> {
        self.fault
    }

    /// Nothing is under way or waits, and the source does not change any more.
    pub fn is_quiet(&self) -> bool {
        self.on_the_way.is_empty()
            && self.ledger.is_empty()
            && self.dirty.is_none()
            && self.jobs == [Job::Idle; 2]
            && self.page == Page::Idle
    }

    /// The mirror is as the source.
    pub fn is_equal(&self) -> bool {
        self.mirror.map(|(row, _)| row) == self.source
    }

    /// A reader has seen the row after it was made again.
    pub fn has_shown_a_second_life(&self) -> bool {
        self.has_shown_a_second_life
    }

    /// Both workers are about the row.
    pub fn is_held_twice(&self) -> bool {
        self.jobs.iter().all(|job| *job != Job::Idle)
    }

    /// What can happen next.
    pub fn actions(&self) -> Vec<Action> {
        let mut actions = vec![];
        if self.left.changes > 0 {
            actions.extend([Action::Change(1), Action::Change(LONG)]);
            if self.source.is_some() {
                actions.extend([Action::Delete(1), Action::Delete(LONG)]);
            }
        }
        actions.extend((0..self.on_the_way.len()).map(Action::Deliver));
        if self.left.repeats > 0 {
            actions.extend((0..self.on_the_way.len()).map(Action::Repeat));
        }
        if !self.ledger.is_empty() {
            actions.push(Action::Fold);
        }
        for worker in 0..self.jobs.len() {
            self.worker_actions(worker, &mut actions);
        }
        match self.page {
            Page::Idle if self.left.walks > 0 => actions.push(Action::WalkBegin),
            Page::Idle => {}
            Page::Asking { .. } => actions.push(Action::WalkRead),
            Page::Answered { .. } => actions.push(Action::WalkSettle),
        }
        actions
    }

    fn worker_actions(&self, worker: usize, actions: &mut Vec<Action>) {
        match self.jobs[worker] {
            Job::Idle if self.dirty.is_some() && self.lease.is_none() => actions.push(Action::Claim(worker)),
            Job::Idle => return,
            Job::Claimed { .. } => actions.push(Action::Begin(worker)),
            Job::Asking { .. } => {
                actions.push(Action::Read(worker));
                if self.left.lags > 0 && self.before != self.source {
                    actions.push(Action::ReadLate(worker));
                }
            }
            Job::Answered { .. } => actions.push(Action::Settle(worker)),
        }
        if self.left.kills > 0 && self.jobs[worker] != Job::Idle {
            actions.push(Action::Kill(worker));
        }
        if self.left.freezes > 0 && self.lease == Some(worker) && self.jobs[worker] != Job::Idle {
            actions.push(Action::Freeze(worker));
        }
    }

    /// The world after something has happened, or one that goes on as it does.
    pub fn reduced_after(&self, action: Action, clocks: Clocks) -> Self {
        self.after(action, clocks).reduced(clocks.rules)
    }

    /// The world after something has happened.
    pub fn after(&self, action: Action, clocks: Clocks) -> Self {
        let mut world = self.clone();
        match action {
            Action::Change(gap) => world.change(gap),
            Action::Delete(gap) => world.delete(gap),
            Action::Deliver(index) => {
                let notice = world.on_the_way.remove(index);
                world.store(notice);
            }
            Action::Repeat(index) => {
                world.left.repeats -= 1;
                world.store(world.on_the_way[index]);
            }
            Action::Fold => world.fold(clocks.rules),
            Action::Claim(worker) => {
                world.lease = Some(worker);
                world.jobs[worker] = world.dirty.map_or(Job::Idle, |dirty| Job::Claimed { dirty });
            }
            Action::Begin(worker) => world.begin(worker, clocks),
            Action::Read(worker) => world.read(worker, world.source),
            Action::ReadLate(worker) => {
                world.left.lags -= 1;
                world.read(worker, world.before);
            }
            Action::Settle(worker) => world.settle(worker, clocks),
            Action::Kill(worker) => {
                world.left.kills -= 1;
                world.give_back(worker);
            }
            Action::Freeze(_) => {
                world.left.freezes -= 1;
                world.lease = None;
            }
            Action::WalkBegin => {
                world.left.walks -= 1;
                world.now += 1;
                world.page = Page::Asking { started_at: world.now };
            }
            Action::WalkRead => {
                if let Page::Asking { started_at } = world.page {
                    world.page = Page::Answered { started_at, row: world.source };
                }
            }
            Action::WalkSettle => world.settle_page(clocks),
        }
        world
    }

    fn change(&mut self, gap: Moment) {
        self.left.changes -= 1;
        self.now += gap;
        self.before = self.source;
        self.versions += 1;
        self.source = Some(Row { version: self.versions, life: self.lives, changed_at: self.now });
        self.on_the_way.push(Notice::Changed { at: self.now });
        self.on_the_way.sort_unstable();
    }

    fn delete(&mut self, gap: Moment) {
        self.left.changes -= 1;
        self.now += gap;
        self.before = self.source;
        self.source = None;
        self.lives += 1;
        self.on_the_way.push(Notice::Deleted { at: self.now + STAMPED_LATE });
        self.on_the_way.sort_unstable();
    }

    fn store(&mut self, notice: Notice) {
        // A notification arrives after what it tells of.
        self.now += 1 + STAMPED_LATE;
        self.ledger.push((notice, self.now));
    }

    fn fold(&mut self, rules: Rules) {
        for (notice, received_at) in std::mem::take(&mut self.ledger) {
            let mut dirty = self.renewed(rules);
            dirty.rechecks = (0, 0);
            match notice {
                Notice::Changed { at } => dirty.announced = dirty.announced.max(Some(at)),
                Notice::Deleted { at } => {
                    let (before, received_before) = dirty.deletion.map_or((0, 0), |gone| (gone.at, gone.received_at));
                    dirty.deletion = Some(Gone {
                        at: at.max(before),
                        received_at: received_at.max(received_before),
                        is_found: false,
                    });
                }
            }
            self.dirty = Some(dirty);
        }
    }

    /// The dirty row, a new one if there is none, of a new generation.
    fn renewed(&mut self, rules: Rules) -> Dirty {
        let dirty = self.dirty.unwrap_or_default();
        self.generations += 1;
        let generation = if rules == Rules::CountsGenerations { dirty.generation + 1 } else { self.generations };
        Dirty { generation, ..dirty }
    }

    /// Marks the row without a notification, as a walk does.
    fn mark(&mut self, rules: Rules) {
        self.dirty = Some(self.renewed(rules));
    }

    fn begin(&mut self, worker: usize, clocks: Clocks) {
        let Job::Claimed { dirty } = self.jobs[worker] else { return };
        let evidence = clocks.evidence(Some(dirty));
        let known = Known { mirrored: clocks.mirrored(self.mirror), ..Known::default() };
        if dirty.deletion.is_some() && decide(&evidence, &known, Observed::Nothing) != Verdict::Fetch {
            self.conclude(worker, dirty.generation, None, clocks);
        } else {
            self.now += 1;
            self.jobs[worker] = Job::Asking { generation: dirty.generation, started_at: self.now };
        }
    }

    fn read(&mut self, worker: usize, row: Option<Row>) {
        if let Job::Asking { generation, started_at } = self.jobs[worker] {
            self.jobs[worker] = Job::Answered { generation, started_at, row };
        }
    }

    fn settle(&mut self, worker: usize, clocks: Clocks) {
        if let Job::Answered { generation, started_at, row } = self.jobs[worker] {
            self.conclude(worker, generation, Some((started_at, row)), clocks);
        }
    }

    /// One transaction: the verdict, the mirrored row, the tombstone, the dirty row.
    fn conclude(&mut self, worker: usize, generation: u8, seen: Option<(Moment, Option<Row>)>, clocks: Clocks) {
        self.give_back(worker);
        let is_overtaken = self.dirty.is_none_or(|dirty| dirty.generation != generation)
            && clocks.rules != Rules::TrustsWhatIsOvertaken;
        let then = self.carry_out(seen, Some(generation), is_overtaken, clocks);
        let Some(dirty) = &mut self.dirty else { return };
        let is_same = dirty.generation == generation || clocks.rules == Rules::ClearsWhateverCame;
        match then {
            Some(Then::Settled) if is_same => self.dirty = None,
            Some(Then::Recheck { counts: Some(Doubted::Found), .. }) if is_same => dirty.rechecks.0 += 1,
            Some(Then::Recheck { counts: Some(Doubted::Missing), .. }) if is_same => dirty.rechecks.1 += 1,
            Some(Then::Settled | Then::Recheck { .. }) | None => {}
        }
    }

    fn give_back(&mut self, worker: usize) {
        self.jobs[worker] = Job::Idle;
        if self.lease == Some(worker) {
            self.lease = None;
        }
    }

    /// Decides, and changes the mirror. Returns what follows; nothing where only the source can tell.
    fn carry_out(
        &mut self,
        seen: Option<(Moment, Option<Row>)>,
        claimed: Option<u8>,
        is_overtaken: bool,
        clocks: Clocks,
    ) -> Option<Then> {
        let before = self.mirror;
        let known = Known {
            mirrored: clocks.mirrored(self.mirror),
            tombstone: self.tombstone.map(|gone| clocks.deletion(gone)),
            ..Known::default()
        };
        let then = match decide(&clocks.evidence(self.dirty), &known, clocks.observed(seen, is_overtaken)) {
            Verdict::Write { then, .. } => {
                if let Some((started_at, Some(row))) = seen {
                    self.write(row, started_at);
                }
                Some(then)
            }
            Verdict::Remove { deletion, .. } => {
                let gone = match seen {
                    Some((at, _)) => self.found_gone(at, clocks),
                    None => self.dirty.and_then(|dirty| dirty.deletion).expect("a deletion was announced"),
                };
                assert_eq!(clocks.deletion(gone), deletion);
                self.remove(gone, clocks);
                Some(Then::Settled)
            }
            Verdict::Keep { then, .. } => Some(then),
            Verdict::Fetch => None,
        };
        // Who asks for the row meanwhile is overtaken.
        if self.mirror != before && self.dirty.is_some_and(|dirty| Some(dirty.generation) != claimed) {
            self.mark(clocks.rules);
        }
        then
    }

    /// What a request that started then says of a row that it did not find.
    fn found_gone(&self, started_at: Moment, clocks: Clocks) -> Gone {
        let by_start = Gone { at: started_at, received_at: started_at, is_found: true };
        let by_change = self.mirror.map(|(row, _)| Gone { at: row.changed_at, is_found: false, ..by_start });
        by_change.filter(|gone| clocks.deletion(*gone).at > clocks.deletion(by_start).at).unwrap_or(by_start)
    }

    fn write(&mut self, row: Row, started_at: Moment) {
        if row.version < self.shown {
            self.fault = Some("a reader saw an older row");
        }
        self.shown = row.version;
        self.has_shown_a_second_life |= row.life > 0;
        self.tombstone = None;
        if self.mirror.is_none_or(|(mirrored, _)| mirrored != row) {
            self.mirror = Some((row, started_at));
        }
    }

    fn remove(&mut self, gone: Gone, clocks: Clocks) {
        if self.mirror.is_some() && self.is_equal() {
            self.fault = Some("a row that lives was removed");
        }
        self.mirror = None;
        self.tombstone = Some(match self.tombstone {
            Some(earlier) if clocks.deletion(earlier).at > clocks.deletion(gone).at => {
                Gone { received_at: earlier.received_at.max(gone.received_at), ..earlier }
            }
            Some(earlier) => Gone { received_at: earlier.received_at.max(gone.received_at), ..gone },
            None => gone,
        });
    }

    fn settle_page(&mut self, clocks: Clocks) {
        let Page::Answered { started_at, row } = self.page else { return };
        self.page = Page::Idle;
        let mirrored = self.mirror.map(|(row, _)| row);
        let is_written_since = self.mirror.is_some_and(|(_, fetched_at)| fetched_at >= started_at);
        match row {
            Some(_) if row == mirrored => {}
            Some(_) => {
                if let Some(Then::Recheck { .. }) = self.carry_out(Some((started_at, row)), None, false, clocks) {
                    self.mark(clocks.rules);
                }
            }
            // A row that the walk has not met is asked for.
            None if mirrored.is_some() && !is_written_since => self.mark(clocks.rules),
            None => {}
        }
    }
}
