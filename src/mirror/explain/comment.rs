//! Comments on mirrored tables and columns: what they are called, in words and at the source.

use std::collections::{BTreeMap, HashMap};

use crate::{
    domain::{Column, Origin, TableSpec},
    mirror::{
        clause,
        identifier::{Identifier, READABLE},
    },
};

/// Labels of a table and of its columns, by the API's names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Labels {
    pub(crate) table: Option<String>,
    pub(crate) columns: BTreeMap<String, String>,
}

/// The bookkeeping columns.
const BOOKKEEPING: [(&str, &str); 6] = [
    ("_company_no", "Visma.net company number"),
    ("_customer_no", "Visma.net customer number"),
    ("_changed_at", "When the source last changed the row; null if it has no time for that"),
    ("_fetched_at", "Start of the request that brought this version"),
    ("_deleted_at", "When the row was deleted at the source; set where deleted rows are kept"),
    ("_notification_id", "The notification that led to this version; null if a walk did"),
];

/// `Ordre (Order, table 127, SQL name Ord)`
pub(super) fn of_table(spec: &TableSpec, labels: &Labels) -> String {
    phrase(labels.table.as_deref(), spec.name.as_str(), "table", &spec.origin)
}

/// The comment of each column that has one, by mirrored name.
pub(super) fn of_columns(columns: &[Column], labels: &Labels) -> Vec<(String, String)> {
    let own = columns.iter().map(|column| (column.sql_name.clone(), of_column(column, labels)));
    let bookkeeping = BOOKKEEPING.iter().map(|&(name, text)| (name.to_owned(), text.to_owned()));
    own.chain(bookkeeping).collect()
}

fn of_column(column: &Column, labels: &Labels) -> String {
    let label = labels.columns.get(&column.name.to_ascii_lowercase()).map(String::as_str);
    phrase(label, &column.name, "column", &column.origin)
}

fn phrase(label: Option<&str>, name: &str, kind: &str, origin: &Origin) -> String {
    let number = origin.number.map(|number| format!(", {kind} {number}")).unwrap_or_default();
    let sql_name = origin.sql_name.as_deref().map(|name| format!(", SQL name {name}")).unwrap_or_default();
    let source = format!("{name}{number}{sql_name}");
    match label.map(str::trim).filter(|label| !label.is_empty()) {
        Some(label) => format!("{label} ({source})"),
        None => source,
    }
}

/// Comments that are there: of the relation itself, and of its columns, null where there is none.
pub(super) struct Present {
    pub(super) own: Option<String>,
    pub(super) columns: HashMap<String, Option<String>>,
}

/// What a relation is to SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Table,
    View,
}

/// Statements for the comments that are not as they should be. What is not wanted is left as it is.
pub(super) fn statements(
    spec: &TableSpec,
    kind: Kind,
    present: &Present,
    own: &str,
    columns: &[(String, String)],
) -> Vec<String> {
    let (word, relation) = match kind {
        Kind::Table => ("table", clause::table(spec)),
        Kind::View => ("view", format!("{READABLE}.{}", Identifier(&spec.sql_name))),
    };
    let mut statements = vec![];
    if present.own.as_deref() != Some(own) {
        statements.push(format!("comment on {word} {relation} is {}", literal(own)));
    }
    let differs = |(name, text): &&(String, String)| {
        present.columns.get(name).is_some_and(|present| present.as_deref() != Some(text))
    };
    let comment = |(name, text): &(String, String)| {
        format!("comment on column {relation}.{} is {}", Identifier(name), literal(text))
    };
    statements.extend(columns.iter().filter(differs).map(comment));
    statements
}

/// A text as it stands in SQL, where nothing can be bound. Escapes mean the same whatever the session's settings are.
pub(in crate::mirror) fn literal(text: &str) -> String {
    let text = text.replace('\0', "");
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ColumnType;

    fn spec() -> TableSpec {
        let origin = |number, name: &str| Origin { number: Some(number), sql_name: Some(name.into()) };
        let column = Column { origin: origin(4028, "ActNo"), ..Column::new("associateNo", ColumnType::Integer) };
        TableSpec {
            columns: vec![column, Column::new("MyDme_score", ColumnType::Numeric)],
            key: vec![0],
            origin: origin(152, "Actor"),
            ..TableSpec::plain("Associate", &[])
        }
    }

    #[test]
    fn a_comment_tells_label_name_number_and_sql_name() {
        let columns = BTreeMap::from([("associateno".to_owned(), "Aktørnr.".to_owned())]);
        let labels = Labels { table: Some("Aktør".into()), columns };
        assert_eq!(of_table(&spec(), &labels), "Aktør (Associate, table 152, SQL name Actor)");
        let comments = of_columns(&spec().columns, &labels);
        assert_eq!(comments[0].1, "Aktørnr. (associateNo, column 4028, SQL name ActNo)");
        assert_eq!(comments[1].1, "MyDme_score");
        assert_eq!(of_table(&spec(), &Labels::default()), "Associate, table 152, SQL name Actor");
    }

    #[test]
    fn only_what_differs_is_written_and_quotes_are_safe() {
        let columns = [
            ("a".to_owned(), "new".to_owned()),
            ("b".to_owned(), "same".to_owned()),
            ("gone".to_owned(), "x".to_owned()),
        ];
        let present = HashMap::from([("a".to_owned(), None), ("b".to_owned(), Some("same".to_owned()))]);
        let present = Present { own: Some("old".into()), columns: present };
        let made = statements(&spec(), Kind::Table, &present, r"it's \'", &columns);
        assert_eq!(
            made,
            [
                r#"comment on table "business_nxt"."associate" is E'it''s \\'''"#,
                r#"comment on column "business_nxt"."associate"."a" is E'new'"#,
            ]
        );
    }
}
