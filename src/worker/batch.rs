//! From claimed rows to rows whose table and key are known.

use std::{collections::BTreeMap, sync::Arc};

use super::Parts;
use crate::{
    domain::{RowKey, TableName, TableSpec, Tenant},
    mirror::SchemaError,
    queue::{Claimed, QueueError},
    upstream::{CatalogError, UpstreamError},
};

/// A claimed row in its table's own terms.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) claimed: Claimed,
    pub(super) table: Arc<TableSpec>,
    pub(super) key: RowKey,
}

/// A claimed row that gets no further, and why.
#[derive(Debug)]
pub(super) enum Stuck {
    /// Outside what is mirrored.
    Ignored(&'static str),
    /// Cannot be mirrored as things are.
    Hopeless(String),
    /// May be mirrored once the trouble is over.
    Troubled(String),
}

/// Claimed rows, sorted.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pub(super) known: Vec<Known>,
    pub(super) stuck: Vec<(Claimed, Stuck)>,
    /// Rows of tables that could not be described because the API is away, and the error.
    pub(super) unasked: Option<(Vec<Claimed>, UpstreamError)>,
}

/// Looks up tables and keys of claimed rows.
pub(super) async fn sort(parts: &Parts, claimed: Vec<Claimed>) -> Result<Sorted, QueueError> {
    let mut sorted = Sorted::default();
    let mut by_table: BTreeMap<(Tenant, TableName), Vec<Claimed>> = BTreeMap::new();
    for row in claimed {
        match parts.scope.outside(&row.hint) {
            Some(why) => sorted.stuck.push((row, Stuck::Ignored(why))),
            None => by_table.entry((row.hint.tenant, row.hint.table.clone())).or_default().push(row),
        }
    }
    for ((tenant, name), rows) in by_table {
        match describe(parts, tenant, &name).await? {
            Ok(table) => sort_rows(&mut sorted, &table, rows),
            Err(Trouble::Upstream(error)) => match &mut sorted.unasked {
                Some((unasked, _)) => unasked.extend(rows),
                none => *none = Some((rows, error)),
            },
            Err(Trouble::Hopeless(reason)) => {
                tracing::error!(tenant = %tenant, row.table = %name, rows = rows.len(), reason, "table cannot be mirrored");
                sorted.stuck.extend(rows.into_iter().map(|row| (row, Stuck::Hopeless(reason.clone()))));
            }
            Err(Trouble::Passing(reason)) => {
                sorted.stuck.extend(rows.into_iter().map(|row| (row, Stuck::Troubled(reason.clone()))));
            }
        }
    }
    Ok(sorted)
}

fn sort_rows(sorted: &mut Sorted, table: &Arc<TableSpec>, rows: Vec<Claimed>) {
    for claimed in rows {
        match claimed.hint.key.resolve(table) {
            Ok(key) => sorted.known.push(Known { claimed, table: Arc::clone(table), key }),
            Err(error) => sorted.stuck.push((claimed, Stuck::Hopeless(error.to_string()))),
        }
    }
}

enum Trouble {
    Upstream(UpstreamError),
    Hopeless(String),
    Passing(String),
}

/// The description of a table, and its mirrored table in line with it.
async fn describe(
    parts: &Parts,
    tenant: Tenant,
    name: &TableName,
) -> Result<Result<Arc<TableSpec>, Trouble>, QueueError> {
    let mut result = parts.catalog.table(tenant.level(), name, None).await;
    if let Err(CatalogError::Refused(_)) = &result
        && let Some(announced) = parts.queue.announced_key(name, tenant).await?
    {
        result = parts.catalog.table(tenant.level(), name, Some(&announced)).await;
    }
    let table = match result {
        Ok(table) => table,
        Err(CatalogError::Upstream(error)) => return Ok(Err(Trouble::Upstream(error))),
        Err(error @ (CatalogError::Unknown { .. } | CatalogError::Refused(_))) => {
            return Ok(Err(Trouble::Hopeless(error.to_string())));
        }
    };
    Ok(match parts.replica.ensure(&table).await {
        Ok(()) => Ok(table),
        Err(error @ SchemaError::Sql { .. }) => Err(Trouble::Passing(crate::telemetry::chain(&error).to_string())),
        Err(error @ (SchemaError::TypeChanged { .. } | SchemaError::KeyChanged { .. })) => {
            Err(Trouble::Hopeless(error.to_string()))
        }
    })
}
