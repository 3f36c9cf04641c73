//! Relations, and indexes for joins.

use std::time::{Duration, Instant};

use super::{Keeper, ModelError};

/// When indexes that could not be made are tried again.
const RETRY: Duration = Duration::from_secs(600);

/// What the relations were last made from, and when indexes are to be made.
#[derive(Debug, Default)]
pub(super) struct Related {
    described: Option<(i64, Option<chrono::DateTime<chrono::Utc>>)>,
    index_at: Option<Instant>,
}

impl Keeper {
    /// Notes relations anew when a description has changed, and makes the indexes that they call for.
    pub(super) async fn keep_relations(&mut self) -> Result<(), ModelError> {
        let mirror = self.parts.mirror.clone();
        let described = Some(mirror.described_state().await?);
        if described != self.related.described {
            mirror.note_relations(&mirror.descriptions().await?).await?;
            self.related = Related { described, index_at: Some(Instant::now()) };
        }
        let is_due = self.related.index_at.is_some_and(|index_at| index_at <= Instant::now());
        if is_due && self.parts.makes_indexes {
            self.related.index_at = Some(Instant::now() + RETRY);
            if mirror.make_relation_indexes(&mirror.descriptions().await?).await? {
                self.related.index_at = None;
            }
        }
        Ok(())
    }
}
