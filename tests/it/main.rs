//! The integration tests, in one binary so that they share one database server and link once.

mod support;

mod embedded;
