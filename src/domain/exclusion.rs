//! What never reaches the database (`NXT_EXCLUDE`).

use std::collections::{HashMap, HashSet};

use super::{naming::folded, table::TableSpec};

/// Tables and columns that are left out, by any form of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exclusions {
    tables: HashSet<String>,
    /// Columns by table.
    columns: HashMap<String, HashSet<String>>,
}

impl Exclusions {
    /// Leaves out a whole table.
    pub fn add_table(&mut self, table: &str) {
        self.tables.insert(folded(table));
    }

    /// Leaves out a column of a table.
    pub fn add_column(&mut self, table: &str, column: &str) {
        self.columns.entry(folded(table)).or_default().insert(folded(column));
    }

    /// Whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.columns.is_empty()
    }

    /// Whether a table is left out.
    pub fn has_table(&self, table: &str) -> bool {
        self.tables.contains(&folded(table))
    }

    /// Whether anything of a table is left out, short of all of it.
    pub fn has_columns_of(&self, table: &str) -> bool {
        self.columns.contains_key(&folded(table))
    }

    /// Whether a column of a table is left out.
    pub fn has_column(&self, table: &str, column: &str) -> bool {
        self.columns.get(&folded(table)).is_some_and(|columns| columns.contains(&folded(column)))
    }

    /// Whether a column of this name is left out, of whichever table.
    pub fn has_column_of_any(&self, column: &str) -> bool {
        let column = folded(column);
        self.columns.values().any(|columns| columns.contains(&column))
    }

    /// The table without what is left out of it; the name of a key column that would be, as no row can be told from another
    /// without it.
    pub fn applied_to(&self, table: TableSpec) -> Result<TableSpec, String> {
        let name = table.name.as_str().to_owned();
        if !self.has_columns_of(&name) {
            return Ok(table);
        }
        match table.key_columns().find(|column| self.has_column(&name, &column.name)) {
            Some(column) => Err(column.name.clone()),
            None => Ok(table.without(|column| self.has_column(&name, &column.name))),
        }
    }
}
