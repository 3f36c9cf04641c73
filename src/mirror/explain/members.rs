//! Names of values: all SQL on them.

use super::tenants::storable;
use crate::{
    domain::{TableSpec, Tenant},
    mirror::Mirror,
};

impl Mirror {
    /// Takes over names of values: the column's identifier in lower case, the value, its name. They replace others.
    pub(crate) async fn note_members(
        &self,
        table: &TableSpec,
        members: &[(String, i64, String)],
    ) -> Result<(), sqlx::Error> {
        let sql_name = |name: &str| {
            let column = table.columns.iter().find(|column| column.name.eq_ignore_ascii_case(name));
            column.map(|column| column.sql_name.clone())
        };
        let (mut columns, mut values, mut names) = (vec![], vec![], vec![]);
        for (column, value, name) in members {
            if let Some(column) = sql_name(column) {
                columns.push(column);
                values.push(*value);
                names.push(storable(name));
            }
        }
        if columns.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "with noted as (
                 insert into business_nxt_model.enum_member as known (table_name, column_name, value, name)
                 select distinct on (given.column_name, given.value) $1, given.column_name, given.value, given.name
                   from unnest($2::text[], $3::bigint[], $4::text[]) as given (column_name, value, name)
                 on conflict on constraint enum_member_pkey do update set name = excluded.name
                  where known.name is distinct from excluded.name
             )
             delete from nxt_mirror.unnamed_value as unnamed
              using unnest($2::text[], $3::bigint[]) as given (column_name, value)
              where unnamed.table_name = $1 and unnamed.column_name = given.column_name and unnamed.value = given.value",
            table.name.as_str(),
            &columns,
            &values,
            &names
        )
        .execute(&self.pool)
        .await
        .map(drop)
    }
}

/// A value whose name is not known.
#[derive(Debug, Clone)]
pub(crate) struct Unnamed {
    pub(crate) table: String,
    pub(crate) column: String,
    pub(crate) value: i64,
    pub(crate) tenant: Tenant,
}

impl Mirror {
    /// Takes in the values that writers have met: they stand among the names of values from now on, those of flags bit by
    /// bit, and their names are to be asked for.
    pub(crate) async fn gather_met_values(&self) -> Result<(), sqlx::Error> {
        // One table a statement: where the names are on every node, no statement can change them and others.
        let mut transaction = self.pool.begin().await?;
        let parts = sqlx::query!(
            r#"with met as (delete from nxt_mirror.met_value returning *)
             select table_name, column_name, value as whole, tenant_kind, tenant_no,
                    case when is_flags then 1::bigint << bit else value end as "value!"
               from met, generate_series(0, case when is_flags then 63 else 0 end) as bit
              where not is_flags or value & (1::bigint << bit) <> 0"#
        )
        .fetch_all(&mut *transaction)
        .await?;
        if parts.is_empty() {
            return transaction.commit().await;
        }
        let tables: Vec<String> = parts.iter().map(|part| part.table_name.clone()).collect();
        let columns: Vec<String> = parts.iter().map(|part| part.column_name.clone()).collect();
        let values: Vec<i64> = parts.iter().map(|part| part.value).collect();
        let wholes: Vec<i64> = parts.iter().map(|part| part.whole).collect();
        let kinds: Vec<String> = parts.iter().map(|part| part.tenant_kind.clone()).collect();
        let numbers: Vec<i64> = parts.iter().map(|part| part.tenant_no).collect();
        sqlx::query!(
            "insert into business_nxt_model.enum_member (table_name, column_name, value)
             select distinct table_name, column_name, value
               from unnest($1::text[], $2::text[], $3::bigint[]) as part (table_name, column_name, value)
             on conflict on constraint enum_member_pkey do nothing",
            &tables,
            &columns,
            &values
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!(
            "insert into nxt_mirror.unnamed_value (table_name, column_name, value, tenant_kind, tenant_no)
             select distinct on (part.table_name, part.column_name, part.whole)
                    part.table_name, part.column_name, part.whole, part.tenant_kind, part.tenant_no
               from unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::bigint[])
                      as part (table_name, column_name, value, whole, tenant_kind, tenant_no)
              where not exists (
                        select from business_nxt_model.enum_member as known
                         where known.table_name = part.table_name and known.column_name = part.column_name
                           and known.value = part.value and known.name is not null)
             on conflict on constraint unnamed_value_pkey
             do update set tenant_kind = excluded.tenant_kind, tenant_no = excluded.tenant_no",
            &tables,
            &columns,
            &values,
            &wholes,
            &kinds,
            &numbers
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await
    }

    /// Takes values whose turn it is to be asked for, the simplest ones first. Each is left alone after that, ever longer.
    pub(crate) async fn take_unnamed(&self, values_max: i64) -> Result<Vec<Unnamed>, sqlx::Error> {
        let taken = sqlx::query!(
            "with due as (
                 select table_name, column_name, value from nxt_mirror.unnamed_value
                  where ask_at <= now() order by attempts, bit_count(value::bit(64)), table_name, column_name, value
                  limit $1 for update skip locked
             )
             update nxt_mirror.unnamed_value as unnamed
                set attempts = unnamed.attempts + 1,
                    ask_at = now() + make_interval(secs => least(30 * 2 ^ least(unnamed.attempts, 20), 86400))
               from due
              where unnamed.table_name = due.table_name and unnamed.column_name = due.column_name
                and unnamed.value = due.value
             returning unnamed.table_name, unnamed.column_name, unnamed.value, unnamed.tenant_kind, unnamed.tenant_no",
            values_max
        )
        .fetch_all(&self.pool)
        .await?;
        let unnamed = taken.into_iter().filter_map(|row| {
            let tenant = Tenant::from_parts(&row.tenant_kind, row.tenant_no)?;
            Some(Unnamed { table: row.table_name, column: row.column_name, value: row.value, tenant })
        });
        Ok(unnamed.collect())
    }

    /// Other values of a column whose names are not known, the simplest ones first.
    pub(crate) async fn unnamed_beside(
        &self,
        table: &str,
        column: &str,
        values: &[i64],
        values_max: i64,
    ) -> Result<Vec<Unnamed>, sqlx::Error> {
        let beside = sqlx::query!(
            "select value, tenant_kind, tenant_no from nxt_mirror.unnamed_value
              where table_name = $1 and column_name = $2 and value <> all ($3)
              order by bit_count(value::bit(64)), value limit $4",
            table,
            column,
            values,
            values_max
        )
        .fetch_all(&self.pool)
        .await?;
        let unnamed = beside.into_iter().filter_map(|row| {
            let tenant = Tenant::from_parts(&row.tenant_kind, row.tenant_no)?;
            Some(Unnamed { table: table.to_owned(), column: column.to_owned(), value: row.value, tenant })
        });
        Ok(unnamed.collect())
    }

    /// The names of a column's values that are known.
    pub(crate) async fn names(&self, table: &str, column: &str) -> Result<Vec<(i64, String)>, sqlx::Error> {
        let names = sqlx::query!(
            r#"select value, name as "name!" from business_nxt_model.enum_member
                where table_name = $1 and column_name = $2 and name is not null"#,
            table,
            column
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(names.into_iter().map(|row| (row.value, row.name)).collect())
    }

    /// A value is not asked for any more.
    pub(crate) async fn forget_unnamed(&self, unnamed: &Unnamed) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "delete from nxt_mirror.unnamed_value where table_name = $1 and column_name = $2 and value = $3",
            &unnamed.table,
            &unnamed.column,
            unnamed.value
        )
        .execute(&self.pool)
        .await
        .map(drop)
    }
}
