//! What is known of the source's tables. Loaded when first needed and again when it may have changed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use super::{
    Upstream, UpstreamError,
    describe::{DescribeError, KeyHints, describe},
    queries::TableField,
};
use crate::domain::{TableLevel, TableName, TableSpec};

/// How long a description holds at most; new columns come weekly.
const FRESH_MAX: Duration = Duration::from_secs(3_600);
/// How long an unknown or refused table is not looked up again.
const REFUSED: Duration = Duration::from_secs(60);

/// Why a table has no description.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The API has no such table, looked up a moment ago.
    #[error("the API knows no {level} table {table}")]
    Unknown {
        /// The table.
        table: TableName,
        /// Where it was looked for.
        level: &'static str,
    },
    /// The API has it, but it cannot be mirrored.
    #[error(transparent)]
    Refused(#[from] DescribeError),
    /// The API cannot be asked.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
}

/// Descriptions of tables, by level and identifier.
#[derive(Debug)]
pub struct Catalog {
    upstream: Upstream,
    keys: BTreeMap<TableName, Vec<String>>,
    fresh: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    fields: Option<(Vec<TableField>, Instant)>,
    tables: HashMap<(TableLevel, String), (Known, Instant)>,
}

#[derive(Debug, Clone)]
enum Known {
    Described(Arc<TableSpec>),
    Unknown,
    Refused(DescribeError),
}

impl Catalog {
    /// A catalog that asks this API; `keys` are those of the settings. Descriptions are renewed at least once in each
    /// interval between two walks, so that a walk knows the columns that are new.
    pub fn new(upstream: Upstream, keys: BTreeMap<TableName, Vec<String>>, walk_interval: Option<Duration>) -> Self {
        let fresh = walk_interval.map_or(FRESH_MAX, |interval| interval.min(FRESH_MAX));
        Self { upstream, keys, fresh, state: Mutex::default() }
    }

    /// The table's description. `announced` are the key columns of a notification, in its order, which tell the key
    /// where nothing better does.
    pub async fn table(
        &self,
        level: TableLevel,
        name: &TableName,
        announced: Option<&[String]>,
    ) -> Result<Arc<TableSpec>, CatalogError> {
        let id = (level, name.as_str().to_ascii_lowercase());
        let mut state = self.state.lock().await;
        let cached = state.tables.get(&id).cloned();
        if let Some((known, since)) = &cached
            && (since.elapsed() < self.lifetime(known) || known.is_description() && self.upstream.is_away())
            && !(announced.is_some() && known.lacks_key())
        {
            return known.clone().into_result(name, level);
        }
        let known = match (self.look_up(&mut state, level, name, announced).await, cached) {
            (Ok(known), _) => known,
            // An old description beats none: deletions need no request, and a request will show if it is wrong.
            (Err(error), Some((known @ Known::Described(_), _))) => {
                tracing::warn!(row.table = %name, error = %crate::telemetry::chain(&error), "description not renewed");
                known
            }
            (Err(error), _) => return Err(error.into()),
        };
        state.tables.insert(id, (known.clone(), Instant::now()));
        known.into_result(name, level)
    }

    /// Takes over descriptions from an earlier run.
    pub async fn remember(&self, specs: impl IntoIterator<Item = TableSpec>) {
        let mut state = self.state.lock().await;
        for spec in specs {
            let id = (spec.level, spec.name.as_str().to_ascii_lowercase());
            state.tables.insert(id, (Known::Described(Arc::new(spec)), Instant::now()));
        }
    }

    /// Describes every table anew when it is next needed: the schema has changed.
    pub async fn forget(&self) {
        let mut state = self.state.lock().await;
        state.fields = None;
        // Kept, but too old to be used without asking.
        let long_ago = Instant::now().checked_sub(self.fresh).unwrap_or_else(Instant::now);
        for (known, since) in state.tables.values_mut() {
            if matches!(known, Known::Described(_)) {
                *since = long_ago;
            }
        }
    }

    fn lifetime(&self, known: &Known) -> Duration {
        match known {
            Known::Described(_) => self.fresh,
            Known::Unknown | Known::Refused(_) => REFUSED,
        }
    }

    async fn look_up(
        &self,
        state: &mut State,
        level: TableLevel,
        name: &TableName,
        announced: Option<&[String]>,
    ) -> Result<Known, UpstreamError> {
        let stale = state.fields.as_ref().is_none_or(|(_, loaded)| loaded.elapsed() > self.fresh);
        let mut field = None;
        if !stale {
            field = find(state.fields.as_ref(), level, name);
        }
        // Unknown to a list that may be old: loaded once more before anybody is told.
        if field.is_none() {
            state.fields = Some((self.upstream.tables().await?, Instant::now()));
            field = find(state.fields.as_ref(), level, name);
        }
        let Some(field) = field else { return Ok(Known::Unknown) };
        let row_type = crate::domain::naming::pascal_case(&field.field);
        let Some(fields) = self.upstream.row_fields(&row_type).await? else { return Ok(Known::Unknown) };
        let configured = self.keys.iter().find(|(table, _)| table.as_str().eq_ignore_ascii_case(&row_type));
        let hints = KeyHints { configured: configured.map(|(_, key)| key.as_slice()), announced };
        Ok(match describe(&field, &fields, hints) {
            Ok(spec) => Known::Described(Arc::new(spec)),
            Err(error) => Known::Refused(error),
        })
    }
}

impl Known {
    fn is_description(&self) -> bool {
        matches!(self, Self::Described(_))
    }

    fn lacks_key(&self) -> bool {
        matches!(self, Self::Refused(DescribeError::NoKey { .. }))
    }

    fn into_result(self, table: &TableName, level: TableLevel) -> Result<Arc<TableSpec>, CatalogError> {
        let level = match level {
            TableLevel::Company => "company",
            TableLevel::Customer => "customer",
        };
        match self {
            Self::Described(spec) => Ok(spec),
            Self::Unknown => Err(CatalogError::Unknown { table: table.clone(), level }),
            Self::Refused(error) => Err(error.into()),
        }
    }
}

fn find(fields: Option<&(Vec<TableField>, Instant)>, level: TableLevel, name: &TableName) -> Option<TableField> {
    let (fields, _) = fields?;
    fields.iter().find(|field| field.level == level && field.field.eq_ignore_ascii_case(name.as_str())).cloned()
}
