//! Tests of the whole: real PostgreSQL, real HTTP, and a simulated Business NXT.

mod embedded;
mod faults;
mod operate;
mod pipeline;
mod receive;
mod simulator;
mod support;
mod values;
mod walks;
