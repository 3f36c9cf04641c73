//! Tests of the whole: real PostgreSQL, real HTTP, and a simulated Business NXT.

#![allow(clippy::disallowed_methods, reason = "what tests send is dated as the source would")]

mod architecture;
mod columns;
mod convergence;
mod crashes;
mod database;
mod deployment;
mod distributed;
mod embedded;
mod exclude;
mod extensions;
mod faults;
mod feed;
mod history;
mod init;
mod isolation;
mod keys;
mod mirror;
mod observability;
mod operate;
mod ops;
mod outages;
mod pipeline;
mod queries;
mod queue;
mod readable;
mod receive;
mod relations;
mod replicas;
mod restore;
mod rights;
mod security;
mod simulator;
mod story;
mod subscriptions;
mod support;
mod times;
mod tolerance;
mod upstream;
mod values;
mod waiting;
mod walks;
