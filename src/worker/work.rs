//! The way of one claim: sort, ask, apply, and see to what failed.

use std::{sync::Arc, time::Instant};

use sqlx::types::Uuid;

use super::{
    apply::{self, ApplyError, Item, Seen},
    batch::{self, Known as KnownRow, Sorted, Stuck},
    blame::{self, Failure, Fault},
    plan::{self, Seat},
    run::{Lane, Step, Worker},
};
use crate::{
    domain::settle::{self, BeforeFetch, Known},
    failpoint::Failpoint,
    queue::{self, Claimed, Outcome, QueueError, SyncAction, SyncEntry},
    telemetry::chain,
    upstream::{Ask, Remedy, Sighting, UpstreamError, remedy},
};

impl Worker {
    pub(super) async fn work(&self, claim_id: Uuid, claimed: Vec<Claimed>) -> Step {
        Failpoint::Claimed.pass();
        let mut step = Step { claimed: claimed.len(), ..Step::default() };
        match self.try_work(claim_id, claimed, &mut step).await {
            Ok(()) => {
                self.state().running.remove(&claim_id);
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "rows not settled");
                if self.parts.queue.release(&[claim_id]).await.is_ok() {
                    self.state().running.remove(&claim_id);
                }
            }
        }
        for (action, count) in &step.actions {
            self.parts.metrics.rows_settled.with_label_values(&[action.name()]).inc_by(*count);
        }
        step
    }

    async fn try_work(&self, claim_id: Uuid, claimed: Vec<Claimed>, step: &mut Step) -> Result<(), QueueError> {
        let Sorted { known, stuck, unasked } = batch::sort(&self.parts, claimed).await?;
        self.settle_stuck(claim_id, stuck, step).await?;
        if let Some((rows, error)) = unasked {
            let fault = self.blame(&error).await;
            self.fail_rows(claim_id, rows, fault, &error, step).await?;
        }
        let (certain, ask) = self.split_certain(known).await?;
        let certain: Vec<Item> = certain.into_iter().map(|known| Item { known, seen: None }).collect();
        self.apply(claim_id, certain, step).await?;
        if self.parts.upstream.is_away() {
            return self.put_off(claim_id, ask, step).await;
        }
        let rows_max = self.state().size.get();
        let seat = |Claimed { hint, attempts, lane_failures, .. }: &Claimed| Seat {
            tenant: hint.tenant,
            attempts: *attempts,
            is_of_failed_lane: *lane_failures > 0,
        };
        let seats: Vec<Seat> = ask.iter().map(|row| seat(&row.claimed)).collect();
        let apart = plan::may_be_apart(&seats, rows_max) && self.parts.upstream.has_headroom().await;
        let requests = plan::requests(&seats, rows_max, |tenant| apart || self.is_slow(tenant));
        let mut ask: Vec<Option<KnownRow>> = ask.into_iter().map(Some).collect();
        let fetches = requests.into_iter().map(|indexes| {
            let rows: Vec<KnownRow> = indexes.into_iter().filter_map(|index| ask[index].take()).collect();
            self.fetch(claim_id, rows)
        });
        for done in futures_util::future::join_all(fetches).await {
            step.add(done?);
        }
        Ok(())
    }

    /// Gives back, unasked, what only an API could tell that is away.
    async fn put_off(&self, claim_id: Uuid, rows: Vec<KnownRow>, step: &mut Step) -> Result<(), QueueError> {
        let failures = rows.into_iter().map(|row| Failure::alone(row.claimed, Fault::Away, String::new())).collect();
        self.settle_failures(claim_id, failures, step).await
    }

    /// Tells apart the deletions that need no request from the rows to ask for.
    async fn split_certain(&self, rows: Vec<KnownRow>) -> Result<(Vec<KnownRow>, Vec<KnownRow>), QueueError> {
        let (deletes, mut ask): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| row.claimed.evidence.deletion.is_some());
        if deletes.is_empty() {
            return Ok((vec![], ask));
        }
        let failed = |source| QueueError { action: "read mirrored rows", source };
        let mut connection = self.parts.pool.acquire().await.map_err(failed)?;
        let (groups, places) = asks(&deletes);
        let mut is_certain = vec![false; deletes.len()];
        for (group, places) in groups.iter().zip(places) {
            let mirrored = self.parts.replica.known(&mut connection, group.tenant, &group.table, &group.keys).await;
            for (index, mirrored) in places.into_iter().zip(mirrored.map_err(|error| failed(error.source))?) {
                let known = Known { mirrored, tombstone: None };
                let verdict = settle::before_fetch(&deletes[index].claimed.evidence, &known);
                is_certain[index] = !matches!(verdict, BeforeFetch::Fetch);
            }
        }
        let mut certain = Vec::new();
        for (row, is_certain) in deletes.into_iter().zip(is_certain) {
            if is_certain { certain.push(row) } else { ask.push(row) }
        }
        Ok((certain, ask))
    }

    /// Asks for rows and applies the answer. Rows that fail together are asked for again in smaller batches at once, so
    /// that those that only stood beside a culprit need not wait for the next claims.
    async fn fetch(&self, claim_id: Uuid, rows: Vec<KnownRow>) -> Result<Step, QueueError> {
        let mut step = Step::default();
        let mut batches = vec![Batch { rows, is_first: true, is_readable: false }];
        while !batches.is_empty() {
            let fetches = batches.drain(..).map(|batch| self.fetch_once(claim_id, batch));
            let mut smaller = vec![];
            for done in futures_util::future::join_all(fetches).await {
                let (done, failed) = done?;
                step.add(done);
                smaller.extend(failed);
            }
            batches = smaller;
        }
        Ok(step)
    }

    /// One request, from asking to applying. Returns what is to be asked for again in smaller batches.
    async fn fetch_once(&self, claim_id: Uuid, batch: Batch) -> Result<(Step, Vec<Batch>), QueueError> {
        let mut step = Step::default();
        let Batch { rows, is_first, is_readable } = batch;
        let (asks, places) = asks(&rows);
        let started = Instant::now();
        let answer = self.parts.upstream.fetch(&asks).await;
        let is_slow = self.note_tempo(&asks, started.elapsed(), answer.is_ok());
        let answers = match answer {
            Ok(answers) => answers,
            Err(error) => {
                if is_first && matches!(remedy(&error), Remedy::Split) {
                    self.state().size.failed(rows.len());
                }
                let mut fault = self.blame(&error).await;
                if let (Fault::SomeRow, [ask]) = (fault, asks.as_slice()) {
                    fault = self.row_or_lane(ask, is_readable).await;
                }
                // What fails slowly goes back to the queue, where slow tenants have their bounds.
                if matches!(fault, Fault::SomeRow) && rows.len() > 1 && !is_slow {
                    return Ok((step, Batch { rows, is_first, is_readable }.smaller(places)));
                }
                let rows = rows.into_iter().map(|row| row.claimed).collect();
                self.fail_rows(claim_id, rows, fault, &error, &mut step).await?;
                return Ok((step, vec![]));
            }
        };
        Failpoint::Fetched.pass();
        self.state().size.succeeded(rows.len());
        let mut rows: Vec<Option<KnownRow>> = rows.into_iter().map(Some).collect();
        let (mut items, mut failures, mut smaller) = (vec![], vec![], vec![]);
        for ((ask, places), answer) in asks.iter().zip(places).zip(answers) {
            let own: Vec<KnownRow> = places.iter().filter_map(|&index| rows[index].take()).collect();
            match answer {
                Ok(sights) => {
                    self.state().barren.remove(&lane(ask));
                    for (known, sight) in own.into_iter().zip(sights) {
                        match seen(sight.sighting) {
                            Ok(row) => {
                                items.push(Item { known, seen: Some(Seen { started_at: sight.started_at, row }) })
                            }
                            Err(problem) => failures.push(Failure::alone(known.claimed, Fault::ThisRow, problem)),
                        }
                    }
                }
                Err(error) => {
                    let fault = self.find_fault(ask, error.remedy(), is_readable).await;
                    if matches!(fault, Fault::SomeRow) && own.len() > 1 && !is_slow {
                        smaller.extend(Batch::halves(own));
                        continue;
                    }
                    let company = own.len();
                    failures.extend(own.into_iter().map(|row| Failure {
                        row: row.claimed,
                        fault,
                        company,
                        error: error.to_string(),
                    }));
                }
            }
        }
        if failures.iter().any(|failure| matches!(failure.fault, Fault::ThisRow)) {
            self.parts.catalog.forget().await;
        }
        self.apply(claim_id, items, &mut step).await?;
        self.settle_failures(claim_id, failures, &mut step).await?;
        Ok((step, smaller))
    }

    /// Whether a part failed because of a row or because its table cannot be read at all.
    async fn find_fault(&self, ask: &Ask, remedy: Remedy, is_readable: bool) -> Fault {
        match remedy {
            Remedy::Redescribe => {
                self.parts.catalog.forget().await;
                Fault::Outdated
            }
            Remedy::Split => self.row_or_lane(ask, is_readable).await,
            Remedy::Wait(_) | Remedy::Probe => Fault::of(remedy, true),
        }
    }

    /// Whether some of these rows or all of their table are at fault. It is all of it, too, when request after request
    /// brings none of its rows, although it answers otherwise, as with a column that is broken.
    async fn row_or_lane(&self, ask: &Ask, is_readable: bool) -> Fault {
        let fault = if is_readable { Fault::SomeRow } else { self.table_fault(ask).await };
        match fault {
            Fault::SomeRow if self.is_barren(lane(ask)) => Fault::Lane,
            fault => fault,
        }
    }

    /// Whether the table answers a question that no row does: then some row is at fault.
    async fn table_fault(&self, ask: &Ask) -> Fault {
        match self.parts.upstream.probe_table(ask).await {
            Ok(Ok(())) => Fault::SomeRow,
            Ok(Err(error)) => match error.remedy() {
                Remedy::Wait(pause) => Fault::Impatience(pause),
                Remedy::Redescribe => Fault::Outdated,
                Remedy::Probe | Remedy::Split => Fault::Lane,
            },
            Err(error) => match Fault::of(remedy(&error), self.parts.upstream.answers_after(&error).await) {
                // The API answers others.
                Fault::SomeRow => Fault::Lane,
                fault => fault,
            },
        }
    }

    /// Whose fault the failure of a whole request is.
    async fn blame(&self, error: &UpstreamError) -> Fault {
        let remedy = remedy(error);
        if matches!(remedy, Remedy::Redescribe) {
            self.parts.catalog.forget().await;
        }
        let fault = Fault::of(remedy, self.parts.upstream.answers_after(error).await);
        tracing::warn!(error = %chain(error), ?fault, "request failed");
        fault
    }

    async fn fail_rows(
        &self,
        claim_id: Uuid,
        rows: Vec<Claimed>,
        fault: Fault,
        error: &UpstreamError,
        step: &mut Step,
    ) -> Result<(), QueueError> {
        let (company, text) = (rows.len(), chain(error).to_string());
        let failures = rows.into_iter().map(|row| Failure { row, fault, company, error: text.clone() }).collect();
        self.settle_failures(claim_id, failures, step).await
    }

    async fn settle_failures(&self, claim_id: Uuid, failures: Vec<Failure>, step: &mut Step) -> Result<(), QueueError> {
        let rows_max = self.parts.fetch_rows_max;
        step.failed += failures.len();
        let outcomes = failures
            .into_iter()
            .map(|failure| {
                let outcome = blame::outcome(&failure, rows_max);
                (failure.row, outcome, failure.error)
            })
            .collect();
        self.settle(claim_id, outcomes, step).await
    }

    async fn settle_stuck(
        &self,
        claim_id: Uuid,
        stuck: Vec<(Claimed, Stuck)>,
        step: &mut Step,
    ) -> Result<(), QueueError> {
        let outcomes = stuck
            .into_iter()
            .map(|(row, stuck)| match stuck {
                Stuck::Ignored(why) => {
                    let generation = row.generation;
                    (row, Outcome::Done { generation }, why.to_owned())
                }
                Stuck::Hopeless(reason) => {
                    let outcome = Outcome::Bury { generation: row.generation, reason: reason.clone(), of_lane: false };
                    (row, outcome, reason)
                }
                Stuck::Troubled(reason) => {
                    let failure = Failure::alone(row, Fault::Lane, reason);
                    let outcome = blame::outcome(&failure, 1);
                    (failure.row, outcome, failure.error)
                }
            })
            .collect();
        self.settle(claim_id, outcomes, step).await
    }

    /// Writes outcomes that touch no mirrored row.
    async fn settle(
        &self,
        claim_id: Uuid,
        outcomes: Vec<(Claimed, Outcome, String)>,
        step: &mut Step,
    ) -> Result<(), QueueError> {
        if outcomes.is_empty() {
            return Ok(());
        }
        let failed = |source| QueueError { action: "settle rows", source };
        let mut transaction = self.parts.pool.begin().await.map_err(failed)?;
        let hints: Vec<_> = outcomes.iter().map(|(row, ..)| &row.hint).collect();
        let locked = queue::settle::lock(&mut transaction, claim_id, &hints).await?;
        let (mut own, mut entries) = (Vec::new(), Vec::new());
        for locked in &locked {
            let (row, outcome, reason) = &outcomes[locked.index];
            if let Some(action) = logged_as(outcome) {
                *step.actions.entry(action).or_default() += 1;
                entries.push(SyncEntry {
                    hint: row.hint.clone(),
                    action,
                    reason: reason.clone(),
                    notification_id: row.notification_id,
                    source_changed_at: None,
                    fetch_started_at: None,
                });
            }
            own.push((&row.hint, outcome.clone()));
        }
        queue::settle::log(&mut transaction, &entries).await?;
        queue::settle::settle(&mut transaction, &own).await?;
        transaction.commit().await.map_err(failed)
    }

    /// Applies what was seen. Rows that do not fit the mirror together are applied in halves, until the culprit stands
    /// alone.
    async fn apply(&self, claim_id: Uuid, items: Vec<Item>, step: &mut Step) -> Result<(), QueueError> {
        let mut groups = vec![items];
        while let Some(mut items) = groups.pop() {
            if items.is_empty() {
                continue;
            }
            match apply::apply(&self.parts, claim_id, &items).await {
                Ok(actions) => step.add(Step { actions, ..Step::default() }),
                Err(error) if error.is_about_data() => {
                    let other_half = items.split_off(items.len() / 2);
                    if items.is_empty() {
                        self.set_unfit(claim_id, other_half, &error, step).await?;
                    } else {
                        groups.extend([other_half, items]);
                    }
                }
                Err(ApplyError::Queue(error)) => return Err(error),
                Err(ApplyError::Mirror(error)) => {
                    return Err(QueueError { action: error.action, source: error.source });
                }
                Err(ApplyError::Sql(source)) => return Err(QueueError { action: "apply rows", source }),
            }
        }
        Ok(())
    }

    /// Rows that do not fit the mirror, each by itself.
    async fn set_unfit(
        &self,
        claim_id: Uuid,
        items: Vec<Item>,
        error: &ApplyError,
        step: &mut Step,
    ) -> Result<(), QueueError> {
        let text = chain(error).to_string();
        tracing::warn!(error = text, "a row does not fit the mirror");
        let failures =
            items.into_iter().map(|item| Failure::alone(item.known.claimed, Fault::SomeRow, text.clone())).collect();
        self.settle_failures(claim_id, failures, step).await
    }
}

