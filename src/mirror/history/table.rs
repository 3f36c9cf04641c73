//! History tables in line with their mirrored ones: made when missing, given new columns, never robbed of one.

use sqlx::PgConnection;

use super::statement;
use crate::{
    domain::{Column, TableSpec, naming::as_of_name},
    mirror::{
        SchemaError,
        align::{add, columns, create_schema, execute, missing},
        clause, cluster,
        error::{is_full, is_lock_timeout},
    },
};

/// Brings the history table in line with the mirrored one, which is. Returns the columns that it cannot get now.
pub(in crate::mirror) async fn align<'a>(
    connection: &mut PgConnection,
    spec: &'a TableSpec,
    is_distributed: bool,
) -> Result<Vec<&'a Column>, SchemaError> {
    let failed = |source| SchemaError::of(&spec.sql_name, source);
    let mirrored = columns(connection, &clause::table(spec)).await.map_err(failed)?;
    let existing = columns(connection, &statement::history(spec)).await.map_err(failed)?;
    let typed = |column: &Column| mirrored.iter().find(|(name, _)| *name == column.sql_name).cloned();
    if existing.is_empty() {
        create_schema(connection, "business_nxt_history").await.map_err(failed)?;
        let columns: Vec<_> = spec.columns.iter().filter_map(typed).collect();
        for sql in [statement::create(spec, &columns), statement::create_index(spec)] {
            execute(connection, sql).await.map_err(failed)?;
        }
        if is_distributed {
            let history = statement::history(spec);
            execute(connection, statement::identify_by_all_columns(spec)).await.map_err(failed)?;
            cluster::distribute(connection, &history, spec.level.tenant_column()).await.map_err(failed)?;
        }
        execute(connection, statement::create_as_of(spec, is_distributed)).await.map_err(failed)?;
        tracing::info!(row.table = %spec.name, "history table made");
        return Ok(vec![]);
    }
    if is_distributed && !has_own_plan(connection, spec).await.map_err(failed)? {
        execute(connection, statement::create_as_of(spec, is_distributed)).await.map_err(failed)?;
    }
    let missing: Vec<&Column> =
        missing(spec, &existing)?.into_iter().filter(|column| typed(column).is_some()).collect();
    let columns: Vec<_> = missing.iter().copied().filter_map(typed).collect();
    if columns.is_empty() {
        return Ok(vec![]);
    }
    match add(connection, statement::add_columns(spec, &columns)).await {
        Ok(()) => Ok(vec![]),
        // The mirrored table goes on without them, too, so that versions and rows stay equal.
        Err(error) if is_lock_timeout(&error) || is_full(&error) => {
            tracing::warn!(row.table = %spec.name, "history table is in use or full, columns are added later");
            Ok(missing)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Whether the function that returns the rows of a moment is one of its own, as distributed tables need. It is not where
/// the table was distributed later.
async fn has_own_plan(connection: &mut PgConnection, spec: &TableSpec) -> Result<bool, sqlx::Error> {
    let name = as_of_name(&spec.sql_name);
    sqlx::query_scalar!(
        r#"select exists (
               select from pg_proc as function join pg_language as language on language.oid = function.prolang
                where function.pronamespace = to_regnamespace('business_nxt_history') and function.proname = $1
                  and language.lanname = 'plpgsql') as "exists!""#,
        name
    )
    .fetch_one(connection)
    .await
}
