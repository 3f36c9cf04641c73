//! One way to reach one host: with or without encryption.

use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use url::form_urlencoded::Serializer;

use super::{DatabaseError, session::Session};
use crate::config::{DatabaseAddress, DatabaseHost, Place, TlsMode};

/// A way to reach a host.
#[derive(Debug, Clone)]
pub(super) struct Route {
    options: PgConnectOptions,
    condition: Condition,
}

/// When a way is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    First,
    /// The way before was encrypted, and the handshake failed or the server wants none, as `prefer` has it.
    AfterTlsFailed,
    /// The way before was not encrypted, and the server refused it, as `allow` has it.
    AfterRefused,
}

/// The ways to reach a host, in order.
pub(super) fn routes(
    address: &DatabaseAddress,
    host: &DatabaseHost,
    session: &Session,
) -> Result<Vec<Route>, DatabaseError> {
    use Condition::{AfterRefused, AfterTlsFailed, First};
    let options = options(address, host, session)?;
    // libpq encrypts no socket of the machine's own.
    let mode = if matches!(host.place, Place::Network(_)) { address.tls.mode } else { TlsMode::Disable };
    let modes: &[_] = match mode {
        TlsMode::Disable => &[(PgSslMode::Disable, First)],
        TlsMode::Allow => &[(PgSslMode::Disable, First), (PgSslMode::Require, AfterRefused)],
        TlsMode::Prefer => &[(PgSslMode::Prefer, First), (PgSslMode::Disable, AfterTlsFailed)],
        TlsMode::Require => &[(PgSslMode::Require, First)],
        TlsMode::VerifyCa => &[(PgSslMode::VerifyCa, First)],
        TlsMode::VerifyFull => &[(PgSslMode::VerifyFull, First)],
    };
    let route = |&(mode, condition)| Route { options: options.clone().ssl_mode(mode), condition };
    Ok(modes.iter().map(route).collect())
}

impl Route {
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    pub(super) fn into_options(self) -> PgConnectOptions {
        self.options
    }

    /// Whether it may succeed where the way before failed like this.
    pub(super) fn is_worth_a_try_after(&self, error: &DatabaseError) -> bool {
        match self.condition {
            Condition::First => true,
            Condition::AfterTlsFailed => error.is_of_tls() || error.is_of_access(),
            Condition::AfterRefused => error.is_of_access(),
        }
    }
}

fn options(
    address: &DatabaseAddress,
    host: &DatabaseHost,
    session: &Session,
) -> Result<PgConnectOptions, DatabaseError> {
    let mut options: PgConnectOptions = url(address, host).parse().map_err(DatabaseError::of_connecting)?;
    if let Place::Socket(name) = &host.place
        && let Some(name) = name.strip_prefix('@')
    {
        options = options.socket(format!("\0{name}"));
    }
    if let Some(path) = &address.tls.root_cert {
        options = options.ssl_root_cert(path);
    }
    if let Some((cert, key)) = &address.tls.identity {
        options = options.ssl_client_cert(cert).ssl_client_key(key);
    }
    let name = format!("{} {}", address.application_name, session.label);
    // Poolers refuse options that they do not know, and this one makes no difference to binary results.
    Ok(options.application_name(name.trim_end()).extra_float_digits(None))
}

/// The host's own address, in the form that also looks into the password file.
fn url(address: &DatabaseAddress, host: &DatabaseHost) -> String {
    let mut query = Serializer::new(String::new());
    let mut keep = |name: &str, value: Option<&str>| {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    };
    keep("port", Some(&host.port.to_string()));
    keep(
        "host",
        match &host.place {
            Place::Network(name) | Place::Socket(name) => Some(name),
            Place::Usual => None,
        },
    );
    keep("user", address.user.as_deref());
    keep("password", address.password.as_ref().map(|password| password.expose_secret()));
    keep("dbname", address.database.as_deref());
    keep("options", address.options.as_deref());
    format!("postgres:///?{}", query.finish())
}
