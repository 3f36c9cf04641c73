//! Whose an SQL error is, and what people can do about it: one pure function.

use std::time::Duration;

use sqlx::postgres::PgDatabaseError;

use crate::domain::{Diagnosis, Owner};

/// How long to leave a table alone that somebody holds.
pub(super) const BUSY_PAUSE: Duration = Duration::from_secs(2);
/// How long to leave alone what another transaction was in the way of.
const CONFLICT_PAUSE: Duration = Duration::from_millis(200);

/// What travelled with the statement that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// Rows or keys, one of which may be to blame.
    Rows,
    /// Nothing.
    Nothing,
}

/// Whose an error is that a statement on this mirrored table ended with, its commit included.
///
/// [`Owner::Row`] means that one of the rows may be to blame: to be found by trying them apart. If each fails alone,
/// it is the target's.
pub fn diagnose(error: &sqlx::Error, carried: Carried, table: &str) -> Diagnosis {
    let code = error.as_database_error().and_then(|error| error.code()).map(String::from);
    let (owner, pause) = match &code {
        Some(code) => of_code(code, carried, is_raised_by_code_of_users(error)),
        None => (of_driver(error, carried), None),
    };
    let message = match error.as_database_error() {
        Some(error) => error.message().to_owned(),
        None => error.to_string(),
    };
    let reason = match code.and_then(|code| remedy(&code, table, constraint(error))) {
        Some(remedy) => format!("{message}; {remedy}"),
        None => message,
    };
    Diagnosis { owner, pause, reason }
}

/// How the extension `citus` tells which node an error comes from.
const FROM_NODE: &str = "while executing command on ";

/// Whether the error comes from within a function, such as a trigger's. None of ours runs on mirrored tables.
fn is_raised_by_code_of_users(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
    error.and_then(PgDatabaseError::r#where).is_some_and(names_code)
}

/// Whether the context of an error names more than the node of a cluster that it comes from.
fn names_code(context: &str) -> bool {
    context.lines().any(|line| !line.is_empty() && !line.starts_with(FROM_NODE))
}

fn constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error().and_then(|error| error.constraint())
}

/// By PostgreSQL's five-character code, of which the first two are its class.
fn of_code(code: &str, carried: Carried, by_users_code: bool) -> (Owner, Option<Duration>) {
    let class = code.get(..2).unwrap_or(code);
    match (code, class) {
        // A lock that was not to be had, a statement that was cancelled.
        ("55P03" | "57014", _) => (Owner::Target, Some(BUSY_PAUSE)),
        // A serialization failure, a deadlock, a session that ended because it was idle in its transaction.
        ("40001" | "40P01" | "25P03", _) => (Owner::Target, Some(CONFLICT_PAUSE)),
        // No such table, column, other object or schema.
        ("42P01" | "42703" | "42704" | "3F000", _) if !by_users_code => (Owner::Schema, None),
        // Not allowed.
        ("42501", _) if !by_users_code => (Owner::Target, None),
        // A connection that failed or is refused, a server that only reads, is full, stops or fails.
        ("25006", _) | (_, "08" | "28" | "3D" | "53" | "57" | "58") => (Owner::Database, None),
        // Data, cardinality, constraints, limits, exceptions that functions raise.
        (_, "21" | "22" | "23" | "44" | "54" | "P0") => (Owner::Row, None),
        _ => (unknown(carried), None),
    }
}

/// By the kind of an error that is not the server's.
fn of_driver(error: &sqlx::Error, carried: Carried) -> Owner {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed
        | sqlx::Error::Configuration(_) => Owner::Database,
        sqlx::Error::ColumnNotFound(_) => Owner::Schema,
        _ => unknown(carried),
    }
}

fn unknown(carried: Carried) -> Owner {
    match carried {
        Carried::Rows => Owner::Row,
        Carried::Nothing => Owner::Target,
    }
}

