//! nxt-mirror keeps a PostgreSQL replica of Visma Business NXT companies in step with the source.
pub mod config;
pub mod domain;
pub mod mirror;
pub mod queue;
pub mod telemetry;
pub mod upstream;
pub mod webhook;
pub mod worker;
