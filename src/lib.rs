//! nxt-mirror keeps a PostgreSQL replica of Visma Business NXT companies in step with the source.
//!
//! A signed webhook says which row changed. [`webhook`] verifies and reads it, [`queue`] appends it to the ledger before it
//! is answered and folds the ledger into dirty rows, [`worker`] schedules these target by target, [`upstream`] fetches many
//! of them in one GraphQL request, and [`reconcile`] writes what was seen into [`mirror`] by the rules of
//! [`domain::settle`], each target in a transaction of its own. [`walk`] loads, sweeps and compares whole tables by the
//! same rules. [`app`] puts the parts together; `docs/architecture.md` has the map and the invariants.
//!
//! [`nxt_simulator`] is a Business NXT in memory that knows nothing of the rest; [`nxt_embedded_postgres`] a PostgreSQL of
//! our own; [`demo`] all of it on one machine.

#![warn(clippy::print_stdout, clippy::print_stderr)]

#[macro_use]
pub mod output;

pub mod app;
pub mod cli;
pub mod clocks;
pub mod commands;
pub mod config;
pub mod database;
pub mod demo;
pub mod domain;
pub mod failpoint;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod listener;
pub mod mirror;
pub mod model;
pub mod ops;
pub mod queue;
pub mod reconcile;
pub mod shutdown;
pub mod telemetry;
pub mod upstream;
pub mod walk;
pub mod webhook;
pub mod worker;
