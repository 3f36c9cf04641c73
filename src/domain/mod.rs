//! The vocabulary: what a row is called, what is known about it and what follows from that.
//!
//! Pure: nothing here reads a clock, a socket or the database.

pub mod change;
pub mod key;
pub mod naming;
pub mod row;
pub mod settle;
#[cfg(test)]
mod settle_orders;
pub mod table;
pub mod tenant;
pub mod time;

pub use change::{ChangeEvent, ChangeKind, RowHint};
pub use key::{HintKey, KeyError, KeyValue, RowKey};
pub use row::{Row, Value};
pub use table::{Column, ColumnType, TableLevel, TableName, TableSpec};
pub use tenant::Tenant;
pub use time::Time;
