//! What the source's own model tells of its tables and columns beside their types: numbers, names, second forms and
//! relations.

use serde::{Deserialize, Serialize};

use super::table::{Column, TableName, TableSpec};

/// Where a table or a column stands in the source's own database, as far as its description tells.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
    /// Its SQL name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql_name: Option<String>,
}

impl Origin {
    /// Whether both are about the same column of one table.
    fn is_same_column(&self, other: &Self) -> bool {
        match (self.number, other.number) {
            (Some(own), Some(other)) => own == other,
            _ => match (&self.sql_name, &other.sql_name) {
                (Some(own), Some(other)) => own.eq_ignore_ascii_case(other),
                _ => false,
            },
        }
    }
}

/// The second form that the API has of a column, as a field of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Twin {
    /// `...AsDate`: the number is a date, `yyyymmdd`.
    Date,
    /// `...AsTime`: the number is a time, `hhmm`.
    Time,
    /// `...AsEnum`: each number has a name.
    Enum,
    /// `...Flags`: each bit has a name.
    Flags,
}

impl Twin {
    /// All of them, the one that counts first where a column has several.
    pub const ALL: [Self; 4] = [Self::Date, Self::Time, Self::Enum, Self::Flags];

    /// What its field's name ends in.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Date => "AsDate",
            Self::Time => "AsTime",
            Self::Enum => "AsEnum",
            Self::Flags => "Flags",
        }
    }

    /// Whether the numbers have names.
    pub fn has_names(self) -> bool {
        matches!(self, Self::Enum | Self::Flags)
    }
}

/// A relation between two tables, as the description of a join tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    /// The relation's name.
    pub name: String,
    /// The table that refers to the other one.
    pub from: JoinEnd,
    /// The table that is referred to.
    pub to: JoinEnd,
}

/// One end of a relation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinEnd {
    /// The table.
    pub table: TableName,
    /// Its columns, in the order in which they meet those of the other end.
    pub columns: Vec<Origin>,
}

impl JoinEnd {
    /// The mirrored names of its columns, if `table` is described with all of them.
    pub fn sql_names(&self, table: &TableSpec) -> Option<Vec<String>> {
        let found = |origin: &Origin| table.columns.iter().find(|column| column.origin.is_same_column(origin));
        self.columns.iter().map(|origin| found(origin).map(|column| column.sql_name.clone())).collect()
    }
}

/// A relation by mirrored names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Relation {
    /// The table that refers to the other one.
    pub from_table: String,
    /// Its columns.
    pub from_columns: Vec<String>,
    /// The table that is referred to.
    pub to_table: String,
    /// Its columns.
    pub to_columns: Vec<String>,
    /// The relation's name.
    pub name: String,
}

/// The relations among these tables. A relation that both of its tables tell is one.
pub fn relations(tables: &[TableSpec]) -> Vec<Relation> {
    let find = |name: &TableName| tables.iter().find(|table| table.name.as_str().eq_ignore_ascii_case(name.as_str()));
    let resolve = |join: &Join| {
        let (from, to) = (find(&join.from.table)?, find(&join.to.table)?);
        Some(Relation {
            from_table: from.name.to_string(),
            from_columns: join.from.sql_names(from)?,
            to_table: to.name.to_string(),
            to_columns: join.to.sql_names(to)?,
            name: join.name.clone(),
        })
    };
    let mut found: Vec<Relation> = tables.iter().flat_map(|table| &table.joins).filter_map(resolve).collect();
    found.sort();
    found.dedup();
    found
}

/// The columns of a description together with those that earlier ones had and it has no longer.
pub fn with_vanished(columns: &[Column], known: Vec<Column>) -> Vec<Column> {
    let is_described = |known: &Column| columns.iter().any(|column| column.sql_name == known.sql_name);
    let vanished: Vec<Column> = known.into_iter().filter(|known| !is_described(known)).collect();
    columns.iter().cloned().chain(vanished).collect()
}

/// The language of labels (`NXT_LANGUAGE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// `english`
    English,
    /// `norwegian`
    Norwegian,
    /// `swedish`
    Swedish,
    /// `danish`
    Danish,
    /// `finnish`
    Finnish,
}

impl Language {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::English, Self::Norwegian, Self::Swedish, Self::Danish, Self::Finnish];

    /// What the settings call it; the API writes it in capitals.
    pub fn name(self) -> &'static str {
        match self {
            Self::English => "english",
            Self::Norwegian => "norwegian",
            Self::Swedish => "swedish",
            Self::Danish => "danish",
            Self::Finnish => "finnish",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ColumnType;

    fn origin(number: i64) -> Origin {
        Origin { number: Some(number), sql_name: None }
    }

    fn table(name: &str, columns: &[(&str, i64)], joins: Vec<Join>) -> TableSpec {
        let column =
            |(name, number): &(&str, i64)| Column { origin: origin(*number), ..Column::new(name, ColumnType::Integer) };
        TableSpec { columns: columns.iter().map(column).collect(), key: vec![0], joins, ..TableSpec::plain(name, &[]) }
    }

    #[test]
    fn a_relation_is_known_when_both_tables_are_and_counts_once() {
        let end =
            |table: &str, number| JoinEnd { table: TableName::new(table).unwrap(), columns: vec![origin(number)] };
        let join = Join { name: "Customer".into(), from: end("Order", 2), to: end("Associate", 11) };
        let order = table("Order", &[("orderNo", 1), ("customerNo", 2)], vec![join.clone()]);
        assert!(relations(std::slice::from_ref(&order)).is_empty());
        let associate = table("Associate", &[("associateNo", 10), ("customerNo", 11)], vec![join]);
        let expected = Relation {
            from_table: "Order".into(),
            from_columns: vec!["customer_no".into()],
            to_table: "Associate".into(),
            to_columns: vec!["customer_no".into()],
            name: "Customer".into(),
        };
        assert_eq!(relations(&[order, associate]), [expected]);
    }

    #[test]
    fn a_column_that_vanished_stays_known() {
        let column = |name: &str| Column::new(name, ColumnType::Text);
        let merged = with_vanished(&[column("a"), column("c")], vec![column("a"), column("b")]);
        assert_eq!(merged.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["a", "c", "b"]);
    }
}
