//! Relations, indexes for joins, and foreign keys for those who draw.

use std::time::{Duration, Instant};

use super::{Keeper, ModelError};
use crate::mirror::DescribedState;

/// When indexes and foreign keys that could not be made are tried again.
const RETRY: Duration = Duration::from_secs(600);

/// What the relations were last made from, and when indexes and foreign keys are to be made.
#[derive(Debug, Default)]
pub(super) struct Related {
    described: Option<DescribedState>,
    make_at: Option<Instant>,
}

impl Keeper {
    /// Notes relations anew when a description has changed or a table was made again, and makes the indexes and foreign
    /// keys that they call for.
    pub(super) async fn keep_relations(&mut self) -> Result<(), ModelError> {
        let mirror = self.parts.mirror.clone();
        let described = Some(mirror.described_state().await?);
        if described != self.related.described {
            mirror.note_relations(&mirror.descriptions().await?).await?;
            self.related = Related { described, make_at: Some(Instant::now()) };
        }
        let is_due = self.related.make_at.is_some_and(|make_at| make_at <= Instant::now());
        if !is_due {
            return Ok(());
        }
        self.related.make_at = Some(Instant::now() + RETRY);
        let tables = mirror.descriptions().await?;
        let has_keys = mirror.make_foreign_keys(&tables).await?;
        if (!self.parts.makes_indexes || mirror.make_relation_indexes(&tables).await?) && has_keys {
            self.related.make_at = None;
        }
        Ok(())
    }
}
