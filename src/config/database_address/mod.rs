//! What `DATABASE_URL` says, in all forms that libpq takes.

mod parse;
mod problem;
mod text;

use std::{fmt, path::PathBuf, time::Duration};

use secrecy::SecretString;

use super::ConfigError;

/// How long one host may take to answer when `connect_timeout` does not say, and there is no other.
const TIMEOUT_ALONE: Duration = Duration::from_secs(5);
/// The same when there are others to try.
const TIMEOUT_AMONG_OTHERS: Duration = Duration::from_secs(2);

/// Where PostgreSQL is, and how to connect to it.
#[derive(Debug, Clone)]
pub struct DatabaseAddress {
    /// The hosts, in the order in which they are tried. There is at least one.
    pub hosts: Vec<DatabaseHost>,
    /// Who connects; without it, as `PGUSER` or the user of the process says.
    pub user: Option<String>,
    /// The password; without it, as `PGPASSWORD` or the password file says.
    pub password: Option<SecretString>,
    /// The database; without it, the one named like the user.
    pub database: Option<String>,
    /// Whether connections are encrypted, and what is checked.
    pub tls: Tls,
    /// How long one host may take to answer.
    pub connect_timeout: Duration,
    /// How the server lists our sessions.
    pub application_name: String,
    /// Options for the server, as its command line has them.
    pub options: Option<String>,
    /// Parameters that libpq has, and that make no difference here.
    pub without_effect: Vec<&'static str>,
}

/// One server, or one of several of which only one takes writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseHost {
    /// Where it is.
    pub place: Place,
    /// Its port, which names the socket, too.
    pub port: u16,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A name or an address of the network.
    Network(String),
    /// A folder with a Unix socket, or the beginning of a name in Linux's abstract space, which begins with `@`.
    Socket(String),
    /// As `PGHOST` says, or the usual folder of sockets.
    Usual,
}

impl fmt::Display for DatabaseHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Network(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            Place::Network(host) => write!(f, "{host}:{}", self.port),
            Place::Socket(folder) => write!(f, "{folder}/.s.PGSQL.{}", self.port),
            Place::Usual => write!(f, "the usual socket, port {}", self.port),
        }
    }
}

/// Encryption of connections over the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// `sslmode`.
    pub mode: TlsMode,
    /// `sslrootcert`: the authorities to trust; without it, those of the system.
    pub root_cert: Option<PathBuf>,
    /// `sslcert` and `sslkey`: our own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never.
    Disable,
    /// Only if the server insists.
    Allow,
    /// If the server can.
    Prefer,
    /// Always; any certificate.
    Require,
    /// Always; the certificate must come from an authority.
    VerifyCa,
    /// Always; the certificate must come from an authority and name the host.
    VerifyFull,
}

impl DatabaseAddress {
    /// Reads an address of the form `postgresql://...`, or libpq's list of `key=value`.
    pub fn parse(text: &SecretString) -> Result<Self, ConfigError> {
        parse::address(text)
            .map_err(|problem| ConfigError::Wrong { variable: "DATABASE_URL".to_owned(), problem: problem.to_string() })
    }
}

#[cfg(test)]
mod tests;
