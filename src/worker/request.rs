//! The way of one request: from claims to settled rows.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tracing::Instrument;

use super::{
    failure::Blame,
    places::{Place, SLOW},
    schedule::Worker,
};
use crate::{
    domain::{
        DatabaseTime, Observation, Row, RowKey, Target, TargetTable,
        settle::{self, Known, Observed, Verdict},
    },
    failpoint::Failpoint,
    mirror::MirrorError,
    queue::{Claim, DirtyRow, Priority},
    reconcile::Item,
    telemetry::{chain, spans},
    upstream::{Ask, AskError, Share, Sight, UpstreamError},
};

/// How often it is looked whether a request has become slow.
const SLOW_POLL: Duration = Duration::from_millis(100);

/// Claimed rows of one target, in its table's own terms. They are given back with it.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) table: TargetTable,
    /// Failures of the target, one after the other.
    pub(super) failures: u32,
    claim: Claim,
    /// Whether its rows have all failed before.
    is_of_suspects: bool,
    /// Rows to ask for.
    pub(super) rows: Vec<(DirtyRow, RowKey)>,
}

impl Work {
    /// Rows that failed before are a work of their own, so that they do not fail others once more.
    pub(super) fn of(mut claim: Claim, table: &TargetTable, failures: u32) -> impl Iterator<Item = Self> {
        let suspects = claim.split_off(|row| row.attempts > 0);
        let work =
            |(claim, is_of_suspects)| Self { table: table.clone(), failures, claim, is_of_suspects, rows: vec![] };
        [(claim, false), (suspects, true)].map(work).into_iter().filter(|work| work.len() > 0)
    }

    pub(super) fn is_of_suspects(&self) -> bool {
        self.is_of_suspects
    }

    /// Whether somebody waits for it who has not been kept waiting by its own fault.
    pub(super) fn is_urgent(&self) -> bool {
        self.priority() == Priority::Live && !self.is_of_suspects
    }

    pub(super) fn target(&self) -> &Target {
        &self.claim.target
    }

    pub(super) fn len(&self) -> usize {
        self.claim.rows.len()
    }

    pub(super) fn priority(&self) -> Priority {
        self.claim.rows.first().map_or(Priority::Live, |row| row.priority)
    }

    pub(super) fn ask(&self) -> Ask {
        Ask {
            tenant: self.table.tenant,
            table: self.table.table.clone(),
            keys: self.rows.iter().map(|(_, key)| key.clone()).collect(),
        }
    }

    /// Puts the claimed rows into the table's own terms. Returns those that do not fit, and why.
    fn resolve(&mut self) -> Vec<(DirtyRow, String)> {
        let mut unfit = vec![];
        for row in std::mem::take(&mut self.claim.rows) {
            match row.key.resolve(&self.table.table) {
                Ok(key) => self.rows.push((row, key)),
                Err(error) => unfit.push((row, error.to_string())),
            }
        }
        unfit
    }
}

impl Worker {
    /// Settles what needs no request, asks for the rest, and settles each target as its answer comes.
    pub(super) async fn serve(&self, mut works: Vec<Work>, share: Share, place: Place) {
        Failpoint::Claimed.pass();
        for work in &mut works {
            let unfit = work.resolve();
            self.set_rows_aside(&work.table, unfit).await;
        }
        let certain = works.iter_mut().map(|work| self.settle_certain(work));
        join_all(certain).await;
        if self.parts.upstream.is_away() {
            join_all(works.iter_mut().map(|work| self.put_off(work))).await;
            return;
        }
        works.retain(|work| !work.rows.is_empty());
        if !works.is_empty() {
            self.ask(works, share, place).await;
        }
    }

    /// Applies the deletions that need no request.
    async fn settle_certain(&self, work: &mut Work) {
        match self.certain(work).await {
            Ok(certain) => {
                let items = certain.into_iter().map(|(claimed, key)| Item { claimed, key, seen: None }).collect();
                self.apply(work, items).await;
            }
            Err(error) => self.mirror_failed(work, &error.diagnose()).await,
        }
    }

    /// Takes out the rows whose deletion is certain.
    async fn certain(&self, work: &mut Work) -> Result<Vec<(DirtyRow, RowKey)>, MirrorError> {
        let (deleted, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut work.rows).into_iter().partition(|(row, _)| row.evidence.deletion.is_some());
        work.rows = others;
        if deleted.is_empty() {
            return Ok(vec![]);
        }
        let keys: Vec<RowKey> = deleted.iter().map(|(_, key)| key.clone()).collect();
        let mirrored = self.parts.mirror.known_now(&work.table, &keys).await?;
        let mut certain = vec![];
        for ((row, key), mirrored) in deleted.into_iter().zip(mirrored) {
            let known = Known { mirrored, ..Known::default() };
            match settle::decide(&row.evidence, &known, Observed::Nothing) {
                Verdict::Fetch => work.rows.push((row, key)),
                Verdict::Write { .. } | Verdict::Remove { .. } | Verdict::Keep { .. } => certain.push((row, key)),
            }
        }
        Ok(certain)
    }

