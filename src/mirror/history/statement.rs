//! Texts of statements on history tables. The history table is `h`; all else is as in [`crate::mirror::clause`].

use crate::{
    domain::{TableSpec, naming},
    mirror::{
        clause::{Input, column_name, key_columns, key_output, looked_up, other_columns, primary_key, same_key, table},
        identifier::{HISTORY_SCHEMA, Identifier, list},
    },
};

/// The history table with its schema.
pub(in crate::mirror) fn history(spec: &TableSpec) -> String {
    format!("{HISTORY_SCHEMA}.{}", Identifier(&spec.sql_name))
}

/// The version has the tenant and the key that came. The tenant is hidden from the planner, as everywhere.
fn same_row(spec: &TableSpec, is_distributed: bool) -> String {
    let tenant = Identifier(spec.level.tenant_column());
    let in_sight = if is_distributed { format!("h.{tenant} = $1 and ") } else { String::new() };
    let keys = key_columns(spec)
        .map(|(index, column)| format!(" and h.{} = i.{}", Identifier(&column.sql_name), column_name(index)));
    format!("{in_sight}h.{tenant} = i.position * 0 + $1{}", keys.collect::<String>())
}

fn all_names(spec: &TableSpec, prefix: &str) -> String {
    list(prefix, spec.columns.iter().map(|column| column.sql_name.as_str()))
}

/// Closes open versions that the mirrored row does not have, by the times of deletions and the keys. Returns the positions
/// of their keys, and the names of the columns in which a row that lives differs.
pub(super) fn close(spec: &TableSpec, is_distributed: bool) -> String {
    let mut input = Input::after(1);
    input.add("_deleted_at", "timestamptz");
    let keys = input.keys(spec);
    let others: Vec<String> = other_columns(spec).map(|(_, column)| Identifier(&column.sql_name).to_string()).collect();
    let named: Vec<String> = other_columns(spec)
        .map(|(_, column)| {
            let (name, text) = (Identifier(&column.sql_name), column.sql_name.replace('\'', "''"));
            format!("case when h.{name} is distinct from m.{name} then '{text}' end")
        })
        .collect();
    let differs: String = others.iter().map(|name| format!(" or h.{name} is distinct from m.{name}")).collect();
    let found = format!("true as is_there, m._changed_at, m._fetched_at{}", prefixed(&others, ", m."));
    format!(
        "update {history} as h set _valid_to = greatest(h._valid_from, \
                case when m.is_there then coalesce(m._changed_at, m._fetched_at) else coalesce(i._deleted_at, t.now) end) \
           from {keys} cross join (select now() as now) as t left join {mirrored} on true \
          where {these} and h._valid_to is null and (m.is_there is null{differs}) \
         returning i.position, case when m.is_there then array_remove(array[{named}]::text[], null) end",
        history = history(spec),
        mirrored = looked_up(spec, &found, &same_key(spec), is_distributed),
        these = same_row(spec, is_distributed),
        named = named.join(", "),
    )
}

/// Opens a version of each living row that has none, by who changed it, the names of the columns in which it differs from
/// the version before (none: a life begins), and its key.
pub(super) fn open(spec: &TableSpec, is_distributed: bool) -> String {
    let mut input = Input::after(1);
    let changed_by = input.add("_changed_by", "text");
    let different = input.add("_different", "text");
    let keys = input.keys(spec);
    let tenant = Identifier(spec.level.tenant_column());
    let own_name = match spec.changed_by_column() {
        Some(column) => format!("nullif(m.{}, '')", Identifier(&spec.columns[column].sql_name)),
        None => "null".to_owned(),
    };
    format!(
        "insert into {history} ({tenant}, {names}, _valid_from, _changed_by, _changed_columns) \
         select m.{tenant}, {values}, greatest(coalesce(m._changed_at, m._fetched_at), before._valid_to), \
                coalesce({own_name}, {changed_by}), string_to_array({different}, ',') \
           from {keys} cross join {mirrored} \
          cross join lateral (select max(h._valid_to) as _valid_to, bool_or(h._valid_to is null) as is_open \
                                from {history} as h where {these}) as before \
          where before.is_open is not true",
        history = history(spec),
        names = all_names(spec, ""),
        values = all_names(spec, "m."),
        mirrored = looked_up(
            spec,
            &format!("m.{tenant}, m._changed_at, m._fetched_at, {}", all_names(spec, "m.")),
            &same_key(spec),
            is_distributed
        ),
        these = same_row(spec, is_distributed),
    )
}

