//! Texts of statements on mirrored rows, made from a table's description.
//!
//! How the tables in them are called: see [`super::clause`].

use super::{
    clause::{
        BOOKKEEPING, Input, assignments, column_name, different_names, differs, fingerprint, folded, key_columns,
        key_names, key_output, living, looked_up, or_differs_from_excluded, other_columns, primary_key, same_key,
        table, value,
    },
    identifier::{Identifier, list},
};
use crate::domain::{Column, TableSpec};

/// Positions and times of the mirrored rows among these keys.
pub(super) fn known(spec: &TableSpec, is_distributed: bool) -> String {
    format!(
        "select i.position, m._changed_at, m._fetched_at from {} cross join {}",
        Input::after(1).keys(spec),
        looked_up(spec, "m._changed_at, m._fetched_at", &same_key(spec), is_distributed),
    )
}

/// Living rows of the key `$2`, `$3` and so on, in whichever spelling: of the tenant `$1`, or of all if it is null.
pub(super) fn living_rows(spec: &TableSpec) -> String {
    let tenant = spec.level.tenant_column();
    let is_part = |(place, column): (usize, &Column)| {
        let mirrored = format!("m.{}", Identifier(&column.sql_name));
        format!("{} = {}", folded(column, &mirrored), folded(column, &format!("${}", place + 2)))
    };
    let key: Vec<_> = spec.key_columns().enumerate().map(is_part).collect();
    format!(
        "select m.{tenant} as tenant_no, m._changed_at as changed_at, m._fetched_at as fetched_at,
                m._notification_id as notification_id
           from {} as m
          where ($1::bigint is null or m.{tenant} = $1) and {} and m._deleted_at is null order by m.{tenant}",
        table(spec),
        key.join(" and "),
    )
}

/// Positions of rows that the mirror lacks (null) or holds otherwise (the names of the columns).
pub(super) fn compare(spec: &TableSpec, is_distributed: bool) -> String {
    let columns: String =
        other_columns(spec).map(|(_, column)| format!(", m.{}", Identifier(&column.sql_name))).collect();
    format!(
        "select i.position, case when m.is_there then array_remove(array[{names}]::text[], null) end \
           from {rows} left join {mirrored} on true where m.is_there is null or {differs}",
        names = different_names(spec),
        rows = Input::after(1).rows(spec),
        mirrored = looked_up(spec, &format!("true as is_there{columns}"), &same_key(spec), is_distributed),
        differs = differs(spec),
    )
}

/// Leads an insert to the node of its tenant: rows that come from a distributed table alone are inserted where it is.
const PLACE: &str = " cross join nxt_mirror.tenant_place as p where p.tenant_no = $1";

/// Inserts rows; one that is there unexpectedly is replaced if it is deleted or different. Returns the keys of those that
/// were written.
pub(super) fn insert(spec: &TableSpec, is_distributed: bool) -> String {
    let mut input = Input::after(1);
    let own: Vec<_> = BOOKKEEPING.iter().map(|(name, kind)| input.add(name, kind)).collect();
    let values: Vec<_> = spec.columns.iter().enumerate().map(|(index, column)| value(index, column)).collect();
    let (tenant_no, place) = match is_distributed {
        true => ("p.tenant_no", PLACE),
        false => ("$1", ""),
    };
    let set = assignments(spec, |_, column| format!("excluded.{}", Identifier(&column.sql_name)), "excluded.");
    format!(
        "insert into {table} as m ({tenant}, {own_names}, {names}) select {tenant_no}, {own}, {values} from {rows}{place} \
         on conflict ({key}) do update set _deleted_at = null, {set} where m._deleted_at is not null{or_differs} \
         returning {output}",
        table = table(spec),
        tenant = Identifier(spec.level.tenant_column()),
        own_names = list("", BOOKKEEPING.iter().map(|(name, _)| *name)),
        names = list("", spec.columns.iter().map(|column| column.sql_name.as_str())),
        own = own.join(", "),
        values = values.join(", "),
        rows = input.rows(spec),
        key = list("", primary_key(spec)),
        or_differs = or_differs_from_excluded(spec),
        output = key_output(spec),
    )
}