/// What people can do about an error with this code.
fn remedy(code: &str, table: &str, constraint: Option<&str>) -> Option<String> {
    let named = constraint.map_or_else(|| "a constraint".to_owned(), |name| format!("constraint \"{name}\""));
    Some(match code {
        "42501" => format!(
            "nxt-mirror needs to own the table (alter table business_nxt.\"{table}\" owner to its role), or the rights to \
             select, insert, update and delete, with no row-level security forced upon it"
        ),
        "42P01" | "42703" | "42704" | "3F000" => format!(
            "table business_nxt.\"{table}\" was dropped, renamed or changed by hand: what is missing is made again, and \
             `nxt-mirror backfill` brings its rows back"
        ),
        "55P03" => format!(
            "somebody holds a lock on table business_nxt.\"{table}\"; it goes on when that is released (see pg_locks)"
        ),
        "57014" => {
            "the statement was cancelled by somebody, or by a time-out of the database; it is tried again".into()
        }
        "P0001" => "a trigger or function of this database refused the row: change it, or the row in the source".into(),
        "23502" => format!(
            "a column of table business_nxt.\"{table}\" that must not be null got no value: give it a default or let it \
             be null"
        ),
        "23503" => format!("{named} cannot hold, since rows arrive in any order: drop it"),
        "23505" => format!("{named} is not one of the source, which has such rows: drop it"),
        "23514" | "23P01" => format!("{named} is not one of the source: drop it or change it"),
        "54000" => "a value is too long for an index: drop the index, or index a part of the value".into(),
        "22021" => "the value has a character that PostgreSQL cannot store; change it in the source".into(),
        "53100" => "the database's disk is full: make room, and it goes on by itself".into(),
        "53300" => "the database has no connection left: raise max_connections or close some".into(),
        "53200" => "the database is out of memory; it is tried again".into(),
        "25006" => "the database only reads, as a standby does: let DATABASE_URL name the primary".into(),
        "28P01" | "28000" => "the database refuses the role: see DATABASE_URL and pg_hba.conf".into(),
        "3D000" => "there is no such database: see DATABASE_URL".into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, error::Error, fmt};

    use sqlx::error::{DatabaseError, ErrorKind};

    use super::*;

    /// An error of the server with this code.
    #[derive(Debug)]
    struct Coded(&'static str);

    impl fmt::Display for Coded {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "it failed")
        }
    }

    impl Error for Coded {}

    impl DatabaseError for Coded {
        fn message(&self) -> &str {
            "it failed"
        }

        fn code(&self) -> Option<Cow<'_, str>> {
            Some(self.0.into())
        }

        fn constraint(&self) -> Option<&str> {
            Some("mine")
        }

        fn as_error(&self) -> &(dyn Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> ErrorKind {
            ErrorKind::Other
        }
    }

    fn coded(code: &'static str, carried: Carried) -> Diagnosis {
        diagnose(&sqlx::Error::Database(Box::new(Coded(code))), carried, "product")
    }

    #[test]
    fn each_kind_of_error_has_its_owner() {
        for (code, with_rows, without) in [
            ("08006", Owner::Database, Owner::Database),
            ("53100", Owner::Database, Owner::Database),
            ("53300", Owner::Database, Owner::Database),
            ("57P01", Owner::Database, Owner::Database),
            ("57P03", Owner::Database, Owner::Database),
            ("58030", Owner::Database, Owner::Database),
            ("25006", Owner::Database, Owner::Database),
            ("28P01", Owner::Database, Owner::Database),
            ("55P03", Owner::Target, Owner::Target),
            ("57014", Owner::Target, Owner::Target),
            ("40001", Owner::Target, Owner::Target),
            ("40P01", Owner::Target, Owner::Target),
            ("25P03", Owner::Target, Owner::Target),
            ("42501", Owner::Target, Owner::Target),
            ("42P01", Owner::Schema, Owner::Schema),
            ("42703", Owner::Schema, Owner::Schema),
            ("42704", Owner::Schema, Owner::Schema),
            ("3F000", Owner::Schema, Owner::Schema),
            ("21000", Owner::Row, Owner::Row),
            ("22003", Owner::Row, Owner::Row),
            ("23505", Owner::Row, Owner::Row),
            ("54000", Owner::Row, Owner::Row),
            ("P0001", Owner::Row, Owner::Row),
            ("0A000", Owner::Row, Owner::Target),
            ("428C9", Owner::Row, Owner::Target),
            ("XX000", Owner::Row, Owner::Target),
            ("ZZ123", Owner::Row, Owner::Target),
            ("", Owner::Row, Owner::Target),
        ] {
            assert_eq!(coded(code, Carried::Rows).owner, with_rows, "{code}");
            assert_eq!(coded(code, Carried::Nothing).owner, without, "{code}");
        }
    }

    #[test]
    fn the_node_that_an_error_comes_from_is_no_code_of_users() {
        let node = "while executing command on 10.0.0.2:5432";
        assert!(!names_code(node) && !names_code(""));
        assert!(names_code(&format!("PL/pgSQL function refuse() line 1 at RAISE\n{node}")));
    }

    #[test]
    fn what_misses_something_inside_a_trigger_is_the_row_s() {
        for code in ["42P01", "42703", "42704", "42501"] {
            assert_eq!(of_code(code, Carried::Rows, true).0, Owner::Row, "{code}");
        }
    }

    #[test]
    fn errors_of_the_driver_have_owners_too() {
        let of = |error: sqlx::Error| diagnose(&error, Carried::Rows, "product").owner;
        assert_eq!(of(sqlx::Error::PoolTimedOut), Owner::Database);
        assert_eq!(of(sqlx::Error::Io(std::io::ErrorKind::ConnectionReset.into())), Owner::Database);
        assert_eq!(of(sqlx::Error::ColumnNotFound("x".into())), Owner::Schema);
        assert_eq!(of(sqlx::Error::Encode("out of range".into())), Owner::Row);
    }

    #[test]
    fn only_what_is_held_or_in_the_way_asks_for_a_pause() {
        assert_eq!(coded("55P03", Carried::Rows).pause, Some(BUSY_PAUSE));
        assert_eq!(coded("40P01", Carried::Rows).pause, Some(CONFLICT_PAUSE));
        assert_eq!(coded("23505", Carried::Rows).pause, None);
        assert_eq!(coded("53100", Carried::Rows).pause, None);
    }

    #[test]
    fn the_reason_says_what_to_do() {
        let reason = |code| coded(code, Carried::Rows).reason;
        assert!(reason("42501").starts_with("it failed; nxt-mirror needs to own the table (alter table business_nxt."));
        assert!(reason("P0001").contains("a trigger or function of this database refused the row"));
        assert!(reason("23505").contains("constraint \"mine\""));
        assert!(reason("55P03").contains("somebody holds a lock on table business_nxt.\"product\""));
        assert!(reason("53100").contains("disk is full"));
        assert_eq!(reason("XX000"), "it failed");
    }
}
