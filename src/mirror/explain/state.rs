//! What is remembered of a mirrored table beside its description: columns that vanished, labels, and when the model was
//! asked.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{PgConnection, types::Json};

use super::Labels;
use crate::{
    domain::{Column, Language, TableName, TableSpec},
    mirror::Mirror,
};

/// What is remembered of one table.
pub(super) struct State {
    pub(super) columns: Vec<Column>,
    pub(super) labels: Labels,
    pub(super) readable_as: Option<String>,
    pub(super) readable_shown: Option<String>,
}

/// Labels of a table in a language.
#[derive(Debug)]
pub(crate) struct LabelledAs<'a> {
    pub(crate) language: Language,
    pub(crate) labels: &'a Labels,
}

pub(super) async fn read(connection: &mut PgConnection, spec: &TableSpec) -> Result<State, sqlx::Error> {
    let found = sqlx::query!(
        r#"select columns as "columns: Json<serde_json::Value>", label,
                  column_labels as "column_labels: Json<BTreeMap<String, String>>", readable_as,
                  readable_shown
             from nxt_mirror.explanation where table_name = $1"#,
        spec.name.as_str()
    )
    .fetch_optional(connection)
    .await?;
    let Some(found) = found else {
        return Ok(State { columns: vec![], labels: Labels::default(), readable_as: None, readable_shown: None });
    };
    // Columns that another version wrote in another form are learned anew.
    let columns = serde_json::from_value(found.columns.0).unwrap_or_default();
    let labels = Labels { table: found.label, columns: found.column_labels.0 };
    Ok(State { columns, labels, readable_as: found.readable_as, readable_shown: found.readable_shown })
}

pub(super) async fn remember(
    connection: &mut PgConnection,
    spec: &TableSpec,
    columns: &[Column],
    readable_as: &str,
    readable_shown: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into nxt_mirror.explanation as known (table_name, columns, readable_as, readable_shown)
         values ($1, $2, $3, $4)
         on conflict on constraint explanation_pkey
         do update set columns = excluded.columns, readable_as = excluded.readable_as,
                       readable_shown = excluded.readable_shown
          where row(known.columns, known.readable_as, known.readable_shown)
                is distinct from row(excluded.columns, excluded.readable_as, excluded.readable_shown)",
        spec.name.as_str(),
        Json(columns) as _,
        readable_as,
        readable_shown
    )
    .execute(connection)
    .await
    .map(drop)
}

impl Mirror {
    /// Takes tables whose labels are to be asked for: those that have none in this language, those whose description has
    /// changed since, and those that were asked for longer ago than `interval`, or not by a process that began after
    /// `begun_at`. A table that is taken is left alone by all replicas until the model has answered, or for as long
    /// as `pause`.
    pub(crate) async fn take_due_labels(
        &self,
        language: Language,
        interval: Duration,
        began_ago: Duration,
        pause: Duration,
    ) -> Result<Vec<TableSpec>, sqlx::Error> {
        let specs: Vec<Json<serde_json::Value>> = sqlx::query_scalar!(
            r#"with due as (
                   select mirrored.table_name, mirrored.spec
                     from nxt_mirror.mirrored_table as mirrored
                     left join nxt_mirror.explanation as known on known.table_name = mirrored.table_name
                    where (known.answered_at is null or known.language is distinct from $1
                           or known.answered_at < mirrored.described_at or known.answered_at < now() - make_interval(secs => $2)
                           or known.answered_at < now() - make_interval(secs => $3))
                      and (known.asked_at is not distinct from known.answered_at
                           or known.asked_at < now() - make_interval(secs => $4))
                    order by mirrored.table_name limit 20
               ), taken as (
                   insert into nxt_mirror.explanation as known (table_name, asked_at)
                   select table_name, now() from due
                   on conflict on constraint explanation_pkey do update set asked_at = now()
                    where known.asked_at is not distinct from known.answered_at
                       or known.asked_at < now() - make_interval(secs => $4)
                   returning known.table_name
               )
               select due.spec as "spec!: _" from due join taken using (table_name)"#,
            language.name(),
            interval.as_secs_f64(),
            began_ago.as_secs_f64(),
            pause.as_secs_f64()
        )
        .fetch_all(&self.pool)
        .await?;
        Ok(specs.into_iter().filter_map(|Json(spec)| serde_json::from_value(spec).ok()).collect())
    }

    /// Notes the labels of a table.
    pub(crate) async fn note_labels(&self, table: &TableName, found: LabelledAs<'_>) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "update nxt_mirror.explanation
                set language = $2, label = $3, column_labels = $4, answered_at = asked_at
              where table_name = $1",
            table.as_str(),
            found.language.name(),
            found.labels.table.as_deref(),
            Json(&found.labels.columns) as _
        )
        .execute(&self.pool)
        .await
        .map(drop)
    }
}
