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
        "select i._position, m._changed_at, m._fetched_at from {} {}",
        key_input(spec),
        looked_up(spec, &["_changed_at", "_fetched_at"], &same_key(spec)),
    )
}

/// Joins each input key `i` to its mirrored rows `m` that are not deleted, key by key. A fence keeps the planner from
/// reading all rows of the tenant for each key, which it thinks are few as long as the table is not analyzed.
fn looked_up<'a>(spec: &'a TableSpec, columns: &[&'a str], condition: &str) -> String {
    let key = spec.key_columns().map(|column| column.sql_name.as_str());
    format!(
        "cross join lateral (select m.ctid, {} from {} m where m.{} = $1 and {condition} and m._deleted_at is null offset 0) m",
        list("m.", columns.iter().copied().chain(key)),
        table(spec),
        Identifier(spec.level.tenant_column()),
    )
}

/// Writes the rows in `$1`; answers with the keys of those that were new or different.
pub(super) fn upsert(spec: &TableSpec) -> String {
    let own = [spec.level.tenant_column(), "_changed_at", "_fetched_at", "_notification_id"];
    let columns = list("", own.into_iter().chain(source_columns(spec)));
    let rows = format!("select {columns} from json_populate_recordset(null::{}, $1::json)", table(spec));
    format!("{} returning {}::text", insert(spec, &columns, &rows, own[1..].iter().copied()), key_output(spec))
}

/// Writes these rows; where one is there and different, all its source columns and its `bookkeeping` are replaced.
fn insert<'a>(spec: &'a TableSpec, columns: &str, rows: &str, bookkeeping: impl Iterator<Item = &'a str>) -> String {
    let set: Vec<_> =
        bookkeeping.chain(source_columns(spec)).map(|name| format!("{0} = excluded.{0}", Identifier(name))).collect();
    format!(
        "insert into {table} as m ({columns}) {rows} order by {key} \
         on conflict ({key}) do update set _deleted_at = null, {set} \
         where m._deleted_at is not null or row({mirrored}) is distinct from row({fetched})",
        table = table(spec),
        key = list("", primary_key(spec)),
        set = set.join(", "),
        mirrored = list("m.", source_columns(spec)),
        fetched = list("excluded.", source_columns(spec)),
    )
}

/// Removes the rows whose keys are in `$2`, for tenant `$1`; answers with the keys of those that were there.
pub(super) fn delete(spec: &TableSpec) -> String {
    format!(
        "delete from {} d using {} {} where d.ctid = m.ctid returning {}::text",
        table(spec),
        key_input(spec),
        looked_up(spec, &[], &same_key(spec)),
        key_output(spec),
    )
}

/// Marks the rows whose keys are in `$2` as deleted at `_deleted_at`, for tenant `$1`.
pub(super) fn soft_delete(spec: &TableSpec) -> String {
    format!(
        "update {} d set _deleted_at = i._deleted_at from {} {} where d.ctid = m.ctid returning {}::text",
        table(spec),
        key_input(spec),
        looked_up(spec, &[], &same_key(spec)),
        key_output(spec),
    )
}

/// Keys of rows that differ from those in `$2` by case and trailing blanks alone, for tenant `$1`.
pub(super) fn other_spellings(spec: &TableSpec) -> String {
    let alike: Vec<_> =
        spec.key_columns().map(|column| format!("{} = {}", folded("m.", column), folded("i.", column))).collect();
    format!(
        "select distinct {}::text from {} {} where not ({})",
        key_output(spec),
        key_input(spec),
        looked_up(spec, &[], &alike.join(" and ")),
        same_key(spec),
    )
}

/// The staging table of a transaction.
const STAGE: &str = "pg_temp.nxt_page";

/// Bookkeeping columns of a staged row behind its position, in the order in which it is copied.
fn staged_own(spec: &TableSpec) -> [&'static str; 3] {
    [spec.level.tenant_column(), "_changed_at", "_fetched_at"]
}

fn source_columns(spec: &TableSpec) -> impl Iterator<Item = &str> {
    spec.columns.iter().map(|column| column.sql_name.as_str())
}

/// A staging table like the mirrored one.
pub(super) fn create_stage(spec: &TableSpec) -> String {
    format!("create temporary table nxt_page (like {}, _position integer not null) on commit drop", table(spec))
}

