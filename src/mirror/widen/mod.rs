//! Columns that the source has widened: given their new type where nothing of the users' own is in the way.
//!
//! A mirrored table and its versions are widened together. A column that cannot be widened now goes on as it is. Values
//! that do not fit are their row's matter, and come back when the column is wide.

mod views;

use sqlx::{Acquire, PgConnection};

use super::{
    Mirror, SchemaError,
    align::{self, align, execute},
    clause, history,
    identifier::Identifier,
    schema,
};
use crate::{
    domain::{Column, Owner, TableSpec},
    telemetry::chain,
};
use views::View;

/// Readers and writers wait while a table is written anew: about a second for so many bytes.
const BYTES_MAX: i64 = 64 * 1024 * 1024;

/// A table of the database with columns that are narrower than in the source.
struct NarrowTable<'a> {
    /// With its schema.
    name: String,
    /// The columns, and their types in the database.
    columns: Vec<(&'a Column, String)>,
}

/// What a person should know of a mirrored table with columns that are narrower than in the source.
#[derive(Debug)]
pub struct Narrow {
    /// Such as `business_nxt."order"."order_no" is integer, and bigint in the source`.
    pub what: String,
    /// Statements that widen the columns, those about views included.
    pub statements: Vec<String>,
}

impl Mirror {
    /// Tables with columns that are narrower than in the source, and what widens them.
    pub async fn narrow_columns(&self) -> Result<Vec<Narrow>, SchemaError> {
        let mut found = Vec::new();
        for spec in self.descriptions().await? {
            found.extend(self.look(&spec).await.map_err(|source| SchemaError::of(&spec.sql_name, source))?);
        }
        Ok(found)
    }

    async fn look(&self, spec: &TableSpec) -> Result<Option<Narrow>, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        let narrow = narrow(&mut connection, spec, self.has_history(spec)).await?;
        if narrow.is_empty() {
            return Ok(None);
        }
        let views = views::find(&mut connection, &narrow).await?;
        let told: Vec<String> = narrow.iter().flat_map(NarrowTable::told).collect();
        Ok(Some(Narrow { what: told.join("; "), statements: statements(&narrow, &views) }))
    }

    /// Looks again at tables that have narrow columns: somebody may have widened them, or taken away what was in the way.
    pub async fn look_at_narrow_tables(&self) -> Result<(), SchemaError> {
        let narrow =
            sqlx::query_scalar!("select table_name from nxt_mirror.mirrored_table where narrow_columns <> '{}'")
                .fetch_all(&self.pool)
                .await
                .map_err(|source| SchemaError::of("nxt_mirror.mirrored_table", source))?;
        if narrow.is_empty() {
            return Ok(());
        }
        for spec in self.descriptions().await? {
            if !narrow.iter().any(|name| name == spec.name.as_str()) {
                continue;
            }
            let has_history = self.has_history(&spec);
            match align(&self.pool, &spec.into(), has_history).await {
                Err(error) if error.diagnose().owner == Owner::Database => return Err(error),
                Err(error) => tracing::warn!(error = %chain(&error), "narrow columns were not looked at"),
                Ok(_) => {}
            }
        }
        Ok(())
    }
}

impl NarrowTable<'_> {
    fn told(&self) -> impl Iterator<Item = String> {
        let told = |(column, actual): &(&Column, String)| {
            let (name, wide) = (Identifier(&column.sql_name), column.kind.sql());
            format!("{}.{name} is {actual}, and {wide} in the source", self.name)
        };
        self.columns.iter().map(told)
    }
}

