//! `schema`: what is mirrored, as SQL or as a drawing.

use std::{collections::HashSet, fmt::Write, path::Path, process::ExitCode};

use super::operate;
use crate::{
    cli::SchemaFormat,
    config::Deletes,
    domain::{ColumnType, Relation, TableSpec},
    mirror::Mirror,
};

/// Prints the mirrored tables with their keys and relations.
pub(super) async fn schema(config: Option<&Path>, format: SchemaFormat) -> anyhow::Result<ExitCode> {
    let (pool, _) = operate::open(config).await?;
    // How rows are deleted does not matter to what tables look like.
    let mirror = Mirror::new(pool.clone(), Deletes::Hard);
    let printed = print(&mirror, format).await;
    pool.close().await;
    say!("{}", printed?.trim_end());
    Ok(ExitCode::SUCCESS)
}

async fn print(mirror: &Mirror, format: SchemaFormat) -> anyhow::Result<String> {
    let mut tables = mirror.descriptions().await?;
    tables.sort_by(|one, other| one.sql_name.cmp(&other.sql_name));
    let relations = mirror.relations().await?;
    Ok(match format {
        SchemaFormat::Sql => mirror.script(&tables, &relations).await?,
        SchemaFormat::Mermaid => mermaid(&tables, &relations),
        SchemaFormat::Dot => dot(&tables, &relations),
    })
}

/// A relation by the mirrored names of its tables.
fn drawn<'a>(tables: &'a [TableSpec], relation: &Relation) -> Option<(&'a str, &'a str)> {
    let find =
        |name: &str| tables.iter().find(|table| table.name.as_str() == name).map(|table| table.sql_name.as_str());
    Some((find(&relation.from_table)?, find(&relation.to_table)?))
}

/// An entity for each table, and a line for each relation.
fn mermaid(tables: &[TableSpec], relations: &[Relation]) -> String {
    let mut text = "erDiagram\n".to_owned();
    for table in tables {
        let foreign: HashSet<&str> = relations
            .iter()
            .filter(|relation| relation.from_table == table.name.as_str())
            .flat_map(|relation| relation.from_columns.iter().map(String::as_str))
            .collect();
        _ = writeln!(text, "    {} {{", table.sql_name);
        _ = writeln!(text, "        bigint {} PK", table.level.tenant_column());
        for (index, column) in table.columns.iter().enumerate() {
            let marks = match (table.key.contains(&index), foreign.contains(column.sql_name.as_str())) {
                (true, true) => " PK,FK",
                (true, false) => " PK",
                (false, true) => " FK",
                (false, false) => "",
            };
            _ = writeln!(text, "        {} {}{marks}", one_word(column.kind), column.sql_name);
        }
        text.push_str("    }\n");
    }
    for relation in relations {
        if let Some((from, to)) = drawn(tables, relation) {
            _ = writeln!(text, "    {from} }}o--o| {to} : {}", quoted(&relation.name));
        }
    }
    text
}

fn one_word(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::TimestampTz => "timestamptz",
        ColumnType::Timestamp => "timestamp",
        ColumnType::Time => "time",
        other => other.sql(),
    }
}

/// A box for each table with its key, and an arrow for each relation.
fn dot(tables: &[TableSpec], relations: &[Relation]) -> String {
    let mut text = "digraph business_nxt {\n    rankdir = LR;\n    node [shape = record];\n".to_owned();
    for table in tables {
        let key: Vec<&str> = table.key_columns().map(|column| column.sql_name.as_str()).collect();
        let label = format!("{}|{}\\l{}\\l", table.sql_name, table.level.tenant_column(), key.join("\\l"));
        _ = writeln!(text, "    \"{}\" [label = \"{label}\"];", table.sql_name);
    }
    for relation in relations {
        if let Some((from, to)) = drawn(tables, relation) {
            let label = quoted(&format!("{} ({})", relation.name, relation.from_columns.join(", ")));
            _ = writeln!(text, "    \"{from}\" -> \"{to}\" [label = {label}];");
        }
    }
    text.push_str("}\n");
    text
}

/// A text of the API's in quotation marks, which it cannot leave.
fn quoted(text: &str) -> String {
    let plain: String =
        text.chars().filter(|character| !character.is_control() && !"\"\\".contains(*character)).collect();
    format!("\"{plain}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> Vec<TableSpec> {
        let table = |name: &str, columns: &[&str], key: &[usize]| TableSpec {
            key: key.to_vec(),
            ..TableSpec::plain(name, columns)
        };
        vec![table("Order", &["orderNo"], &[0]), table("OrderLine", &["orderNo", "lineNo", "changed"], &[0, 1])]
    }

    fn relations() -> Vec<Relation> {
        let relation = |to: &str| Relation {
            from_table: "OrderLine".into(),
            from_columns: vec!["order_no".into()],
            to_table: to.into(),
            to_columns: vec!["order_no".into()],
            name: "The \"order\"\n".into(),
        };
        vec![relation("Order"), relation("Unknown")]
    }

    #[test]
    fn an_entity_diagram_marks_keys_and_draws_relations() {
        let expected = "erDiagram
    order {
        bigint _company_no PK
        integer order_no PK
    }
    order_line {
        bigint _company_no PK
        integer order_no PK,FK
        integer line_no PK
        integer changed
    }
    order_line }o--o| order : \"The order\"
";
        assert_eq!(mermaid(&tables(), &relations()), expected);
    }

    #[test]
    fn a_graph_has_an_arrow_for_each_relation() {
        let graph = dot(&tables(), &relations());
        assert!(graph.starts_with("digraph business_nxt {\n") && graph.ends_with("}\n"), "{graph}");
        assert!(graph.contains("    \"order_line\" -> \"order\" [label = \"The order (order_no)\"];\n"), "{graph}");
        assert!(
            graph.contains("\"order_line\" [label = \"order_line|_company_no\\lorder_no\\lline_no\\l\"]"),
            "{graph}"
        );
        assert!(!graph.contains("Unknown"), "{graph}");
    }
}
