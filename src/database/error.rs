//! Why the database cannot be used, in lines that say what to do.

use std::io;

use sqlx::migrate::MigrateError;

use crate::{
    config::{ConfigError, DatabaseHost},
    telemetry::chain,
};

/// The database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The address is not one.
    #[error(transparent)]
    Address(#[from] ConfigError),
    /// No connection or a failed statement.
    #[error("the database cannot be reached by DATABASE_URL")]
    Sql(#[from] sqlx::Error),
    /// A host that does not answer.
    #[error("{host} does not answer within {seconds} s")]
    Slow {
        /// The host.
        host: String,
        /// `connect_timeout`.
        seconds: u64,
    },
    /// The host is a standby, or sessions only read there.
    #[error("it takes no writes: it is a standby, or default_transaction_read_only is on")]
    ReadOnly,
    /// Several hosts, none of which can be used.
    #[error("no host of DATABASE_URL takes writes: {0}")]
    NoHost(String),
    /// Our TLS library reads certificates of version 3 alone, and this one must be verified, or ours be shown.
    #[error(
        "the database's certificate is of X.509 version 1, which cannot be verified, nor be used with sslcert: give the \
         server one of version 3 (openssl req -x509 makes such), or use sslmode=require without sslrootcert and sslcert, \
         which believes any"
    )]
    OldCertificate,
    /// A pooler that shares sessions.
    #[error(
        "DATABASE_URL leads to a connection pooler such as PgBouncer in transaction mode, which keeps no prepared \
         statements: set pool_mode = session for this database (in pgbouncer.ini, behind its line in [databases]), or \
         let DATABASE_URL name PostgreSQL itself"
    )]
    Pooler,
    /// Too old.
    #[error("the database is PostgreSQL {found}, but 14 or newer is needed")]
    TooOld {
        /// Its version, such as 13.4.
        found: String,
    },
    /// It cannot store every text.
    #[error(
        "the database's encoding is {found}, but UTF8 is needed: create it with encoding 'UTF8' and template template0"
    )]
    Encoding {
        /// Its encoding.
        found: String,
    },
    /// Made by a version whose state is not ours.
    #[error(
        "the database holds the state of another version of nxt-mirror, which cannot be taken over: start with a new database"
    )]
    Foreign,
    /// A migration failed.
    #[error("the database cannot be brought up to date")]
    Migrate(#[from] MigrateError),
}

impl DatabaseError {
    /// An error of making a connection.
    pub(super) fn of_connecting(error: sqlx::Error) -> Self {
        match rustls_error(&error) {
            Some(rustls::Error::InvalidCertificate(reason))
                if format!("{reason:?}").contains("UnsupportedCertVersion") =>
            {
                Self::OldCertificate
            }
            _ => Self::Sql(error),
        }
    }

    /// Whether the server, or a pooler before it, answers and does not know the user, the password or the database: what
    /// is wrong is the address.
    pub fn is_wrong_address(&self) -> bool {
        let Self::Sql(sqlx::Error::Database(refusal)) = self else { return false };
        match refusal.code().as_deref() {
            Some("3D000") => true,
            // PgBouncer has one code for whatever it refuses itself.
            Some("08P01") => refusal.message().starts_with("no such "),
            code => code.is_some_and(|code| code.starts_with("28")),
        }
    }

    /// What each host failed with; there is at least one.
    pub(super) fn of_hosts(mut refusals: Vec<(&DatabaseHost, Self)>) -> Self {
        match refusals.as_slice() {
            [_] => refusals.remove(0).1,
            refusals => {
                let lines: Vec<_> = refusals.iter().map(|(host, error)| format!("{host}: {}", chain(error))).collect();
                Self::NoHost(lines.join("; "))
            }
        }
    }

    /// The handshake of an encrypted connection failed.
    pub(super) fn is_of_tls(&self) -> bool {
        match self {
            Self::OldCertificate | Self::Sql(sqlx::Error::Tls(_)) => true,
            Self::Sql(sqlx::Error::Io(error)) => {
                matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
            }
            _ => false,
        }
    }

    /// The server does not want connections of this kind, by `pg_hba.conf`.
    pub(super) fn is_of_access(&self) -> bool {
        let Self::Sql(error) = self else { return false };
        error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "28000")
    }
}

fn rustls_error(error: &sqlx::Error) -> Option<&rustls::Error> {
    let sqlx::Error::Io(error) = error else { return None };
    error.get_ref()?.downcast_ref()
}
