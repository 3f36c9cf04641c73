//! The one bisection: finds which of the items that failed together are to blame.
//!
//! What fails is cut into parts, which are tried apart; what fails of these is cut again, until culprits stand alone.
//! Does nothing itself: the caller says what a try is, a part of a request or a savepoint of a transaction.

use std::collections::VecDeque;

/// Parts of a round from which on it says something about how many items are bad.
const PARTS_TELLING: usize = 8;

/// How far a search may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Parts that are tried in one attempt.
    parts_max: usize,
    /// Attempts at most; what is still unclear then is left unresolved.
    attempts_max: usize,
    /// Whether each item is tried alone from the start.
    are_suspects: bool,
}

impl Limits {
    /// Limits of a search among items of which nothing is known.
    pub const fn new(parts_max: usize, attempts_max: usize) -> Self {
        Self { parts_max, attempts_max, are_suspects: false }
    }

    /// The same among items that failed before, most of which will be bad: each is tried alone from the start.
    pub fn among_suspects(self, are_suspects: bool) -> Self {
        Self { are_suspects, ..self }
    }
}

/// What came of one part.
#[derive(Debug)]
pub enum Trial<T, D, E> {
    /// It worked.
    Done(D),
    /// It failed: at least one of the items is to blame.
    Failed {
        /// The items, given back.
        items: Vec<T>,
        /// Why.
        error: E,
    },
    /// It failed for a reason that is none of the items', such as an outage: the search ends.
    Stopped {
        /// The items, given back.
        items: Vec<T>,
        /// Why.
        error: E,
    },
}

/// What a search has found. Each item is in exactly one of the three.
#[derive(Debug)]
pub struct Isolated<T, D, E> {
    /// Results of the parts that worked.
    pub done: Vec<D>,
    /// Items that failed alone, and why.
    pub culprits: Vec<(T, E)>,
    /// Items that failed together and were not told apart, with the last error.
    pub unresolved: Vec<(Vec<T>, E)>,
    /// Attempts made.
    pub attempts: usize,
}

/// Tells apart items that failed together with this error. An attempt is given parts and returns one trial for each, in
/// their order.
pub async fn isolate<T, D, E, F, R>(items: Vec<T>, error: E, limits: Limits, mut attempt: F) -> Isolated<T, D, E>
where
    E: Clone,
    F: FnMut(Vec<Vec<T>>) -> R,
    R: Future<Output = Vec<Trial<T, D, E>>>,
{
    let mut search = Search::new(items, error, limits.are_suspects);
    while search.goes_on(limits) {
        let parts = search.next_parts(limits.parts_max.max(1));
        let count = parts.len();
        let trials = attempt(parts).await;
        assert_eq!(trials.len(), count, "an attempt returns one trial for each part");
        search.take(trials);
    }
    search.finish()
}

/// The same with one part after the other; an attempt gives its part back beside what came of it. `blame` says why items
/// are to blame for an error; one that they are not to blame for ends the search.
pub async fn isolate_in_turn<T, D, E, X, F, R>(
    items: Vec<T>,
    error: X,
    limits: Limits,
    attempt: F,
    blame: impl Fn(&X) -> Option<E>,
) -> Result<Isolated<T, D, E>, X>
where
    E: Clone,
    F: Fn(Vec<T>) -> R,
    R: Future<Output = (Vec<T>, Result<D, X>)>,
{
    let Some(reason) = blame(&error) else { return Err(error) };
    let mut search = Search::new(items, reason, limits.are_suspects);
    while search.goes_on(limits) {
        let mut trials = vec![];
        for items in search.next_parts(limits.parts_max.max(1)) {
            trials.push(match attempt(items).await {
                (_, Ok(done)) => Trial::Done(done),
                (items, Err(error)) => Trial::Failed { items, error: blame(&error).ok_or(error)? },
            });
        }
        search.take(trials);
    }
    Ok(search.finish())
}

struct Group<T, E> {
    items: Vec<T>,
    /// Why these items, or more of them, failed.
    error: E,
    /// Whether they failed exactly as they stand.
    has_failed: bool,
}

struct Search<T, D, E> {
    queue: VecDeque<Group<T, E>>,
    found: Isolated<T, D, E>,
    /// Most items seem to be bad, so that cutting in halves would be a detour.
    is_dense: bool,
    is_stopped: bool,
}

impl<T, D, E: Clone> Search<T, D, E> {
    fn new(items: Vec<T>, error: E, is_dense: bool) -> Self {
        let found = Isolated { done: vec![], culprits: vec![], unresolved: vec![], attempts: 0 };
        let group = (!items.is_empty()).then_some(Group { items, error, has_failed: true });
        Self { queue: group.into_iter().collect(), found, is_dense, is_stopped: false }
    }

    fn goes_on(&self, limits: Limits) -> bool {
        !self.queue.is_empty() && !self.is_stopped && self.found.attempts < limits.attempts_max
    }

    fn next_parts(&mut self, parts_max: usize) -> Vec<Vec<T>> {
        let mut parts = Vec::new();
        while parts.len() < parts_max
            && let Some(group) = self.queue.pop_front()
        {
            if group.has_failed {
                self.cut(group, parts_max - parts.len());
            } else {
                parts.push(group.items);
            }
        }
        parts
    }

