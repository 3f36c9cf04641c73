//! Worlds that nothing can tell apart are made one, so that there are fewer of them to visit.

use super::{Dirty, Gone, Job, LONG, Moment, Notice, Page, Row, Rules, World};

/// The longest time that counts as short. The rules compare times by their order, and by whether more than a minute lies
/// between them.
const SHORT_MAX: Moment = 60;

impl World {
    /// The world that stands for all that go on as this one does.
    pub fn reduced(mut self, rules: Rules) -> Self {
        if self.left.lags == 0 {
            self.before = None;
        }
        // Rules that are broken on purpose look at what a generation's number is.
        if rules != Rules::CountsGenerations {
            self.forget_generations();
        }
        self.shorten_times();
        if self.jobs[0] > self.jobs[1] || self.jobs[0] == self.jobs[1] && self.lease == Some(1) {
            self.jobs.swap(0, 1);
            self.lease = self.lease.map(|worker| 1 - worker);
        }
        self
    }

    /// Of a generation only matters whether it is still the dirty row's.
    fn forget_generations(&mut self) {
        let current = self.dirty.map(|dirty| dirty.generation);
        let generations = self.jobs.iter_mut().filter_map(Job::generation);
        for generation in self.dirty.iter_mut().map(|dirty| &mut dirty.generation).chain(generations) {
            *generation = u8::from(Some(*generation) == current);
        }
        self.generations = 1;
    }

    /// Of times only matters their order, and whether little or much lies between two that follow each other.
    fn shorten_times(&mut self) {
        let mut times: Vec<Moment> = self.times().into_iter().map(|time| *time).collect();
        times.sort_unstable();
        times.dedup();
        let mut shortened = vec![0];
        for gap in times.windows(2).map(|pair| pair[1] - pair[0]) {
            shortened.push(shortened[shortened.len() - 1] + if gap > SHORT_MAX { LONG } else { 1 });
        }
        for time in self.times() {
            *time = shortened[times.binary_search(time).expect("one of them")];
        }
    }

    fn times(&mut self) -> Vec<&mut Moment> {
        let mut times = vec![&mut self.now];
        times.extend(self.source.iter_mut().chain(&mut self.before).map(Row::time));
        times.extend(self.on_the_way.iter_mut().map(Notice::time));
        times.extend(self.ledger.iter_mut().flat_map(|(notice, received_at)| [notice.time(), received_at]));
        times.extend(self.dirty.iter_mut().flat_map(Dirty::times));
        times.extend(self.mirror.iter_mut().flat_map(|(row, fetched_at)| [row.time(), fetched_at]));
        times.extend(self.tombstone.iter_mut().flat_map(Gone::times));
        times.extend(self.jobs.iter_mut().flat_map(Job::times));
        times.extend(self.page.times());
        times
    }
}

impl Row {
    fn time(&mut self) -> &mut Moment {
        &mut self.changed_at
    }
}

impl Notice {
    fn time(&mut self) -> &mut Moment {
        match self {
            Self::Changed { at } | Self::Deleted { at } => at,
        }
    }
}

impl Gone {
    fn times(&mut self) -> [&mut Moment; 2] {
        [&mut self.at, &mut self.received_at]
    }
}

impl Dirty {
    fn times(&mut self) -> impl Iterator<Item = &mut Moment> {
        self.deletion.iter_mut().flat_map(Gone::times).chain(&mut self.announced)
    }
}

impl Job {
    fn generation(&mut self) -> Option<&mut u8> {
        match self {
            Self::Idle => None,
            Self::Claimed { dirty } => Some(&mut dirty.generation),
            Self::Asking { generation, .. } | Self::Answered { generation, .. } => Some(generation),
        }
    }

    fn times(&mut self) -> Vec<&mut Moment> {
        match self {
            Self::Idle => vec![],
            Self::Claimed { dirty } => dirty.times().collect(),
            Self::Asking { started_at, .. } => vec![started_at],
            Self::Answered { started_at, row, .. } => answered(started_at, row),
        }
    }
}

impl Page {
    fn times(&mut self) -> Vec<&mut Moment> {
        match self {
            Self::Idle => vec![],
            Self::Asking { started_at } => vec![started_at],
            Self::Answered { started_at, row } => answered(started_at, row),
        }
    }
}

fn answered<'a>(started_at: &'a mut Moment, row: &'a mut Option<Row>) -> Vec<&'a mut Moment> {
    std::iter::once(started_at).chain(row.iter_mut().map(Row::time)).collect()
}
