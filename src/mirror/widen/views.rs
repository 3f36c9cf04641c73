//! Views that read columns, and the statements that take them away and make them again as they were.

use sqlx::PgConnection;

use super::NarrowTable;
use crate::mirror::identifier::READABLE;

/// A view that reads one of the columns, directly or through other views.
pub(super) struct View {
    pub(super) name: String,
    /// Whether nxt-mirror made it.
    pub(super) is_ours: bool,
    pub(super) drop: String,
    /// Makes it again, with its owner, indexes, rights and comments.
    pub(super) make: Vec<String>,
}

/// Views that read these columns, each after what it reads itself.
pub(super) async fn find(connection: &mut PgConnection, narrow: &[NarrowTable<'_>]) -> Result<Vec<View>, sqlx::Error> {
    let columns = narrow.iter().flat_map(|table| table.columns.iter().map(|(column, _)| (&*table.name, column)));
    let (tables, columns): (Vec<&str>, Vec<&str>) =
        columns.map(|(table, column)| (table, column.sql_name.as_str())).unzip();
    let views = sqlx::query!(
        r#"with recursive reads as (
               select distinct rule.ev_class as reader, depend.refobjid as read, depend.refobjsubid as column_no
                 from pg_depend as depend
                 join pg_rewrite as rule on rule.oid = depend.objid
                 join pg_class as view on view.oid = rule.ev_class and view.relkind in ('v', 'm')
                where depend.classid = 'pg_rewrite'::regclass and depend.refclassid = 'pg_class'::regclass
                  and rule.ev_class <> depend.refobjid
           ), dependant as (
               select reads.reader as oid, 1 as depth
                 from unnest($1::text[], $2::text[]) as narrow (table_name, column_name)
                 join pg_attribute as own
                      on own.attrelid = to_regclass(narrow.table_name) and own.attname = narrow.column_name
                 join reads on reads.read = own.attrelid and reads.column_no = own.attnum
                union
               select reads.reader, dependant.depth + 1 from dependant join reads on reads.read = dependant.oid
           )
           select format('%I.%I', space.nspname, view.relname) as "name!",
                  space.nspname = $3::text as "is_ours!",
                  case view.relkind when 'm' then 'materialized view' else 'view' end as "kind!",
                  coalesce(' with (' || array_to_string(view.reloptions, ', ') || ')', '') as "options!",
                  rtrim(pg_get_viewdef(view.oid), ';') as "definition!",
                  quote_ident(pg_get_userbyid(view.relowner)) as "owner!",
                  array(select format('grant %s on %I.%I to %s%s', acl.privilege_type, space.nspname, view.relname,
                                      case acl.grantee when 0 then 'public'
                                           else quote_ident(pg_get_userbyid(acl.grantee)) end,
                                      case when acl.is_grantable then ' with grant option' else '' end)
                          from aclexplode(view.relacl) as acl where acl.grantee <> view.relowner) as "grants!",
                  array(select pg_get_indexdef(indexrelid) from pg_index where indrelid = view.oid) as "indexes!",
                  array(select case description.objsubid
                               when 0 then format('comment on %s %I.%I is %L',
                                                  case view.relkind when 'm' then 'materialized view' else 'view' end,
                                                  space.nspname, view.relname, description.description)
                               else format('comment on column %I.%I.%I is %L', space.nspname, view.relname, own.attname,
                                           description.description) end
                          from pg_description as description
                          left join pg_attribute as own
                               on own.attrelid = view.oid and own.attnum = description.objsubid
                         where description.classoid = 'pg_class'::regclass and description.objoid = view.oid
                         order by description.objsubid) as "comments!"
             from (select oid, max(depth) as depth from dependant group by oid) as found
             join pg_class as view on view.oid = found.oid
             join pg_namespace as space on space.oid = view.relnamespace
            order by found.depth, "name!""#,
        &tables as _,
        &columns as _,
        READABLE.0
    )
    .fetch_all(connection)
    .await?;
    Ok(views
        .into_iter()
        .map(|view| {
            let (kind, name) = (view.kind, view.name);
            let mut make = vec![format!("create {kind} {name}{} as\n{}", view.options, view.definition)];
            make.push(format!("alter {kind} {name} owner to {}", view.owner));
            make.extend([view.indexes, view.grants, view.comments].into_iter().flatten());
            View { drop: format!("drop {kind} {name}"), make, is_ours: view.is_ours, name }
        })
        .collect())
}