    /// Puts the parts of a group in its place.
    fn cut(&mut self, group: Group<T, E>, places: usize) {
        let len = group.items.len();
        let failed = 1 + self.queue.iter().filter(|group| group.has_failed).count();
        let count = if self.is_dense { len } else { (places / failed).max(2).min(len) };
        let mut rest = group.items;
        let mut pieces = Vec::with_capacity(count);
        for remaining in (1..=count).rev() {
            let others = rest.split_off(rest.len().div_ceil(remaining));
            pieces.push(std::mem::replace(&mut rest, others));
        }
        for items in pieces.into_iter().rev() {
            self.queue.push_front(Group { items, error: group.error.clone(), has_failed: false });
        }
    }

    fn take(&mut self, trials: Vec<Trial<T, D, E>>) {
        self.found.attempts += 1;
        let (count, mut failed) = (trials.len(), 0);
        for trial in trials {
            match trial {
                Trial::Done(done) => self.found.done.push(done),
                Trial::Failed { mut items, error } if items.len() == 1 => {
                    failed += 1;
                    self.found.culprits.extend(items.pop().map(|item| (item, error)));
                }
                Trial::Failed { items, error } => {
                    failed += 1;
                    self.queue.push_back(Group { items, error, has_failed: true });
                }
                Trial::Stopped { items, error } => {
                    self.is_stopped = true;
                    self.found.unresolved.push((items, error));
                }
            }
        }
        self.is_dense = count >= PARTS_TELLING && failed * 4 >= count * 3;
    }

    fn finish(mut self) -> Isolated<T, D, E> {
        self.found.unresolved.extend(self.queue.into_iter().map(|group| (group.items, group.error)));
        self.found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    type Found = Isolated<u32, Vec<u32>, &'static str>;

    fn search(count: u32, bad: &BTreeSet<u32>, limits: Limits) -> Found {
        let attempt = |parts: Vec<Vec<u32>>| {
            assert!(parts.len() <= limits.parts_max && parts.iter().all(|part| !part.is_empty()));
            let trial = |items: Vec<u32>| match items.iter().any(|item| bad.contains(item)) {
                true => Trial::Failed { items, error: "bad" },
                false => Trial::Done(items),
            };
            std::future::ready(parts.into_iter().map(trial).collect())
        };
        isolate((0..count).collect(), "all", limits, attempt).now_or_never().expect("nothing waits")
    }

    fn all(found: &Found) -> Vec<u32> {
        let mut all: Vec<u32> = found.done.concat();
        all.extend(found.culprits.iter().map(|(item, _)| item));
        all.extend(found.unresolved.iter().flat_map(|(items, _)| items));
        all.sort_unstable();
        all
    }

    proptest! {
        #[test]
        fn exactly_the_culprits_are_found(
            count in 1_u32..300,
            bad in proptest::collection::btree_set(0_u32..300, 0..40),
            parts_max in 1_usize..70,
        ) {
            let found = search(count, &bad, Limits::new(parts_max, usize::MAX));
            let culprits: BTreeSet<u32> = found.culprits.iter().map(|(item, _)| *item).collect();
            prop_assert_eq!(culprits, bad.range(..count).copied().collect());
            prop_assert!(found.unresolved.is_empty());
            prop_assert_eq!(all(&found), (0..count).collect::<Vec<_>>());
        }

        #[test]
        fn no_item_is_lost_when_the_attempts_are_used_up(
            count in 0_u32..300,
            bad in proptest::collection::btree_set(0_u32..300, 0..300),
            parts_max in 1_usize..70,
            attempts_max in 0_usize..10,
        ) {
            let found = search(count, &bad, Limits::new(parts_max, attempts_max));
            prop_assert!(found.attempts <= attempts_max);
            prop_assert_eq!(all(&found), (0..count).collect::<Vec<_>>());
            prop_assert!(found.culprits.iter().all(|(item, _)| bad.contains(item)));
        }

        #[test]
        fn one_culprit_costs_few_attempts(count in 2_u32..2_000, place in 0.0..1.0, parts_max in 2_usize..65) {
            let bad = BTreeSet::from([(f64::from(count) * place) as u32]);
            let found = search(count, &bad, Limits::new(parts_max, usize::MAX));
            let bound = f64::from(count).log(parts_max as f64).ceil() as usize + 1;
            prop_assert!(found.attempts <= bound, "{} > {bound}", found.attempts);
        }
    }

    #[test]
    fn one_good_item_among_two_thousand_bad_ones_is_found() {
        let bad: BTreeSet<u32> = (0..2_001).filter(|&item| item != 1_234).collect();
        let found = search(2_001, &bad, Limits::new(64, 40));
        assert_eq!(found.done, [[1_234]]);
        assert_eq!((found.culprits.len(), found.unresolved.len()), (2_000, 0));
        assert!(found.attempts <= 33, "{}", found.attempts);
    }

    #[test]
    fn a_failure_that_is_none_of_the_items_ends_the_search() {
        let attempt = |parts: Vec<Vec<u32>>| {
            let mut trials: Vec<_> = parts.into_iter().map(Trial::Done).collect();
            if let Some(Trial::Done(items)) = trials.pop() {
                trials.push(Trial::Stopped { items, error: "away" });
            }
            std::future::ready(trials)
        };
        let limits = Limits::new(2, 100);
        let found = isolate((0..9).collect(), "all", limits, attempt).now_or_never().expect("nothing waits");
        assert_eq!((found.attempts, found.culprits.len()), (1, 0));
        assert_eq!(found.unresolved, [(vec![5, 6, 7, 8], "away")]);
    }
}
