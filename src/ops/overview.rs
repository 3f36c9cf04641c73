//! All that the overview shows, read together.

use std::sync::Arc;

use parking_lot::Mutex;
use sqlx::PgPool;
use tokio::time::{Duration, Instant};

use super::{
    refusal::Refusal,
    samples::{self, Recent, Span, Stretch},
    status::Status,
};
use crate::mirror::DisplayNames;

/// How old what is shown may be to those who follow live: they share one look at the database.
const HOLDS: Duration = Duration::from_secs(1);

/// How things are.
#[derive(Debug)]
pub(super) struct Overview {
    pub(super) status: Status,
    pub(super) recent: Recent,
    pub(super) hour: Vec<Stretch>,
    pub(super) day: Vec<Stretch>,
    pub(super) names: DisplayNames,
}

/// The last one that was read.
#[derive(Debug, Default)]
pub(super) struct Overviews(Mutex<Option<(Instant, Arc<Overview>)>>);

impl Overview {
    async fn read(pool: &PgPool, per_minute: u32) -> Result<Self, Refusal> {
        Ok(Self {
            status: Status::read(pool, per_minute).await?,
            recent: samples::recent(pool).await?,
            hour: samples::stretches(pool, Span::Hour).await?,
            day: samples::stretches(pool, Span::Day).await?,
            names: DisplayNames::read(pool).await?,
        })
    }
}

impl Overviews {
    /// As of now or, to those who follow live, of a moment ago.
    pub(super) async fn read(&self, pool: &PgPool, per_minute: u32, live: bool) -> Result<Arc<Overview>, Refusal> {
        let now = Instant::now();
        let last = self.0.lock().clone();
        if let Some((_, overview)) = last.filter(|(at, _)| live && now - *at < HOLDS) {
            return Ok(overview);
        }
        let overview = Arc::new(Overview::read(pool, per_minute).await?);
        *self.0.lock() = Some((now, Arc::clone(&overview)));
        Ok(overview)
    }
}
