//! What the database says of a mirrored table: its comments and its readable view.
//!
//! Both follow from the description and from what the model tells. What is as it should be is neither written nor locked,
//! and what somebody has locked waits for another time: rows are mirrored meanwhile.

mod comment;
mod display_names;
mod foreign_keys;
mod later;
mod members;
mod met;
mod readable;
mod relations;
mod script;
mod state;
mod tenants;

use std::collections::HashMap;

use sqlx::PgConnection;

pub(crate) use comment::Labels;
use comment::{Kind, Present};
pub use display_names::{DisplayNames, column_labels};
pub(in crate::mirror) use later::Unexplained;
pub(crate) use members::Unnamed;
pub(in crate::mirror) use met::MetValues;
use readable::Change;
pub(crate) use relations::DescribedState;
pub(crate) use state::LabelledAs;

use super::{
    BEGIN_CHANGE, Mirror, SchemaError, align, clause,
    identifier::{Identifier, READABLE},
};
use crate::domain::{TableSpec, with_vanished};

/// Since when views can have the rights of those who read them.
const INVOKER_VERSION: i32 = 150_000;

impl Mirror {
    /// Brings the comments and the readable view of a mirrored table in line with what is known of it by now, and lets
    /// those read both who were let in.
    pub async fn explain(&self, table: &TableSpec) -> Result<(), SchemaError> {
        let failed = |source| SchemaError::of(&table.sql_name, source);
        let comments = self.explain_part(table, comment_on_table).await;
        let view = self.explain_part(table, align_view).await;
        // Whatever became of the view, the tables may be new.
        self.give_rights(&table.sql_name).await?;
        comments.and(view).map_err(failed)
    }

    /// The caller's description may have been overtaken by another one since it was read: what counts is the one that the
    /// table was last brought in line with, read under the table's lock.
    async fn explain_part(
        &self,
        table: &TableSpec,
        part: impl AsyncFnOnce(&mut PgConnection, &TableSpec) -> Result<(), sqlx::Error>,
    ) -> Result<(), sqlx::Error> {
        let mut transaction = self.pool.begin_with(BEGIN_CHANGE).await?;
        align::lock(&mut transaction, table).await?;
        let Some(spec) = align::remembered(&mut transaction, table).await? else { return transaction.rollback().await };
        part(&mut transaction, &spec).await?;
        transaction.commit().await
    }
}

async fn comment_on_table(connection: &mut PgConnection, spec: &TableSpec) -> Result<(), sqlx::Error> {
    let state = state::read(connection, spec).await?;
    let table = clause::table(spec);
    let Some(present) = comments(connection, &table).await? else { return Ok(()) };
    let (own, columns) = (comment::of_table(spec, &state.labels), comment::of_columns(&spec.columns, &state.labels));
    let statements = comment::statements(spec, Kind::Table, &present, &own, &columns);
    run(connection, statements).await
}

async fn align_view(connection: &mut PgConnection, spec: &TableSpec) -> Result<(), sqlx::Error> {
    let state = state::read(connection, spec).await?;
    let table = align::columns(connection, &clause::table(spec)).await?;
    if table.is_empty() {
        return Ok(());
    }
    let known = with_vanished(&spec.columns, state.columns);
    let name = format!("{READABLE}.{}", Identifier(&spec.sql_name));
    let view = Some(align::columns(connection, &name).await?).filter(|columns| !columns.is_empty());
    let has_dependents = view.is_some() && has_dependents(connection, &name).await?;
    let wanted = readable::columns(spec, &known, &table);
    let (shown, grants) = match readable::change(wanted, view.as_deref(), has_dependents) {
        Change::Replace(shown) => (shown, vec![]),
        Change::Renew(shown) => {
            let grants = grants(connection, &name).await?;
            align::execute(connection, format!("drop view {name}")).await?;
            (shown, grants)
        }
    };
    let is_of_invoker = server_version(connection).await? >= INVOKER_VERSION;
    let statement = readable::statement(spec, &shown, is_of_invoker);
    let is_current = state.readable_as.as_ref() == Some(&statement)
        && state.readable_shown.is_some()
        && state.readable_shown == definition(connection, &name).await?;
    if !is_current {
        align::create_schema(connection, "business_nxt_readable").await?;
        align::execute(connection, statement.clone()).await?;
        run(connection, grants).await?;
    }
    if let Some(present) = comments(connection, &name).await? {
        let (own, columns) = (comment::of_table(spec, &state.labels), comment::of_columns(&known, &state.labels));
        run(connection, comment::statements(spec, Kind::View, &present, &own, &columns)).await?;
    }
    let shown = definition(connection, &name).await?.unwrap_or_default();
    state::remember(connection, spec, &known, &statement, &shown).await
}

async fn run(connection: &mut PgConnection, statements: Vec<String>) -> Result<(), sqlx::Error> {
    if statements.is_empty() {
        return Ok(());
    }
    // All at once: a wide table has hundreds.
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements.join(";\n"))).execute(connection).await.map(drop)
}

/// The comments of a relation and of its columns; `None` when there is no such relation.
async fn comments(connection: &mut PgConnection, relation: &str) -> Result<Option<Present>, sqlx::Error> {
    let found = sqlx::query!(
        r#"select attribute.attname::text as "name?", col_description(class.oid, attribute.attnum) as "text?",
                  obj_description(class.oid, 'pg_class') as own
             from pg_class as class
             left join pg_attribute as attribute
                    on attribute.attrelid = class.oid and attribute.attnum > 0 and not attribute.attisdropped
            where class.oid = to_regclass($1)"#,
        relation
    )
    .fetch_all(connection)
    .await?;
    let Some(first) = found.first() else { return Ok(None) };
    let own = first.own.clone();
    let columns: HashMap<_, _> = found.into_iter().filter_map(|row| Some((row.name?, row.text))).collect();
    Ok(Some(Present { own, columns }))
}

/// A view as the server shows it; `None` when there is none.
async fn definition(connection: &mut PgConnection, view: &str) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!("select pg_get_viewdef(to_regclass($1))", view).fetch_one(connection).await
}

/// Whether anything was built on a view.
async fn has_dependents(connection: &mut PgConnection, view: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (
               select from pg_depend as depend
                 left join pg_rewrite as rule on depend.classid = 'pg_rewrite'::regclass and rule.oid = depend.objid
                where depend.refclassid = 'pg_class'::regclass and depend.refobjid = to_regclass($1)
                  and depend.deptype = 'n' and rule.ev_class is distinct from depend.refobjid) as "exists!""#,
        view
    )
    .fetch_one(connection)
    .await
}

/// Statements that give a view's rights again to those who have them beside its owner.
async fn grants(connection: &mut PgConnection, view: &str) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select format('grant %s on %s to %s%s', acl.privilege_type, $1::text,
                         case acl.grantee when 0 then 'public' else quote_ident(pg_get_userbyid(acl.grantee)) end,
                         case when acl.is_grantable then ' with grant option' else '' end) as "grant!"
             from pg_class as class, aclexplode(class.relacl) as acl
            where class.oid = to_regclass($1) and acl.grantee <> class.relowner"#,
        view
    )
    .fetch_all(connection)
    .await
}

async fn server_version(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar!(r#"select current_setting('server_version_num')::integer as "version!""#)
        .fetch_one(connection)
        .await
}