/// Fills the staging table.
pub(super) fn copy_into_stage(spec: &TableSpec) -> String {
    let columns = std::iter::once("_position").chain(staged_own(spec)).chain(source_columns(spec));
    format!("copy {STAGE} ({}) from stdin", list("", columns))
}

/// Remembers the staged keys as met by walk `$1`, fingerprinted with seed `$2`.
pub(super) fn note_met(spec: &TableSpec) -> String {
    format!(
        "insert into nxt_mirror.walk_met (walk_id, fingerprints) \
         select $1, coalesce(array_agg({}), '{{}}') from {STAGE} i",
        fingerprint(spec, "i.", "$2"),
    )
}

/// Positions of staged rows that the mirror lacks or holds otherwise.
pub(super) fn staged_differences(spec: &TableSpec) -> String {
    format!(
        "select i._position from {STAGE} i left join {} m on {} and m._deleted_at is null \
          where m._fetched_at is null or row({}) is distinct from row({}) order by i._position",
        table(spec),
        same_staged(spec),
        list("m.", source_columns(spec)),
        list("i.", source_columns(spec)),
    )
}

/// Times of the mirrored rows among the staged positions in `$1`.
pub(super) fn staged_known(spec: &TableSpec) -> String {
    format!(
        "select i._position, m._changed_at, m._fetched_at from {STAGE} i join {} m on {} \
          where i._position = any($1) and m._deleted_at is null",
        table(spec),
        same_staged(spec),
    )
}

/// Writes the staged rows at the positions in `$1`.
pub(super) fn merge_staged(spec: &TableSpec) -> String {
    let columns = list("", staged_own(spec).into_iter().chain(source_columns(spec)));
    let rows = format!("select {columns} from {STAGE} where _position = any($1)");
    let own = staged_own(spec);
    insert(spec, &columns, &rows, own[1..].iter().copied().chain(["_notification_id"]))
}

/// Compares the staged rows with the mirror; answers with the keys of those that are missing (null) or different (the
/// names of the columns).
pub(super) fn compare_staged(spec: &TableSpec) -> String {
    let named: Vec<_> = source_columns(spec)
        .map(|name| {
            let text = name.replace('\'', "''");
            format!("case when m.{0} is distinct from i.{0} then '{text}' end", Identifier(name))
        })
        .collect();
    format!(
        "select json_build_array({key})::text, \
                case when m._fetched_at is not null then array_remove(array[{named}]::text[], null) end \
           from {STAGE} i left join {table} m on {same} and m._deleted_at is null \
          where m._fetched_at is null or row({mirrored}) is distinct from row({fetched})",
        key = list("i.", spec.key_columns().map(|column| column.sql_name.as_str())),
        named = named.join(", "),
        table = table(spec),
        same = same_staged(spec),
        mirrored = list("m.", source_columns(spec)),
        fetched = list("i.", source_columns(spec)),
    )
}

/// A cursor over the keys of tenant `$1` that walk `$2`, of seed `$3` and begun at `$4`, has not met.
pub(super) fn declare_unmet(spec: &TableSpec) -> String {
    format!(
        "declare nxt_unmet no scroll cursor for \
         with met as (select unnest(fingerprints) as fingerprint from nxt_mirror.walk_met where walk_id = $2) \
         select {}::text from {} m \
          where m.{} = $1 and m._deleted_at is null and m._fetched_at < $4 \
            and not exists (select from met where met.fingerprint = {})",
        key_output(spec),
        table(spec),
        Identifier(spec.level.tenant_column()),
        fingerprint(spec, "m.", "$3"),
    )
}

fn fingerprint(spec: &TableSpec, prefix: &str, seed: &str) -> String {
    let key = list(prefix, spec.key_columns().map(|column| column.sql_name.as_str()));
    format!("hashtextextended(json_build_array({key})::text, {seed})")
}

fn same_staged(spec: &TableSpec) -> String {
    let same: Vec<_> = primary_key(spec).into_iter().map(|name| format!("m.{0} = i.{0}", Identifier(name))).collect();
    same.join(" and ")
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

/// A row's key as JSON.
pub(super) fn key_output(spec: &TableSpec) -> String {
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