/// Updates rows that are different. Returns their positions, and the names of the columns in which they were.
pub(super) fn update(spec: &TableSpec, is_distributed: bool) -> String {
    let mut input = Input::after(1);
    for (name, kind) in BOOKKEEPING {
        input.add(name, kind);
    }
    let rows = input.rows(spec);
    let different = format!("array_remove(array[{}]::text[], null) as different", different_names(spec));
    let these = same_key(spec);
    format!(
        "update {table} as m set {set} \
           from (select i.*, m.different from {rows} cross join {compared}) as i \
          where {these} and cardinality(i.different) > 0 returning i.position, i.different",
        table = table(spec),
        set = assignments(spec, value, "i."),
        compared = looked_up(spec, &different, &these, is_distributed),
        these = living(spec, &these, is_distributed),
    )
}

/// Deletes rows by key. Returns the positions of those that were there.
pub(super) fn delete(spec: &TableSpec, is_distributed: bool) -> String {
    let mut input = Input::after(1);
    let keys = input.keys(spec);
    format!(
        "delete from {} as m using {keys} where {} returning i.position",
        table(spec),
        living(spec, &same_key(spec), is_distributed),
    )
}

/// Marks rows as deleted, by key and time of the deletion. As [`delete`] otherwise.
pub(super) fn soft_delete(spec: &TableSpec, is_distributed: bool) -> String {
    let mut input = Input::after(1);
    input.add("_deleted_at", "timestamptz");
    let keys = input.keys(spec);
    format!(
        "update {} as m set _deleted_at = i._deleted_at from {keys} where {} and m._deleted_at is null \
         returning i.position",
        table(spec),
        living(spec, &same_key(spec), is_distributed),
    )
}

/// Keys of mirrored rows that differ from these by case and trailing blanks alone; their times, and the position of the
/// key that they differ from.
pub(super) fn other_spellings(spec: &TableSpec, is_distributed: bool) -> String {
    let alike: Vec<_> = key_columns(spec)
        .map(|(index, column)| {
            let mirrored = format!("m.{}", Identifier(&column.sql_name));
            format!("{} = {}", folded(column, &mirrored), folded(column, &format!("i.{}", column_name(index))))
        })
        .collect();
    let condition = format!("{} and not ({})", alike.join(" and "), same_key(spec));
    let columns = format!("{}, m._changed_at, m._fetched_at", key_names(spec, "m."));
    format!(
        "select {}, m._changed_at, m._fetched_at, i.position from {} cross join {}",
        key_output(spec),
        Input::after(1).keys(spec),
        looked_up(spec, &columns, &condition, is_distributed),
    )
}

/// Remembers keys as met by walk `$1`, fingerprinted with seed `$2`.
pub(super) fn note_met(spec: &TableSpec) -> String {
    let mut input = Input::after(2);
    let keys: Vec<_> = spec.key.iter().map(|&index| format!("i.{}", column_name(index))).collect();
    format!(
        "insert into nxt_mirror.walk_met (walk_id, fingerprints) select $1, coalesce(array_agg({}), '{{}}') from {}",
        fingerprint(&keys.join(", "), "$2"),
        input.keys(spec),
    )
}

/// A cursor over the keys that walk `$2`, of seed `$3` and begun at `$4`, has not met.
pub(super) fn declare_unmet(spec: &TableSpec) -> String {
    format!(
        "declare nxt_unmet no scroll cursor for \
         with met as (select unnest(fingerprints) as fingerprint from nxt_mirror.walk_met where walk_id = $2) \
         select {} from {} as m \
          where m.{} = $1 and m._deleted_at is null and m._fetched_at < $4 \
            and not exists (select from met where met.fingerprint = {})",
        key_output(spec),
        table(spec),
        Identifier(spec.level.tenant_column()),
        fingerprint(&key_names(spec, "m."), "$3"),
    )
}

/// How many rows live.
pub(super) fn count(spec: &TableSpec) -> String {
    let tenant = Identifier(spec.level.tenant_column());
    format!("select count(*) from {} as m where m.{tenant} = $1 and m._deleted_at is null", table(spec))
}
