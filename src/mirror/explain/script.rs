//! What is mirrored, as the statements that would make it.

use super::{
    comment::{self, Kind, Present},
    state,
};
use crate::{
    domain::{Relation, TableSpec},
    mirror::{Mirror, SchemaError, clause, schema},
};

impl Mirror {
    /// Statements that make the mirrored tables with their keys and comments. Relations are told beside them: nothing
    /// enforces them, since the rows of two tables come when they come.
    pub(crate) async fn script(&self, tables: &[TableSpec], relations: &[Relation]) -> Result<String, SchemaError> {
        let mut connection = self.pool.acquire().await.map_err(|source| SchemaError::of("nxt_mirror", source))?;
        let mut parts = vec!["create schema if not exists business_nxt;\n".to_owned()];
        for spec in tables {
            let failed = |source| SchemaError::of(&spec.sql_name, source);
            let state = state::read(&mut connection, spec).await.map_err(failed)?;
            let columns = comment::of_columns(&spec.columns, &state.labels);
            let bare = Present { own: None, columns: columns.iter().map(|(name, _)| (name.clone(), None)).collect() };
            let is_other_tenant =
                |name: &str| matches!(name, "_company_no" | "_customer_no") && name != spec.level.tenant_column();
            let columns: Vec<_> = columns.into_iter().filter(|(name, _)| !is_other_tenant(name)).collect();
            let own = comment::of_table(spec, &state.labels);
            let comments = comment::statements(spec, Kind::Table, &bare, &own, &columns);
            parts.push(format!("{};\n{};\n", schema::create(spec), comments.join(";\n")));
        }
        parts.extend(relations.iter().filter_map(|relation| told(tables, relation)));
        Ok(parts.join("\n"))
    }
}

/// `-- relation Customer: "business_nxt"."order" (customer_no) refers to "business_nxt"."associate" (customer_no)`
fn told(tables: &[TableSpec], relation: &Relation) -> Option<String> {
    let find = |name: &str| tables.iter().find(|table| table.name.as_str() == name).map(clause::table);
    let (from, to) = (find(&relation.from_table)?, find(&relation.to_table)?);
    let (from_columns, to_columns) = (relation.from_columns.join(", "), relation.to_columns.join(", "));
    // A name with a line break would end the comment.
    let name: String = relation.name.chars().filter(|character| !character.is_control()).collect();
    Some(format!("-- relation {name}: {from} ({from_columns}) refers to {to} ({to_columns})"))
}