    async fn ask(&self, works: Vec<Work>, share: Share, place: Place) {
        let asks: Vec<Ask> = works.iter().map(Work::ask).collect();
        let Some((answers, elapsed)) = self.exchange(asks, works.len() > 1, share, place).await else {
            tracing::debug!(targets = works.len(), "a shared request is slow, its targets are asked for apart");
            self.places.set_apart(works.iter().map(|work| work.target().id), Instant::now());
            return;
        };
        match answers {
            Ok(answers) => {
                Failpoint::Fetched.pass();
                let parts = works.into_iter().zip(answers).map(|(work, answer)| async move {
                    match answer {
                        Ok(sights) => self.take(work, sights, elapsed).await,
                        Err(error) => self.part_failed(work, &error, share).await,
                    }
                });
                join_all(parts).await;
            }
            Err(error) => self.request_failed(works, &error, share).await,
        }
    }

    /// Sends a request. One that is shared and slow is no longer waited for: `None`, and it comes to its own end.
    async fn exchange(
        &self,
        asks: Vec<Ask>,
        is_shared: bool,
        share: Share,
        place: Place,
    ) -> Option<(Result<Answers, UpstreamError>, Duration)> {
        let started = Instant::now();
        let (upstream, sent) = (self.parts.upstream.clone(), place.sent());
        if !is_shared {
            let answers = upstream.fetch_telling(&asks, share, &|| sent.note()).await;
            return Some((answers, sent.elapsed().unwrap_or_else(|| started.elapsed())));
        }
        let noted = sent.clone();
        let mut asking = self.tasks.spawn(
            async move {
                let answers = upstream.fetch_telling(&asks, share, &|| noted.note()).await;
                drop(place);
                answers
            }
            .in_current_span(),
        );
        let slow = async {
            while sent.elapsed().is_none_or(|elapsed| elapsed < SLOW) {
                tokio::time::sleep(SLOW_POLL).await;
            }
        };
        tokio::select! {
            answers = &mut asking => match answers {
                Ok(answers) => Some((answers, sent.elapsed().unwrap_or_default())),
                Err(error) => {
                    tracing::error!(%error, "a request panicked");
                    None
                }
            },
            () = slow => {
                sent.abandon();
                None
            }
        }
    }

    /// Settles what an answer tells of one target.
    pub(super) async fn take(&self, work: Work, sights: Vec<Sight>, elapsed: Duration) {
        let mut work = work;
        let _unwritten = self.places.write_later(work.target().id);
        self.places.answered(work.target(), elapsed);
        let (mut items, mut unreadable) = (vec![], vec![]);
        for ((claimed, key), sight) in std::mem::take(&mut work.rows).into_iter().zip(sights) {
            match seen(sight) {
                Ok(seen) => items.push(Item { claimed, key, seen: Some(seen) }),
                Err(problem) => unreadable.push((claimed, problem)),
            }
        }
        if !unreadable.is_empty() {
            // A column may have widened since the table was described.
            self.tables.misdescribed(work.target());
            self.rows_failed(&work.table, unreadable, Blame::Row).await;
        }
        if self.apply(&work, items).await {
            self.recovered(&work).await;
        }
    }

    /// Writes items of one target; what does not fit is found by halving. Says whether there were any and all went well.
    pub(super) async fn apply(&self, work: &Work, items: Vec<Item>) -> bool {
        if items.is_empty() {
            return false;
        }
        let _gate = self.tables.gate(&work.table.table.sql_name).await;
        let new = items.iter().filter(|item| item.claimed.is_new());
        let ages: Vec<_> = new.map(|item| item.claimed.age).collect();
        let span = spans::settle(work.table.tenant, &work.table.table.name, items.len());
        match spans::within(span, self.parts.writer.settle_apart(&work.table, items)).await {
            Ok(settled) => {
                self.count(&settled.tally);
                let delay = &self.parts.metrics.settle_delay;
                ages.iter().for_each(|age| delay.observe(age.by_now().as_secs_f64()));
                let behind = ages.iter().map(|age| age.by_now()).max();
                self.telling.batch(&work.table, &settled.tally, behind, Instant::now());
                let all_well = settled.culprits.is_empty();
                let culprits = settled.culprits.into_iter().map(|(item, reason)| (item.claimed, reason)).collect();
                self.rows_failed(&work.table, culprits, Blame::Row).await;
                all_well
            }
            Err(error) => {
                tracing::warn!(target = %work.table, error = %chain(&error), "rows not settled");
                self.mirror_failed(work, &error.diagnose()).await;
                false
            }
        }
    }
}

/// The answer to each ask of a request.
type Answers = Vec<Result<Vec<Sight>, AskError>>;

type Seen = (DatabaseTime, Option<Row>);

fn seen(sight: Sight) -> Result<Seen, String> {
    match sight.observation {
        Observation::Found(row) => Ok((sight.started_at, Some(row))),
        Observation::Missing => Ok((sight.started_at, None)),
        Observation::Unreadable(problem) => Err(problem),
    }
}
