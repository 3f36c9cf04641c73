//! Losses: mirrored tables that were dropped, replaced, restored or emptied while nobody looked.
//!
//! What the daemon's own tables say of a mirrored one is believed only as far as that bears it out. Whatever was lost is
//! shown as partial from then on, and loaded anew where it is to be loaded.

use sqlx::{AssertSqlSafe, PgConnection};

use super::{BEGIN_CHANGE, Mirror, SchemaError, align, clause, cluster};
use crate::{
    domain::{Owner, TableSpec},
    mirror::identifier::Identifier,
    telemetry::chain,
};

impl Mirror {
    /// Looks whether each table is still the one that was written to, and has rows of each target that had some. Costs
    /// one look into the primary key for each target.
    ///
    /// A table that somebody has locked, or that may not be read, is left for the next start.
    pub async fn look_for_losses(&self) -> Result<(), SchemaError> {
        for spec in self.descriptions().await? {
            match self.look_for_losses_of(&spec).await {
                Err(error) if error.diagnose().owner == Owner::Database => return Err(error),
                Err(error) => tracing::warn!(error = %chain(&error), "not looked whether rows were lost"),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    async fn look_for_losses_of(&self, spec: &TableSpec) -> Result<(), SchemaError> {
        let failed = |source| SchemaError::of(&spec.sql_name, source);
        let mut transaction = self.pool.begin_with(BEGIN_CHANGE).await.map_err(failed)?;
        align::lock(&mut transaction, spec).await.map_err(failed)?;
        let (is_there, is_same) = align::recognize(&mut transaction, spec).await.map_err(failed)?;
        if !is_same {
            align::have_loaded_anew(&mut transaction, spec).await.map_err(failed)?;
        }
        if is_there {
            forget_emptied(&mut transaction, spec).await.map_err(failed)?;
        } else {
            align::forget_rows(&mut transaction, spec).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }
}

/// Targets that had rows and have none are loaded anew.
async fn forget_emptied(connection: &mut PgConnection, spec: &TableSpec) -> Result<(), sqlx::Error> {
    let (kind, name) = (spec.level.name(), spec.name.as_str());
    let numbers = sqlx::query_scalar!(
        r#"select tenant_no from nxt_mirror.target
            where tenant_kind = $1 and lower(table_name) = lower($2 collate "C") and rows > 0"#,
        kind,
        name
    )
    .fetch_all(&mut *connection)
    .await?;
    let emptied = without_rows(&mut *connection, spec, &numbers).await?;
    if emptied.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        r#"with emptied as (
               update nxt_mirror.target as target set rows = 0
                where target.tenant_kind = $1 and lower(target.table_name) = lower($2 collate "C")
                  and target.tenant_no = any($3)
               returning target.id
           )
           delete from nxt_mirror.walk using emptied where walk.target_id = emptied.id"#,
        kind,
        name,
        &emptied
    )
    .execute(connection)
    .await?;
    tracing::warn!(row.table = %spec.name, tenants = ?emptied, "rows are gone from the mirrored table; they are loaded anew");
    Ok(())
}

/// Those of these tenants that have no row. Each question runs on one node of a distributed table, so there it is asked for
/// each tenant by itself.
async fn without_rows(
    connection: &mut PgConnection,
    spec: &TableSpec,
    numbers: &[i64],
) -> Result<Vec<i64>, sqlx::Error> {
    let (table, tenant) = (clause::table(spec), Identifier(spec.level.tenant_column()));
    let has_nodes = cluster::has_nodes(connection).await?;
    if !(has_nodes && cluster::is_distributed(connection, &table).await?) {
        let sql = format!(
            "select no from unnest($1::bigint[]) as no where not exists (select from {table} as m where m.{tenant} = no)"
        );
        return sqlx::query_scalar(AssertSqlSafe(sql)).persistent(false).bind(numbers).fetch_all(connection).await;
    }
    let sql = format!("select exists (select from {table} as m where m.{tenant} = $1)");
    let mut found = vec![];
    for &number in numbers {
        let has_rows: bool = sqlx::query_scalar(AssertSqlSafe(&*sql)).bind(number).fetch_one(&mut *connection).await?;
        if !has_rows {
            found.push(number);
        }
    }
    Ok(found)
}
