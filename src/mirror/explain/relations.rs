//! Relations between mirrored tables, and indexes for those who join them: all SQL on them.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    domain::{Relation, TableSpec, naming, relations},
    mirror::{
        Mirror, clause,
        identifier::{Identifier, list},
    },
    telemetry::chain,
};

/// How long the making of an index waits for transactions that were open before. Meanwhile a column that is new would
/// wait as well.
const LOCK_TIMEOUT: &str = "set lock_timeout = '2s'";

/// An index that joins would use.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Wanted {
    /// The mirrored table.
    sql_name: String,
    /// Its columns, the tenant's first.
    columns: Vec<String>,
}

/// What changes whenever a description does, or a table is made again.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DescribedState {
    described_at: Option<DateTime<Utc>>,
    /// The tables, as the database numbers them.
    tables: Vec<i64>,
}

impl Mirror {
    /// What relations follow from.
    pub(crate) async fn described_state(&self) -> Result<DescribedState, sqlx::Error> {
        sqlx::query_as!(
            DescribedState,
            r#"select max(described_at) as described_at,
                      array(select relation::bigint from nxt_mirror.mirrored_table where relation is not null
                             order by table_name) as "tables!"
                 from nxt_mirror.mirrored_table"#
        )
        .fetch_one(&self.pool)
        .await
    }

    /// Notes the relations among these tables, and forgets all others.
    pub(crate) async fn note_relations(&self, tables: &[TableSpec]) -> Result<(), sqlx::Error> {
        let found = relations(tables);
        // Arrays of arrays would all have to be of one length.
        let joined = |columns: fn(&Relation) -> &Vec<String>| -> Vec<String> {
            found.iter().map(|relation| columns(relation).join("\n")).collect()
        };
        let texts =
            |text: fn(&Relation) -> &String| -> Vec<String> { found.iter().map(|own| text(own).clone()).collect() };
        sqlx::query!(
            "with given as (
                 select from_table, string_to_array(from_columns, E'\\n') as from_columns, to_table,
                        string_to_array(to_columns, E'\\n') as to_columns, name
                   from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
                     as given (from_table, from_columns, to_table, to_columns, name)
             ), forgotten as (
                 delete from business_nxt_model.relation as known
                  where not exists (
                        select from given
                         where given.from_table = known.from_table and given.name = known.name
                           and given.to_table = known.to_table and given.from_columns = known.from_columns
                           and given.to_columns = known.to_columns)
             )
             insert into business_nxt_model.relation (from_table, from_columns, to_table, to_columns, name)
             select from_table, from_columns, to_table, to_columns, name from given
             on conflict on constraint relation_pkey do nothing",
            &texts(|own| &own.from_table),
            &joined(|own| &own.from_columns),
            &texts(|own| &own.to_table),
            &joined(|own| &own.to_columns),
            &texts(|own| &own.name)
        )
        .execute(&self.pool)
        .await
        .map(drop)
    }

    /// The relations that are known.
    pub(crate) async fn relations(&self) -> Result<Vec<Relation>, sqlx::Error> {
        sqlx::query_as!(
            Relation,
            "select from_table, from_columns, to_table, to_columns, name from business_nxt_model.relation
              order by from_table, from_columns, to_table, name"
        )
        .fetch_all(&self.pool)
        .await
    }

    /// Makes the indexes that joins of these tables would use and that are not there, one after the other and without
    /// keeping writers waiting. Whether all are there; the rest is for another time.
    pub(crate) async fn make_relation_indexes(&self, tables: &[TableSpec]) -> Result<bool, sqlx::Error> {
        let missing: Vec<Wanted> = self.missing_indexes(tables).await?;
        if missing.is_empty() {
            return Ok(true);
        }
        // A session of its own, whose time-out nobody inherits: such an index cannot be made in a transaction.
        let mut connection = PgConnection::connect_with(&self.pool.connect_options()).await?;
        sqlx::query(LOCK_TIMEOUT).execute(&mut connection).await?;
        let mut are_made = true;
        for wanted in missing {
            match make(&mut connection, &wanted).await {
                Ok(()) => tracing::info!(
                    row.table = wanted.sql_name,
                    columns = wanted.columns.join(", "),
                    "index for joins made"
                ),
                // Whatever it is, it concerns this table alone: somebody is at it, or owns it.
                Err(error) if error.as_database_error().is_some() => {
                    tracing::info!(row.table = wanted.sql_name, error = %chain(&error), "index for joins put off");
                    are_made = false;
                }
                Err(error) => return Err(error),
            }
        }
        connection.close().await?;
        Ok(are_made)
    }

    async fn missing_indexes(&self, tables: &[TableSpec]) -> Result<Vec<Wanted>, sqlx::Error> {
        let wanted = wanted(tables, &relations(tables));
        let mut missing = vec![];
        for wanted in wanted {
            let is_there = sqlx::query_scalar!(
                r#"select exists (
                       select from pg_index as index
                        where index.indrelid = to_regclass($1) and index.indisvalid and index.indpred is null
                          and (select array_agg(attribute.attname::text order by part.position)
                                 from unnest(index.indkey::int[]) with ordinality as part (attnum, position)
                                 join pg_attribute as attribute
                                   on attribute.attrelid = index.indrelid and attribute.attnum = part.attnum
                                where part.position <= cardinality($2::text[])) = $2::text[]) as "is_there!""#,
                wanted.table(),
                &wanted.columns
            )
            .fetch_one(&self.pool)
            .await?;
            if !is_there {
                missing.push(wanted);
            }
        }
        Ok(missing)
    }
}