fn lane(ask: &Ask) -> Lane {
    (ask.tenant, ask.table.sql_name.clone())
}

/// Rows to ask for in one request.
struct Batch {
    rows: Vec<KnownRow>,
    /// Whether nothing larger has failed before it.
    is_first: bool,
    /// Whether its rows are of one table that was found readable when a larger batch had failed.
    is_readable: bool,
}

impl Batch {
    /// What is asked for when all of it has failed: each table by itself, a table that is by itself already in halves.
    /// `places` are the positions of each table's rows.
    fn smaller(self, places: Vec<Vec<usize>>) -> Vec<Self> {
        if places.len() == 1 {
            return Self::halves(self.rows).into();
        }
        let mut rows: Vec<Option<KnownRow>> = self.rows.into_iter().map(Some).collect();
        let of_table = |places: Vec<usize>| Self {
            rows: places.into_iter().filter_map(|index| rows[index].take()).collect(),
            is_first: false,
            is_readable: false,
        };
        places.into_iter().map(of_table).collect()
    }

    /// Halves of the rows of one table that is readable.
    fn halves(mut rows: Vec<KnownRow>) -> [Self; 2] {
        let other_half = rows.split_off(rows.len() / 2);
        [rows, other_half].map(|rows| Self { rows, is_first: false, is_readable: true })
    }
}