/// Widens what can be widened now, and returns the columns that stay narrow.
pub(super) async fn widen<'a>(
    connection: &mut PgConnection,
    spec: &'a TableSpec,
    has_history: bool,
) -> Result<Vec<&'a Column>, sqlx::Error> {
    let narrow = narrow(connection, spec, has_history).await?;
    let is_narrow = |column: &&Column| narrow.iter().any(|table| table.columns.iter().any(|(own, _)| own == column));
    let columns: Vec<&Column> = spec.columns.iter().filter(is_narrow).collect();
    if columns.is_empty() {
        return Ok(columns);
    }
    // Values may not have fitted until now: whatever was set aside is tried again when the columns are wide.
    remember(connection, spec, &columns).await?;
    let names = align::names(&columns);
    let views = views::find(connection, &narrow).await?;
    if let Some(view) = views.iter().find(|view| !view.is_ours) {
        tracing::warn!(row.table = %spec.name, columns = names, view = view.name, "columns stay narrow: a view reads them");
        return Ok(columns);
    }
    if size(connection, &narrow).await? > BYTES_MAX {
        tracing::warn!(row.table = %spec.name, columns = names, "columns stay narrow: the table is large");
        return Ok(columns);
    }
    match change(connection, &statements(&narrow, &views)).await {
        Ok(()) => {
            tracing::info!(row.table = %spec.name, columns = names, "columns widened");
            Ok(vec![])
        }
        Err(error) if error.as_database_error().is_some() => {
            tracing::warn!(row.table = %spec.name, columns = names, error = %chain(&error), "columns stay narrow for now");
            Ok(columns)
        }
        Err(error) => Err(error),
    }
}

/// Notes which columns are narrow. When one no longer is, rows of the table that were set aside are tried again.
pub(super) async fn remember(
    connection: &mut PgConnection,
    spec: &TableSpec,
    narrow: &[&Column],
) -> Result<(), sqlx::Error> {
    let narrow: Vec<&str> = narrow.iter().map(|column| column.sql_name.as_str()).collect();
    sqlx::query!(
        r#"with known as (select table_name, narrow_columns from nxt_mirror.mirrored_table where table_name = $1),
                noted as (update nxt_mirror.mirrored_table as mirrored set narrow_columns = $2
                            from known
                           where mirrored.table_name = known.table_name and known.narrow_columns <> $2)
           update nxt_mirror.dead_row as dead set of_target = true
             from known, nxt_mirror.target as target
            where not known.narrow_columns <@ $2 and target.id = dead.target_id and not dead.of_target
              and target.tenant_kind = $3 and lower(target.table_name) = lower($1 collate "C")"#,
        spec.name.as_str(),
        &narrow as _,
        spec.level.name()
    )
    .execute(connection)
    .await
    .map(drop)
}

/// The mirrored table and that of its versions, as far as they have narrow columns.
async fn narrow<'a>(
    connection: &mut PgConnection,
    spec: &'a TableSpec,
    has_history: bool,
) -> Result<Vec<NarrowTable<'a>>, sqlx::Error> {
    let mut found = Vec::new();
    for name in [Some(clause::table(spec)), has_history.then(|| history::table_name(spec))].into_iter().flatten() {
        let existing = align::columns(connection, &name).await?;
        let with_type = |column: &'a Column| {
            let (_, actual) = existing.iter().find(|(name, _)| *name == column.sql_name)?;
            schema::widens(actual, column.kind).then(|| (column, actual.clone()))
        };
        let columns: Vec<_> = spec.columns.iter().filter_map(with_type).collect();
        if !columns.is_empty() {
            found.push(NarrowTable { name, columns });
        }
    }
    Ok(found)
}

fn statements(narrow: &[NarrowTable<'_>], views: &[View]) -> Vec<String> {
    let drops = views.iter().rev().map(|view| view.drop.clone());
    let changes =
        narrow.iter().map(|table| schema::widen_columns(&table.name, table.columns.iter().map(|(own, _)| *own)));
    let makes = views.iter().flat_map(|view| view.make.iter().cloned());
    drops.chain(changes).chain(makes).collect()
}

/// In a savepoint, so that the transaction can go on without.
async fn change(connection: &mut PgConnection, statements: &[String]) -> Result<(), sqlx::Error> {
    let mut savepoint = connection.begin().await?;
    sqlx::query(align::LOCK_TIMEOUT).execute(&mut *savepoint).await?;
    for statement in statements {
        if let Err(error) = execute(&mut savepoint, statement.clone()).await {
            savepoint.rollback().await?;
            return Err(error);
        }
    }
    savepoint.commit().await
}

async fn size(connection: &mut PgConnection, narrow: &[NarrowTable<'_>]) -> Result<i64, sqlx::Error> {
    let tables: Vec<&str> = narrow.iter().map(|table| &*table.name).collect();
    sqlx::query_scalar!(
        r#"select coalesce(sum(pg_total_relation_size(to_regclass(name))), 0)::bigint as "size!" from unnest($1::text[]) as name"#,
        &tables as _
    )
    .fetch_one(connection)
    .await
}
