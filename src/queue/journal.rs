//! The journal of a transaction: what it tells readers, in the sync log and in the feed.
//!
//! A reader that remembers the greatest id or position it has seen must miss none. So they have to become visible in
//! their order: they are given out under a lock that is held until the commit. To hold it no longer than that takes, the
//! journal is first brought to the server, and then one message has it numbered, stored and committed. A client that is
//! killed or frozen has either sent that message or does not hold the lock.

use serde::Serialize;
use sqlx::{Postgres, Transaction};

use super::{
    feed::FeedEntry,
    sync_log::{OperatorEntry, SyncEntry},
};

/// Users' deferred triggers, which may be slow, come before the lock. The transaction that the chain begins is empty: it
/// is there for the driver, which believes that one is open.
const PUBLISH: &str = "set constraints all immediate; select nxt_mirror.publish(); commit and chain";

/// What a transaction tells readers. To be handed in with its commit.
#[derive(Debug, Default, Serialize)]
#[must_use = "what is not committed is not told"]
pub struct Journal {
    activity: Vec<ActivityEntry>,
    changes: Vec<FeedEntry>,
}

/// A line of the sync log.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum ActivityEntry {
    Row(SyncEntry),
    Operator(OperatorEntry),
}

impl Journal {
    /// Adds a line to the sync log.
    pub fn log(&mut self, entry: SyncEntry) {
        // Reasons quote what came from outside, and PostgreSQL holds no such character.
        let entry = SyncEntry { reason: entry.reason.replace('\0', "\u{fffd}"), ..entry };
        self.activity.push(ActivityEntry::Row(entry));
    }

    /// Adds what an operator asked for to the sync log.
    pub fn ask(&mut self, entry: OperatorEntry) {
        self.activity.push(ActivityEntry::Operator(entry));
    }

    /// Adds an entry to the feed.
    pub fn tell(&mut self, entry: FeedEntry) {
        self.changes.push(entry);
    }

    /// Commits the transaction together with its journal.
    pub async fn commit(self, mut transaction: Transaction<'_, Postgres>) -> Result<(), sqlx::Error> {
        if self.activity.is_empty() && self.changes.is_empty() {
            return transaction.commit().await;
        }
        self.bring(&mut transaction).await?;
        sqlx::raw_sql(PUBLISH).execute(&mut *transaction).await?;
        // It is committed; what is ended here is the empty one.
        if let Err(error) = transaction.rollback().await {
            tracing::debug!(%error, "a connection was lost after its commit");
        }
        Ok(())
    }

    /// Kept by the session until the transaction ends, which costs no table a version. What readers have seen must be on
    /// disk, or its numbers would be given out once more after a crash.
    async fn bring(&self, transaction: &mut Transaction<'_, Postgres>) -> Result<(), sqlx::Error> {
        let text = serde_json::to_string(self).map_err(|error| sqlx::Error::Encode(error.into()))?;
        sqlx::query!(
            "select set_config('nxt_mirror.journal', $1, true) as journal,
                    set_config('synchronous_commit', case current_setting('synchronous_commit')
                                   when 'off' then 'on' else current_setting('synchronous_commit') end, true) as waits",
            text
        )
        .fetch_one(&mut **transaction)
        .await
        .map(drop)
    }
}
