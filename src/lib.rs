//! nxt-mirror keeps a PostgreSQL replica of Visma Business NXT companies in step with the source.
pub mod embedded;
