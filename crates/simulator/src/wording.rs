//! The texts of descriptions, which were reworded in 2024 and are not known since.

use serde::{Deserialize, Serialize};

use super::model::TableDef;

/// How descriptions tell what a table and its columns are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wording {
    /// `[PK] Column "ActNo" (4028) / Model.Column.ActorNo.`, as in 2022.
    #[default]
    Of2022,
    /// The key is told in brackets, with the place in it.
    Numbered,
    /// The key is told in plain words.
    Plain,
    /// Nothing is told of the key.
    Silent,
}

impl Wording {
    /// The description of a row type.
    pub(super) fn table(self, table: &TableDef) -> String {
        let TableDef { name, number, sql, .. } = table;
        match self {
            Self::Of2022 => format!("Table \"{sql}\" ({number})."),
            Self::Numbered | Self::Plain | Self::Silent => {
                format!("{name}, table number {number} (SQL name \"{sql}\").")
            }
        }
    }

    /// The description of a column.
    pub(super) fn column(self, table: &TableDef, index: usize) -> String {
        let name = &table.columns[index].name;
        let (first, rest) = name.split_at(1);
        let pascal = format!("{}{rest}", first.to_uppercase());
        let number = table.number * 1_000 + u32::try_from(index).unwrap_or_default();
        let place = table.key.iter().position(|&part| part == index).filter(|_| table.marked);
        match (self, place) {
            (Self::Of2022, Some(_)) => format!("[PK] Column \"{pascal}\" ({number}) / Model.Column.{pascal}."),
            (Self::Of2022, None) => format!("Column \"{pascal}\" ({number}) / Model.Column.{pascal}."),
            (Self::Numbered, Some(place)) => {
                format!("{pascal} (column {number}, SQL name \"{pascal}\", primary key {}).", place + 1)
            }
            (Self::Plain, Some(_)) => {
                format!("{pascal}, column number {number}, SQL name \"{pascal}\". It is part of the primary key.")
            }
            (Self::Numbered | Self::Plain | Self::Silent, _) => {
                format!("{pascal}, column number {number}, SQL name \"{pascal}\".")
            }
        }
    }
}