impl Wanted {
    fn table(&self) -> String {
        format!("{}.{}", crate::mirror::identifier::SCHEMA, Identifier(&self.sql_name))
    }

    /// Told by its table and columns, so that one that was not finished is found again.
    fn name(&self) -> String {
        naming::with_ending(&format!("{}_{}", self.sql_name, self.columns.join("_")), "_join")
    }
}

/// Both sides of each relation, where they are not the key. The tenant comes first, by which all joins are told apart.
fn wanted(tables: &[TableSpec], relations: &[Relation]) -> BTreeSet<Wanted> {
    let mut wanted = BTreeSet::new();
    for relation in relations {
        let sides = [(&relation.from_table, &relation.from_columns), (&relation.to_table, &relation.to_columns)];
        for (name, columns) in sides {
            let Some(table) = tables.iter().find(|table| table.name.as_str() == name) else { continue };
            let tenant = table.level.tenant_column();
            let columns: Vec<String> = std::iter::once(tenant.to_owned()).chain(columns.iter().cloned()).collect();
            if !clause::primary_key(table).starts_with(&columns.iter().map(String::as_str).collect::<Vec<_>>()) {
                wanted.insert(Wanted { sql_name: table.sql_name.clone(), columns });
            }
        }
    }
    wanted
}

async fn make(connection: &mut PgConnection, wanted: &Wanted) -> Result<(), sqlx::Error> {
    let (schema, name, table) = (crate::mirror::identifier::SCHEMA, wanted.name(), wanted.table());
    let columns = list("", wanted.columns.iter().map(String::as_str));
    // One that was not finished is of no use to anybody.
    for sql in [
        format!("drop index concurrently if exists {schema}.{}", Identifier(&name)),
        format!("create index concurrently {} on {table} ({columns})", Identifier(&name)),
    ] {
        sqlx::query(AssertSqlSafe(sql)).persistent(false).execute(&mut *connection).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_a_relation_have_an_index_unless_the_key_is_one() {
        let table = |name: &str, columns: &[&str], key: &[usize]| TableSpec {
            key: key.to_vec(),
            ..TableSpec::plain(name, columns)
        };
        let relation = |from: &str, to: &str, column: &str| Relation {
            from_table: from.into(),
            from_columns: vec![column.into()],
            to_table: to.into(),
            to_columns: vec![column.into()],
            name: to.into(),
        };
        let tables = [
            table("OrderLine", &["orderNo", "lineNo"], &[0, 1]),
            table("Order", &["orderNo", "customerNo"], &[0]),
            table("Associate", &["associateNo", "customerNo"], &[0]),
        ];
        let relations = [relation("OrderLine", "Order", "order_no"), relation("Order", "Associate", "customer_no")];
        let found: Vec<String> = wanted(&tables, &relations).iter().map(Wanted::name).collect();
        assert_eq!(found, ["associate__company_no_customer_no_join", "order__company_no_customer_no_join"]);
    }
}
