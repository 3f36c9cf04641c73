//! Fetching rows again that differ, before they are reported: they may have changed meanwhile.

use std::{sync::Arc, time::Duration};

use super::{
    Source, WalkError,
    compare::compare_each,
    report::{Compared, Difference, Differences, Uncompared},
};
use crate::{
    domain::{Observation, Owner, Row, RowKey, TargetTable, backoff},
    reconcile::Writer,
    upstream::{Ask, AskError, Share, Sight, UpstreamError},
};

/// Fetches of a row that differs.
const RECHECKS: u32 = 5;
/// Pause before the first of them, doubling.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// Tries of one request.
const TRIES: u32 = 3;

/// Fetches rows of one table again.
#[derive(Debug)]
pub(super) struct Rechecker<'a> {
    pub(super) source: &'a Source,
    pub(super) writer: &'a Writer,
    pub(super) target: &'a TargetTable,
}

/// What a fetch saw of some keys.
#[derive(Debug, Default)]
struct Seen {
    rows: Vec<Row>,
    gone: Vec<RowKey>,
    unreadable: Uncompared,
}

impl Rechecker<'_> {
    /// Fetches the rows that differ again, and forgets those that no longer do.
    pub(super) async fn recheck(&self, compared: &mut Compared) -> Result<(), WalkError> {
        for round in 1..=RECHECKS {
            if compared.differences.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(backoff(round, PAUSE, PAUSE_MAX)).await;
            let keys: Vec<RowKey> = compared.differences.keys().cloned().collect();
            compared.differences.clear();
            for keys in keys.chunks(self.source.keys_max.max(1)) {
                self.recheck_keys(keys, compared).await?;
            }
        }
        Ok(())
    }

    async fn recheck_keys(&self, keys: &[RowKey], compared: &mut Compared) -> Result<(), WalkError> {
        let Seen { rows, gone, unreadable } = self.see(keys).await?;
        let rows: Vec<&Row> = rows.iter().collect();
        let found = compare_each(self.writer, self.target, &rows).await?;
        compared.differences.extend(found.differences);
        compared.differences.extend(self.extra(&gone).await?);
        compared.uncompared.extend(found.uncompared);
        compared.uncompared.extend(unreadable);
        Ok(())
    }

    /// Keys that the source does not have and the mirror does.
    async fn extra(&self, gone: &[RowKey]) -> Result<Differences, WalkError> {
        let mut transaction = self.writer.begin().await?;
        let mirrored = self.writer.mirror().known(&mut transaction, self.target, gone).await?;
        transaction.commit().await?;
        let extra = gone.iter().zip(mirrored).filter(|(_, mirrored)| mirrored.is_some());
        Ok(extra.map(|(key, _)| (key.clone(), Difference::Extra)).collect())
    }

    async fn see(&self, keys: &[RowKey]) -> Result<Seen, WalkError> {
        let TargetTable { tenant, table, .. } = self.target;
        let ask = Ask { tenant: *tenant, table: Arc::clone(table), keys: keys.to_vec() };
        let sights = match self.fetch(&ask).await? {
            Ok(sights) => sights.into_iter().map(Ok).collect(),
            Err(error) => self.fetch_apart(&ask, error).await?,
        };
        let mut seen = Seen::default();
        for (key, sight) in keys.iter().zip(sights) {
            seen.take(key, sight);
        }
        Ok(seen)
    }

    async fn fetch(&self, ask: &Ask) -> Result<Result<Vec<Sight>, AskError>, WalkError> {
        let upstream = &self.source.upstream;
        let mut answers = repeated(|| upstream.fetch(std::slice::from_ref(ask), Share::Background)).await?;
        Ok(answers.pop().expect("one ask has one answer"))
    }

    /// Each key by itself. When none can be read, the table cannot.
    async fn fetch_apart(&self, ask: &Ask, error: AskError) -> Result<Vec<Result<Sight, AskError>>, WalkError> {
        let sights = repeated(|| self.source.upstream.fetch_apart(ask, Share::Background)).await?;
        if sights.iter().all(Result::is_err) { Err(WalkError::Refused(error)) } else { Ok(sights) }
    }
}

/// Tries a request again after a failure that may pass.
async fn repeated<T, F>(request: impl Fn() -> F) -> Result<T, WalkError>
where
    F: Future<Output = Result<T, UpstreamError>>,
{
    let mut failures = 0;
    loop {
        let error = match request().await {
            Ok(answer) => return Ok(answer),
            Err(error) => WalkError::from(error),
        };
        failures += 1;
        let diagnosis = error.diagnose();
        if failures >= TRIES || diagnosis.owner == Owner::Schema {
            return Err(error);
        }
        tokio::time::sleep(diagnosis.pause.unwrap_or_else(|| backoff(failures, PAUSE, PAUSE_MAX))).await;
    }
}

impl Seen {
    fn take(&mut self, key: &RowKey, sight: Result<Sight, AskError>) {
        match sight.map(|sight| sight.observation) {
            // A row that the source spells otherwise is another row to the mirror, and this one should not be.
            Ok(Observation::Found(row)) if row.key == *key => self.rows.push(row),
            Ok(Observation::Found(_) | Observation::Missing) => self.gone.push(key.clone()),
            Ok(Observation::Unreadable(reason)) => _ = self.unreadable.insert(key.clone(), reason),
            Err(error) => _ = self.unreadable.insert(key.clone(), error.to_string()),
        }
    }
}
