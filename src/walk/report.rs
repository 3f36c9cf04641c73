//! What a comparison of one table found, as people and programs read it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::domain::{DatabaseTime, RowKey, TableSpec, TargetTable, Tenant};

/// How a row differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Difference {
    /// The source has it, the mirror does not.
    Missing,
    /// The mirror has it, the source does not.
    Extra,
    /// Both have it, with other values.
    Different {
        /// Mirrored columns whose values differ.
        columns: Vec<String>,
    },
}

/// A row that differs.
#[derive(Debug, Clone, Serialize)]
pub struct Differing {
    /// Its key, by mirrored names in the order of the key.
    pub key: Box<RawValue>,
    /// How.
    #[serde(flatten)]
    pub difference: Difference,
}

/// A row that could not be compared.
#[derive(Debug, Clone, Serialize)]
pub struct Unreadable {
    /// Its key, by mirrored names in the order of the key.
    pub key: Box<RawValue>,
    /// Why not.
    pub reason: String,
}

/// What a comparison of one table found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whose table, if a company's.
    pub company_no: Option<i64>,
    /// Whose table, if a customer's.
    pub customer_no: Option<i64>,
    /// Which.
    pub table: String,
    /// The mirror is compared as of this moment.
    pub as_of: DatabaseTime,
    /// Rows of the source, and of the mirror alone.
    pub rows_compared: u64,
    /// Rows that could not be compared; nothing is known of them.
    pub unreadable: u64,
    /// Those of them whose keys are known.
    pub unreadable_rows: Vec<Unreadable>,
    /// Rows that differ, in the order of their keys.
    pub differences: Vec<Differing>,
    /// Of those, mended.
    pub repaired: u64,
    /// Of those, still different.
    pub left: u64,
}

/// Rows that differ, by key.
pub type Differences = BTreeMap<RowKey, Difference>;
/// Rows that cannot be compared, and why.
pub(super) type Uncompared = BTreeMap<RowKey, String>;

/// What is known of a table when it was compared.
#[derive(Debug, Default)]
pub(super) struct Compared {
    pub(super) differences: Differences,
    pub(super) uncompared: Uncompared,
    /// Rows of the source.
    pub(super) rows: u64,
    /// Rows that were passed over, whose keys are not known.
    pub(super) skipped: u64,
}

impl Report {
    /// `differences` are those before a repair, `compared` is how things are now.
    pub(super) fn new(
        target: &TargetTable,
        as_of: DatabaseTime,
        differences: Differences,
        compared: &Compared,
    ) -> Self {
        let table = &target.table;
        let (company_no, customer_no) = target.tenant.columns();
        let left = compared.differences.len() as u64;
        let found = differences.len() as u64;
        let extra = differences.values().filter(|difference| **difference == Difference::Extra).count();
        Self {
            company_no,
            customer_no,
            table: table.name.to_string(),
            as_of,
            rows_compared: compared.rows + extra as u64,
            unreadable: compared.uncompared.len() as u64 + compared.skipped,
            unreadable_rows: unreadable_rows(table, &compared.uncompared),
            repaired: found.saturating_sub(left),
            left,
            differences: differing(table, differences),
        }
    }

    /// The table and whose it is, for people.
    pub fn name(&self) -> String {
        let tenant = Tenant::from_columns(self.company_no, self.customer_no);
        tenant.map_or_else(|| self.table.clone(), |tenant| format!("{} of {tenant}", self.table))
    }

    /// What it comes to, in words.
    pub fn summary(&self) -> String {
        let Self { rows_compared, differences, repaired, left, .. } = self;
        format!("{rows_compared} rows compared, {} differences, {repaired} repaired, {left} left", differences.len())
    }

    /// Its place among others: by company, customer and table.
    pub fn place(&self) -> (Option<i64>, Option<i64>, &str) {
        (self.company_no, self.customer_no, &self.table)
    }

    /// Whether mirror and source are equal now, as far as every row could tell.
    pub fn is_equal(&self) -> bool {
        self.left == 0 && self.unreadable == 0
    }
}

fn differing(table: &TableSpec, differences: Differences) -> Vec<Differing> {
    differences.into_iter().map(|(key, difference)| Differing { key: shown(&key, table), difference }).collect()
}

fn unreadable_rows(table: &TableSpec, uncompared: &Uncompared) -> Vec<Unreadable> {
    uncompared.iter().map(|(key, reason)| Unreadable { key: shown(key, table), reason: reason.clone() }).collect()
}

fn shown(key: &RowKey, table: &TableSpec) -> Box<RawValue> {
    RawValue::from_string(key.shown(table)).expect("a shown key is JSON")
}
