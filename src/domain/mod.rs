//! The vocabulary: what a row is called, what is known about it and what follows from that.
//!
//! Pure: nothing here reads a clock, a socket or the database.

mod backoff;
pub mod change;
pub mod diagnosis;
mod exclusion;
pub mod isolate;
pub mod json;
pub mod key;
mod model;
pub mod naming;
pub mod row;
pub mod settle;
mod shown_key;
pub mod subscription;
pub mod table;
pub mod target;
pub mod tenant;
pub mod time;

pub use backoff::backoff;
pub use change::{AnnouncedRow, ChangeEvent, ChangeKind};
pub use diagnosis::{Diagnosis, Owner};
pub use exclusion::Exclusions;
pub use key::{AnnouncedKey, KeyError, KeyValue, RowKey};
pub use model::{Join, JoinEnd, Language, Origin, Relation, Twin, relations, with_vanished};
pub use row::{Observation, Row, Value};
pub use shown_key::ShownKey;
pub use subscription::{Delivery, NumberedTable, SubscribedTable, Subscription, delivery};
pub use table::{Column, ColumnType, ExtensionColumn, ExtensionType, TableLevel, TableName, TableSpec};
pub use target::{Target, TargetId, TargetTable};
pub use tenant::Tenant;
pub use time::{DatabaseTime, SourceTime};
