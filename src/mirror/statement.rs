//! SQL texts made from a table's description.

use super::identifier::{Identifier, SCHEMA, list};
use crate::domain::{Column, ColumnType, TableSpec};

/// The mirrored table with its schema.
pub(super) fn table(spec: &TableSpec) -> String {
    format!("{SCHEMA}.{}", Identifier(&spec.sql_name))
}

/// Tenant and key columns, in the order of the primary key.
pub(super) fn primary_key(spec: &TableSpec) -> Vec<&str> {
    std::iter::once(spec.level.tenant_column())
        .chain(spec.key_columns().map(|column| column.sql_name.as_str()))
        .collect()
}

/// A new table with its primary key.
pub(super) fn create(spec: &TableSpec) -> String {
    let columns: String = spec
        .columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let constraint = if spec.key.contains(&index) { " not null" } else { "" };
            format!("    {} {}{constraint},\n", Identifier(&column.sql_name), column.kind.sql())
        })
        .collect();
    format!(
        "create table if not exists {} (\n    {} bigint not null,\n{columns}    _changed_at timestamptz,\n    \
         _fetched_at timestamptz not null,\n    _deleted_at timestamptz,\n    _notification_id bigint,\n    \
         primary key ({})\n)",
        table(spec),
        Identifier(spec.level.tenant_column()),
        list("", primary_key(spec)),
    )
}

/// An index that finds rows whose key differs by case and trailing blanks alone; none for keys without text.
pub(super) fn create_spelling_index(spec: &TableSpec) -> Option<String> {
    has_text_key(spec).then(|| {
        let columns: Vec<_> = spec.key_columns().map(|column| folded("", column)).collect();
        format!(
            "create index if not exists {} on {} ({}, {})",
            Identifier(&format!("{}_spelling", spec.sql_name.chars().take(50).collect::<String>())),
            table(spec),
            Identifier(spec.level.tenant_column()),
            columns.join(", ")
        )
    })
}

/// A column that the table does not have yet; null for all rows until they are fetched again.
pub(super) fn add_column(spec: &TableSpec, column: &Column) -> String {
    format!(
        "alter table {} add column if not exists {} {}",
        table(spec),
        Identifier(&column.sql_name),
        column.kind.sql()
    )
}

/// Times of the mirrored rows among the keys in `$2`, for tenant `$1`.
pub(super) fn known(spec: &TableSpec) -> String {
    format!(
        "select i._position, m._changed_at, m._fetched_at from {} join {} m on m.{} = $1 and {} \
         where m._deleted_at is null",
        key_input(spec),
        table(spec),
        Identifier(spec.level.tenant_column()),
        same_key(spec),
    )
}

/// Writes the rows in `$1`; answers with the keys of those that were new or different.
pub(super) fn upsert(spec: &TableSpec) -> String {
    let table = table(spec);
    let source = || spec.columns.iter().map(|column| column.sql_name.as_str());
    let own = [spec.level.tenant_column(), "_changed_at", "_fetched_at", "_notification_id"];
    let all = list("", own.into_iter().chain(source()));
    let updated: Vec<_> =
        own[1..].iter().copied().chain(source()).map(|name| format!("{0} = excluded.{0}", Identifier(name))).collect();
    format!(
        "insert into {table} as m ({all}) select {all} from json_populate_recordset(null::{table}, $1::json) \
         order by {key} \
         on conflict ({key}) do update set _deleted_at = null, {updated} \
         where m._deleted_at is not null or row({mirrored}) is distinct from row({fetched}) \
         returning {returned}::text",
        key = list("", primary_key(spec)),
        updated = updated.join(", "),
        mirrored = list("m.", source()),
        fetched = list("excluded.", source()),
        returned = key_output(spec),
    )
}

/// Removes the rows whose keys are in `$2`, for tenant `$1`; answers with the keys of those that were there.
pub(super) fn delete(spec: &TableSpec) -> String {
    format!(
        "delete from {} m using {} where m.{} = $1 and {} and m._deleted_at is null returning {}::text",
        table(spec),
        key_input(spec),
        Identifier(spec.level.tenant_column()),
        same_key(spec),
        key_output(spec),
    )
}

