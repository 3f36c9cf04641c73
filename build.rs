//! Says what the fixed SQL statements are checked against when they are compiled: the descriptions in `.sqlx`.
//!
//! sqlx would ask the database that `DATABASE_URL` or a `.env` names, which here is the daemon's and none of the
//! build's business. Set for the compiler alone, this holds wherever a build is started from, and whatever the
//! environment says.

/// The database that `.ci/sqlx` made, with the tables of `migrations/`: asked in the place of `.sqlx`.
const DESCRIBED_BY: &str = "NXT_STATEMENTS_DESCRIBED_BY";

fn main() {
    println!("cargo::rerun-if-changed=.sqlx");
    println!("cargo::rerun-if-changed=migrations");
    println!("cargo::rerun-if-env-changed={DESCRIBED_BY}");
    match std::env::var(DESCRIBED_BY) {
        Ok(url) => {
            println!("cargo::rustc-env=SQLX_OFFLINE=false");
            println!("cargo::rustc-env=DATABASE_URL={url}");
        }
        Err(_) => println!("cargo::rustc-env=SQLX_OFFLINE=true"),
    }
}
