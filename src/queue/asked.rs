//! What operators ask to be done to dead letters, for the sync log.

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
};

use sqlx::PgPool;

use super::{OperatorEntry, QueueError, dead_letter::DeadLetter, target};
use crate::domain::{TableName, TargetId, Tenant};

/// For each letter the entry that is logged together with what is done to it. One without an entry is done silently.
#[derive(Debug, Default)]
pub struct Asked(HashMap<i64, OperatorEntry>);

impl Asked {
    /// The same is asked for all these letters, such as `retry`, by `asker`.
    pub async fn of(
        pool: &PgPool,
        letters: &[DeadLetter],
        verb: &str,
        asker: &(dyn fmt::Display + Sync),
    ) -> Result<Self, QueueError> {
        let (mut targets, mut entries) = (Targets::default(), HashMap::new());
        for letter in letters {
            let target = targets.find(pool, letter).await?;
            let key = letter.key.as_ref().map(ToString::to_string);
            let what = format!("{verb} dead letter {}, {asker}", letter.id);
            entries.insert(letter.id, OperatorEntry::new(target, key.as_deref(), &what));
        }
        Ok(Self(entries))
    }

    /// Entries of these letters.
    pub(super) fn entries(&self, ids: &[i64]) -> impl Iterator<Item = OperatorEntry> {
        ids.iter().filter_map(|id| self.0.get(id)).cloned()
    }
}

/// Targets by tenant and table, each looked up once: letters come by the thousand, of few targets.
#[derive(Default)]
struct Targets(HashMap<(Tenant, String), Option<TargetId>>);

impl Targets {
    async fn find(&mut self, pool: &PgPool, letter: &DeadLetter) -> Result<Option<TargetId>, QueueError> {
        let tenant = Tenant::from_columns(letter.company_no, letter.customer_no);
        let Some((tenant, name)) = tenant.zip(letter.table_name.clone()) else { return Ok(None) };
        let Ok(table) = TableName::new(name.clone()) else { return Ok(None) };
        match self.0.entry((tenant, name)) {
            Entry::Occupied(known) => Ok(*known.get()),
            Entry::Vacant(new) => Ok(*new.insert(target::find(pool, tenant, &table).await?.map(|target| target.id))),
        }
    }
}
