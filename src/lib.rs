//! nxt-mirror keeps a PostgreSQL replica of Visma Business NXT companies in step with the source.
pub mod app;
pub mod cli;
pub mod commands;
pub mod config;
pub mod database;
pub mod demo;
pub mod domain;
pub mod embedded;
pub mod mirror;
pub mod ops;
pub mod queue;
pub mod shutdown;
pub mod simulator;
pub mod telemetry;
pub mod upstream;
pub mod webhook;
pub mod worker;
