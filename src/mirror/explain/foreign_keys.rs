//! Foreign keys that nothing enforces, for the tools that draw a diagram from them: all SQL on them.
//!
//! PostgreSQL has them since version 18. Rows are never checked against such a key, so that those of two tables come
//! when they come. It needs a unique constraint on what it refers to. Of a mirrored table that is the primary key alone:
//! other relations stay without.

use std::collections::BTreeSet;

use sqlx::{Connection, PgConnection};

use super::{comment, run, server_version};
use crate::{
    domain::{Relation, TableSpec, naming, relations},
    mirror::{
        BEGIN_CHANGE, Mirror, clause, cluster,
        identifier::{Identifier, SCHEMA, list},
    },
    telemetry::chain,
};

/// Since when a foreign key can be declared and not enforced.
const NOT_ENFORCED_VERSION: i32 = 180_000;
/// Tells our keys from those that people made.
const COMMENT: &str = "A relation of the API, for tools that draw it. Nothing enforces it. Kept by nxt-mirror.";

/// A relation as a foreign key would tell it, with the tenant's column first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct ForeignKey {
    /// Told by its tables and columns, so that one on columns that were renamed is found again.
    name: String,
    /// The table that refers to the other one, with its schema.
    from_table: String,
    from_columns: Vec<String>,
    to_table: String,
    to_columns: Vec<String>,
}

impl Mirror {
    /// Makes the foreign keys that the relations among these tables call for, and drops those that they no longer call
    /// for. Whether all is done; the rest is for another time. An older server has none.
    pub(crate) async fn make_foreign_keys(&self, tables: &[TableSpec]) -> Result<bool, sqlx::Error> {
        let mut connection = self.pool.acquire().await?;
        if server_version(&mut connection).await? < NOT_ENFORCED_VERSION {
            return Ok(true);
        }
        let wanted = wanted(tables, &relations(tables));
        let mut statements = obsolete(&mut connection, &wanted).await?;
        // A table that is distributed has its own rules.
        let has_nodes = cluster::has_nodes(&mut connection).await?;
        for key in wanted {
            if !has_nodes && key.is_missing(&mut connection).await? {
                statements.push(key.create());
            }
        }
        let mut is_done = true;
        for statement in statements {
            match change(&mut connection, &statement).await {
                Ok(()) => tracing::info!(statement = statement[0], "foreign keys brought in line with the relations"),
                // Whatever it is, it concerns these two tables alone: somebody is at them, or owns them.
                Err(error) if error.as_database_error().is_some() => {
                    tracing::info!(statement = statement[0], error = %chain(&error), "a foreign key is put off");
                    is_done = false;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(is_done)
    }
}

impl ForeignKey {
    fn new(from: &TableSpec, to: &TableSpec, relation: &Relation) -> Option<Self> {
        let tenant = from.level.tenant_column();
        let is_itself = from.name == to.name && relation.from_columns == relation.to_columns;
        if to.level.tenant_column() != tenant || is_itself {
            return None;
        }
        let with_tenant =
            |columns: &[String]| std::iter::once(tenant.to_owned()).chain(columns.iter().cloned()).collect();
        let columns = relation.from_columns.join("_");
        Some(Self {
            name: naming::with_ending(&format!("{}_{columns}_{}", from.sql_name, to.sql_name), "_relation"),
            from_table: clause::table(from),
            from_columns: with_tenant(&relation.from_columns),
            to_table: clause::table(to),
            to_columns: with_tenant(&relation.to_columns),
        })
    }

    /// Whether it can be made and nobody has made it. PostgreSQL would refuse types of different kinds.
    async fn is_missing(&self, connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar!(
            r#"with pair as (
                   select own.attnum as own_no, other.attnum as other_no, given.other_name,
                          own.atttypid = other.atttypid or (own.atttypid::regtype::text in ('smallint', 'integer', 'bigint')
                              and other.atttypid::regtype::text in ('smallint', 'integer', 'bigint')) as fits
                     from unnest($2::text[], $4::text[]) as given (own_name, other_name)
                     join pg_attribute as own on own.attrelid = to_regclass($1) and own.attname = given.own_name
                     join pg_attribute as other on other.attrelid = to_regclass($3) and other.attname = given.other_name
               )
               select (select count(*) = cardinality($2::text[]) and bool_and(fits) from pair)
                  and exists (
                      select from pg_index as index
                       where index.indrelid = to_regclass($3) and index.indisprimary
                         and array(select unnest(index.indkey::int2[]) order by 1)
                             = array(select other_no from pair order by other_no))
                  and not exists (
                      select from pg_constraint as known
                       where known.contype = 'f' and known.conrelid = to_regclass($1)
                         and known.confrelid = to_regclass($3)
                         and array(select row(key.own_no, key.other_no)::text
                                     from unnest(known.conkey, known.confkey) as key (own_no, other_no) order by 1)
                             = array(select row(own_no, other_no)::text from pair order by 1))
                  and not exists (
                      select from pg_constraint as people_s
                       where people_s.conrelid = to_regclass($1) and people_s.conname = $5
                         and obj_description(people_s.oid, 'pg_constraint') is distinct from $6) as "is_missing!""#,
            self.from_table,
            &self.from_columns,
            self.to_table,
            &self.to_columns,
            self.name,
            COMMENT
        )
        .fetch_one(connection)
        .await
    }

    /// One of the name may be left on columns that were renamed.
    fn create(&self) -> Vec<String> {
        let (name, table) = (Identifier(&self.name), &self.from_table);
        let columns = |columns: &[String]| list("", columns.iter().map(String::as_str));
        vec![
            format!(
                "alter table {table} drop constraint if exists {name}, add constraint {name} foreign key ({}) \
                 references {} ({}) not enforced",
                columns(&self.from_columns),
                self.to_table,
                columns(&self.to_columns)
            ),
            format!("comment on constraint {name} on {table} is {}", comment::literal(COMMENT)),
        ]
    }
}

/// One for each pair of tables and columns, whatever number of relations tell of it.
fn wanted(tables: &[TableSpec], relations: &[Relation]) -> BTreeSet<ForeignKey> {
    let find = |name: &str| tables.iter().find(|table| table.name.as_str() == name);
    let told = |relation: &Relation| ForeignKey::new(find(&relation.from_table)?, find(&relation.to_table)?, relation);
    relations.iter().filter_map(told).collect()
}

/// Statements that drop those of ours that no relation calls for.
async fn obsolete(
    connection: &mut PgConnection,
    wanted: &BTreeSet<ForeignKey>,
) -> Result<Vec<Vec<String>>, sqlx::Error> {
    let names: Vec<&str> = wanted.iter().map(|key| key.name.as_str()).collect();
    let drops = sqlx::query_scalar!(
        r#"select format('alter table %I.%I drop constraint if exists %I', space.nspname, class.relname, known.conname)
                      as "drop!"
             from pg_constraint as known
             join pg_class as class on class.oid = known.conrelid
             join pg_namespace as space on space.oid = class.relnamespace
            where known.contype = 'f' and space.nspname = $1
              and obj_description(known.oid, 'pg_constraint') = $2 and known.conname <> all ($3::text[])"#,
        SCHEMA.0,
        COMMENT,
        &names as _
    )
    .fetch_all(connection)
    .await?;
    Ok(drops.into_iter().map(|drop| vec![drop]).collect())
}

async fn change(connection: &mut PgConnection, statements: &[String]) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin_with(BEGIN_CHANGE).await?;
    run(&mut transaction, statements.to_vec()).await?;
    transaction.commit().await
}
