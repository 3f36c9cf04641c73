//! Keeps what the database says of itself in step with the API's model: labels in comments, names of values, names of
//! companies and customers.
//!
//! All of it is asked for out of the background's share of the budget, a little at a time, and nothing waits for it: a
//! label or a name that is not there yet is one that comes later.

mod flags;
mod labels;
mod names;
mod relations;
mod tenants;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    domain::{Language, Owner, TableSpec},
    mirror::{Mirror, SchemaError},
    telemetry::chain,
    upstream::{Catalogue, ModelShape, Upstream, UpstreamError},
};

/// How often it is looked whether anything is to be asked for.
const TICK: Duration = Duration::from_secs(2);
/// How long what was asked for in vain is left alone.
const PAUSE: Duration = Duration::from_secs(60);
/// How long is believed what the model is like.
const SHAPE_FRESH: Duration = Duration::from_secs(3_600);
/// How often labels and names are asked for again, if descriptions are not renewed more often.
const INTERVAL_MAX: Duration = Duration::from_secs(3_600);

/// What it works with.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The API.
    pub upstream: Upstream,
    /// Descriptions of the API's tables, as the settings want them.
    pub catalogue: Arc<Catalogue>,
    /// The mirrored tables, and what is said of them.
    pub mirror: Mirror,
    /// `NXT_LANGUAGE`.
    pub language: Language,
    /// `NXT_WALK_SECONDS`, which descriptions go by, too.
    pub walk_interval: Option<Duration>,
    /// `NXT_RELATION_INDEXES`: whether indexes are made for joins.
    pub makes_indexes: bool,
}

/// Why something could not be brought up to date.
#[derive(Debug, thiserror::Error)]
enum ModelError {
    #[error("the API does not tell")]
    Upstream(#[from] UpstreamError),
    #[error("the database cannot be asked or written")]
    Sql(#[from] sqlx::Error),
    #[error("the database does not tell what is mirrored")]
    Schema(#[from] SchemaError),
}

/// Keeps it in step until told to stop.
pub async fn run(parts: Parts, stop: CancellationToken) {
    stop.run_until_cancelled(async {
        parts.look_at_all().await;
        Keeper::new(parts).keep().await;
    })
    .await;
}

impl Parts {
    /// Comments and views follow what is known at the start: another language, a view that was dropped. Tables follow the
    /// settings: where nothing changes, nobody else would ever touch them.
    async fn look_at_all(&self) {
        let specs = match self.mirror.descriptions().await {
            Ok(specs) => specs,
            Err(error) => {
                return tracing::warn!(error = %chain(&error), "tables, comments and readable views not looked at");
            }
        };
        for spec in &specs {
            self.mirror.explain_or_note(spec).await;
        }
        if let Err(error) = self.mirror.give_common_rights().await {
            tracing::warn!(error = %chain(&error), "rights of those who were let in are not complete");
        }
        specs.iter().filter_map(|spec| self.wanted_otherwise(spec)).for_each(|spec| self.mirror.expect(&spec));
    }

    /// The description that the settings make of one, if its table was last made otherwise.
    fn wanted_otherwise(&self, made: &TableSpec) -> Option<Arc<TableSpec>> {
        let wanted = self.catalogue.peek(made.level, &made.name, None)?.ok()?;
        (wanted.columns != made.columns).then_some(wanted)
    }
}

struct Keeper {
    parts: Parts,
    began: Instant,
    interval: Duration,
    /// What the model is like, and since when that is known; `None` in it where the API has none.
    shape: Option<(Option<ModelShape>, Instant)>,
    related: relations::Related,
}

impl Keeper {
    fn new(parts: Parts) -> Self {
        let interval = parts.walk_interval.map_or(INTERVAL_MAX, |interval| interval.min(INTERVAL_MAX));
        Self { parts, began: Instant::now(), interval, shape: None, related: relations::Related::default() }
    }

    async fn keep(&mut self) {
        let mut timer = tokio::time::interval(TICK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            timer.tick().await;
            self.parts.mirror.ensure_rest().await;
            self.parts.mirror.explain_rest().await;
            let relations = self.keep_relations().await;
            self.note("relations", relations).await;
            if self.parts.upstream.is_away() {
                continue;
            }
            let tenants = self.keep_tenants().await;
            self.note("names of companies", tenants).await;
            let labels = self.keep_labels().await;
            self.note("labels", labels).await;
            let names = self.keep_names().await;
            self.note("names of values", names).await;
        }
    }

    /// Says what could not be done, which is tried again.
    async fn note(&self, what: &'static str, result: Result<(), ModelError>) {
        let Err(error) = result else { return };
        if let ModelError::Upstream(error) = &error
            && self.parts.upstream.examine(error).await.owner == Owner::Api
        {
            return;
        }
        tracing::warn!(error = %chain(&error), "{what} are not up to date; they are asked for again");
    }

    /// What the model is like, asked for if that is not known.
    async fn shape(&mut self) -> Result<Option<ModelShape>, UpstreamError> {
        if let Some((shape, since)) = &self.shape
            && since.elapsed() < SHAPE_FRESH
        {
            return Ok(shape.clone());
        }
        let shape = self.parts.upstream.model_shape().await?;
        self.shape = Some((shape.clone(), Instant::now()));
        Ok(shape)
    }
}