fn prefixed(names: &[String], prefix: &str) -> String {
    names.iter().map(|name| format!("{prefix}{name}")).collect()
}

/// Which keys are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keys {
    /// Those of living rows and of open versions.
    Current,
    /// Those of all versions.
    Kept,
}

/// The next keys in their order, at most so many (`$2`), behind a key if there is one.
pub(super) fn next_keys(spec: &TableSpec, which: Keys, is_behind_a_key: bool) -> String {
    let names = list("", spec.key_columns().map(|column| column.sql_name.as_str()));
    let mirrored = keys_of(spec, &table(spec), " and m._deleted_at is null", is_behind_a_key);
    let of_versions = |condition| keys_of(spec, &history(spec), condition, is_behind_a_key);
    let found = match which {
        Keys::Current => format!("{mirrored} union {}", of_versions(" and m._valid_to is null")),
        Keys::Kept => of_versions(""),
    };
    format!("select {} from ({found}) as m order by {names} limit $2", key_output(spec))
}

fn keys_of(spec: &TableSpec, table: &str, condition: &str, is_behind_a_key: bool) -> String {
    let tenant = Identifier(spec.level.tenant_column());
    let columns = list("m.", spec.key_columns().map(|column| column.sql_name.as_str()));
    let parameters: Vec<String> = (0..spec.key.len()).map(|place| format!("${}", place + 3)).collect();
    let behind = match is_behind_a_key {
        true => format!(" and ({columns}) > ({})", parameters.join(", ")),
        false => String::new(),
    };
    format!(
        "(select distinct {columns} from {table} as m where m.{tenant} = $1{condition}{behind} \
           order by {columns} limit $2)"
    )
}

/// Removes closed versions of these keys that ended before `$2`.
pub(super) fn forget_old(spec: &TableSpec, is_distributed: bool) -> String {
    format!(
        "delete from {} as h using {} where {} and h._valid_to < $2",
        history(spec),
        Input::after(2).keys(spec),
        same_row(spec, is_distributed),
    )
}

/// A new history table: the columns of the mirrored one by their types there.
pub(super) fn create(spec: &TableSpec, typed: &[(String, String)]) -> String {
    let columns: String = typed.iter().map(|(name, kind)| format!("{} {kind}, ", Identifier(name))).collect();
    let tenant = Identifier(spec.level.tenant_column());
    format!(
        "create table {} ({tenant} bigint not null, {columns}_valid_from timestamptz not null, _valid_to timestamptz, \
         _changed_by text, _changed_columns text[])",
        history(spec),
    )
}

/// Finds the versions of a key, in their order.
pub(super) fn create_index(spec: &TableSpec) -> String {
    format!("create index on {} ({}, _valid_from)", history(spec), list("", primary_key(spec)))
}

/// Has changes of versions name them by all they have. A table without a primary key cannot be moved to another node
/// while it is written otherwise.
pub(super) fn identify_by_all_columns(spec: &TableSpec) -> String {
    format!("alter table {} replica identity full", history(spec))
}

pub(super) fn add_columns(spec: &TableSpec, typed: &[(String, String)]) -> String {
    let added: Vec<String> =
        typed.iter().map(|(name, kind)| format!("add column if not exists {} {kind}", Identifier(name))).collect();
    format!("alter table {} {}", history(spec), added.join(", "))
}

/// The function that returns the rows of a moment. It reads the table with the rights of who asks.
///
/// The planner sees through it, which it cannot where the table is distributed: there it has to be a function of its own.
pub(super) fn create_as_of(spec: &TableSpec, is_distributed: bool) -> String {
    let history = history(spec);
    let name = Identifier(&naming::as_of_name(&spec.sql_name));
    let rows = format!("select * from {history} where _valid_from <= $1 and (_valid_to is null or _valid_to > $1)");
    let body = match is_distributed {
        true => format!("language plpgsql stable as $as_of$ begin return query {rows}; end $as_of$"),
        false => format!("language sql stable parallel safe as $as_of$ {rows} $as_of$"),
    };
    format!("create or replace function {HISTORY_SCHEMA}.{name}(moment timestamptz) returns setof {history} {body}")
}