/// Marks the rows whose keys are in `$2` as deleted at `_deleted_at`, for tenant `$1`.
pub(super) fn soft_delete(spec: &TableSpec) -> String {
    format!(
        "update {} m set _deleted_at = i._deleted_at from {} where m.{} = $1 and {} and m._deleted_at is null \
         returning {}::text",
        table(spec),
        key_input(spec),
        Identifier(spec.level.tenant_column()),
        same_key(spec),
        key_output(spec),
    )
}

/// Keys of rows that differ from those in `$2` by case and trailing blanks alone, for tenant `$1`.
pub(super) fn other_spellings(spec: &TableSpec) -> String {
    let alike: Vec<_> =
        spec.key_columns().map(|column| format!("{} = {}", folded("m.", column), folded("i.", column))).collect();
    format!(
        "select distinct {}::text from {} join {} m on m.{} = $1 and {} where not ({}) and m._deleted_at is null",
        key_output(spec),
        key_input(spec),
        table(spec),
        Identifier(spec.level.tenant_column()),
        alike.join(" and "),
        same_key(spec),
    )
}

/// Keys of rows that were fetched before `$3`, for tenant `$1`, behind the key in `$2` if there is one, `$4` of them.
pub(super) fn keys_fetched_before(spec: &TableSpec, is_first: bool) -> String {
    let keys = || spec.key_columns().map(|column| column.sql_name.as_str());
    let behind = if is_first {
        // The parameter is used all the same, so that both forms take the same ones.
        "$2::text is not null".to_owned()
    } else {
        format!("({}) > (select {} from {})", list("m.", keys()), list("i.", keys()), key_input(spec))
    };
    format!(
        "select {}::text from {} m where m.{} = $1 and m._deleted_at is null and m._fetched_at < $3 and {behind} \
         order by {} limit $4",
        key_output(spec),
        table(spec),
        Identifier(spec.level.tenant_column()),
        list("m.", keys()),
    )
}

/// Compares the rows in `$1` with the mirror; answers with the keys of those that are missing (null) or different (the
/// names of the columns).
pub(super) fn compare(spec: &TableSpec) -> String {
    let table = table(spec);
    let columns = || spec.columns.iter().map(|column| column.sql_name.as_str());
    let same: Vec<_> = primary_key(spec).into_iter().map(|name| format!("m.{0} = i.{0}", Identifier(name))).collect();
    let named: Vec<_> = columns()
        .map(|name| {
            let text = name.replace('\'', "''");
            format!("case when m.{0} is distinct from i.{0} then '{text}' end", Identifier(name))
        })
        .collect();
    let key = list("i.", spec.key_columns().map(|column| column.sql_name.as_str()));
    format!(
        "select json_build_array({key})::text, \
                case when m._fetched_at is not null then array_remove(array[{named}]::text[], null) end \
           from json_populate_recordset(null::{table}, $1::json) i \
           left join {table} m on {same} and m._deleted_at is null \
          where m._fetched_at is null or row({mirrored}) is distinct from row({fetched})",
        named = named.join(", "),
        same = same.join(" and "),
        mirrored = list("m.", columns()),
        fetched = list("i.", columns()),
    )
}

/// Whether another spelling of a key may name the same row.
pub(super) fn has_text_key(spec: &TableSpec) -> bool {
    spec.key_columns().any(|column| column.kind == ColumnType::Text)
}

/// Keys as a table `i`, with `_position` and `_deleted_at` beside the key columns.
fn key_input(spec: &TableSpec) -> String {
    let columns: String =
        spec.key_columns().map(|column| format!(", {} {}", Identifier(&column.sql_name), column.kind.sql())).collect();
    format!("json_to_recordset($2::json) as i (_position bigint, _deleted_at timestamptz{columns})")
}

fn key_output(spec: &TableSpec) -> String {
    format!("json_build_array({})", list("m.", spec.key_columns().map(|column| column.sql_name.as_str())))
}

fn same_key(spec: &TableSpec) -> String {
    let equal: Vec<_> =
        spec.key_columns().map(|column| format!("m.{0} = i.{0}", Identifier(&column.sql_name))).collect();
    equal.join(" and ")
}

fn folded(prefix: &str, column: &Column) -> String {
    let name = Identifier(&column.sql_name);
    match column.kind {
        ColumnType::Text => format!("lower(rtrim({prefix}{name}))"),
        _ => format!("{prefix}{name}"),
    }
}
