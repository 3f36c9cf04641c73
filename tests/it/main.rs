//! Tests of the whole: real PostgreSQL, real HTTP, and a simulated Business NXT.

mod convergence;
mod crashes;
mod embedded;
mod faults;
mod operate;
mod pipeline;
mod receive;
mod security;
mod simulator;
mod support;
mod values;
mod walks;
