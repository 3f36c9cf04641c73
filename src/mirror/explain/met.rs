//! Values of columns whose values have names, as they are met in rows.
//!
//! Each process remembers which ones it has noted, so that nothing is written for nearly all rows. What is noted stands
//! in a table to which rows are only added, so that writers do not meet in it.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use crate::{
    domain::{Column, Row, TargetTable, Twin, Value},
    mirror::Mirror,
};

/// Values of one column that are noted; more than these have no names.
const VALUES_MAX: usize = 1_000;

/// What this process has noted: values by table and column.
#[derive(Debug, Default)]
pub(in crate::mirror) struct MetValues(Mutex<HashMap<(String, String), HashSet<i64>>>);

/// A value that is met for the first time.
struct Met<'a> {
    column: &'a Column,
    value: i64,
}

impl Mirror {
    /// Notes values of these rows that this process has not met before. To be called without a transaction.
    pub async fn meet_values<'a>(
        &self,
        target: &TargetTable,
        rows: impl IntoIterator<Item = &'a Row>,
    ) -> Result<(), sqlx::Error> {
        let named: Vec<(usize, &Column)> =
            target.table.columns.iter().enumerate().filter(|(_, column)| has_names(column)).collect();
        if named.is_empty() {
            return Ok(());
        }
        let met = self.met_values.new_ones(target, &named, rows);
        if met.is_empty() {
            return Ok(());
        }
        let noted = self.note_values(target, &met).await;
        if noted.is_ok() {
            self.met_values.remember(target, &met);
        }
        noted
    }

    async fn note_values(&self, target: &TargetTable, met: &[Met<'_>]) -> Result<(), sqlx::Error> {
        let columns: Vec<&str> = met.iter().map(|met| met.column.sql_name.as_str()).collect();
        let values: Vec<i64> = met.iter().map(|met| met.value).collect();
        let are_flags: Vec<bool> = met.iter().map(|met| met.column.twin == Some(Twin::Flags)).collect();
        sqlx::query!(
            "insert into nxt_mirror.met_value (table_name, column_name, value, is_flags, tenant_kind, tenant_no)
             select $1, given.column_name, given.value, given.is_flags, $5, $6
               from unnest($2::text[], $3::bigint[], $4::boolean[]) as given (column_name, value, is_flags)",
            target.table.name.as_str(),
            &columns as &[&str],
            &values,
            &are_flags,
            target.tenant.kind(),
            target.tenant.number()
        )
        .execute(&self.pool)
        .await
        .map(drop)
    }
}

fn has_names(column: &Column) -> bool {
    column.twin.is_some_and(Twin::has_names)
}

impl MetValues {
    fn new_ones<'a, 'c>(
        &self,
        target: &TargetTable,
        named: &[(usize, &'c Column)],
        rows: impl IntoIterator<Item = &'a Row>,
    ) -> Vec<Met<'c>> {
        let known = self.0.lock();
        let mut new: HashSet<(usize, i64)> = HashSet::new();
        let known: Vec<Option<&HashSet<i64>>> =
            named.iter().map(|(_, column)| known.get(&id(target, column))).collect();
        for row in rows {
            for (place, (index, _)) in named.iter().enumerate() {
                let Some(Value::Int(value)) = row.values.get(*index) else { continue };
                let is_known = |known: &HashSet<i64>| known.len() >= VALUES_MAX || known.contains(value);
                if !known[place].is_some_and(is_known) && new.len() < VALUES_MAX {
                    new.insert((place, *value));
                }
            }
        }
        new.into_iter().map(|(place, value)| Met { column: named[place].1, value }).collect()
    }

    fn remember(&self, target: &TargetTable, met: &[Met<'_>]) {
        let mut known = self.0.lock();
        for met in met {
            known.entry(id(target, met.column)).or_default().insert(met.value);
        }
    }
}

fn id(target: &TargetTable, column: &Column) -> (String, String) {
    (target.table.sql_name.clone(), column.sql_name.clone())
}