/// One ask for each table of each tenant, and the positions of its rows.
fn asks(rows: &[KnownRow]) -> (Vec<Ask>, Vec<Vec<usize>>) {
    let (mut asks, mut places): (Vec<Ask>, Vec<Vec<usize>>) = (Vec::new(), Vec::new());
    for (index, row) in rows.iter().enumerate() {
        let tenant = row.claimed.hint.tenant;
        let same = |ask: &Ask| ask.tenant == tenant && ask.table == row.table;
        let position = asks.iter().position(same).unwrap_or_else(|| {
            asks.push(Ask { tenant, table: Arc::clone(&row.table), keys: vec![] });
            places.push(vec![]);
            asks.len() - 1
        });
        asks[position].keys.push(row.key.clone());
        places[position].push(index);
    }
    (asks, places)
}

fn seen(sighting: Sighting) -> Result<Option<crate::domain::Row>, String> {
    match sighting {
        Sighting::Found(row) => Ok(Some(row)),
        Sighting::Missing => Ok(None),
        Sighting::Unreadable(problem) => Err(problem),
    }
}

fn logged_as(outcome: &Outcome) -> Option<SyncAction> {
    match outcome {
        Outcome::Done { .. } => Some(SyncAction::Ignored),
        Outcome::Bury { .. } => Some(SyncAction::DeadLetter),
        Outcome::Fail { .. } => Some(SyncAction::Failed),
        Outcome::LookAgain { .. } | Outcome::Release { .. } => None,
    }
}
