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
    way: Way,
    condition: Condition,
}

/// Who encrypts, if anybody does.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// The connection itself.
    Direct(PgSslMode),
    /// A [`super::relay::Relay`] to the host.
    Relayed,
}

/// When a way is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    First,
    /// The way before was encrypted, and its certificate could not be read, which nobody asked to.
    AfterOldCertificate,
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
    use Condition::{AfterOldCertificate, AfterRefused, AfterTlsFailed, First};
    use Way::{Direct, Relayed};
    let options = options(address, host, session)?;
    // libpq encrypts no socket of the machine's own.
    let mode = if matches!(host.place, Place::Network(_)) { address.tls.mode } else { TlsMode::Disable };
    let ways: &[_] = match mode {
        TlsMode::Disable => &[(Direct(PgSslMode::Disable), First)],
        TlsMode::Allow => &[
            (Direct(PgSslMode::Disable), First),
            (Direct(PgSslMode::Require), AfterRefused),
            (Relayed, AfterOldCertificate),
        ],
        TlsMode::Prefer => &[
            (Direct(PgSslMode::Prefer), First),
            (Relayed, AfterOldCertificate),
            (Direct(PgSslMode::Disable), AfterTlsFailed),
        ],
        TlsMode::Require => &[(Direct(PgSslMode::Require), First), (Relayed, AfterOldCertificate)],
        TlsMode::VerifyCa => &[(Direct(PgSslMode::VerifyCa), First)],
        TlsMode::VerifyFull => &[(Direct(PgSslMode::VerifyFull), First)],
    };
    // A relay would lend our own certificate to whoever connects to it.
    let ways = ways.iter().filter(|(way, _)| !matches!(way, Relayed) || address.tls.identity.is_none());
    let route = |&(way, condition): &(Way, _)| Route { options: options.clone().ssl_mode(way.mode()), way, condition };
    Ok(ways.map(route).collect())
}

impl Way {
    /// What the connection itself is told: a relay encrypts by itself.
    fn mode(self) -> PgSslMode {
        match self {
            Self::Direct(mode) => mode,
            Self::Relayed => PgSslMode::Disable,
        }
    }
}

impl Route {
    pub(super) fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    pub(super) fn into_options(self) -> PgConnectOptions {
        self.options
    }

    pub(super) fn is_relayed(&self) -> bool {
        matches!(self.way, Way::Relayed)
    }

    /// The same way, through a relay that listens on this port.
    pub(super) fn through(self, port: u16) -> Self {
        Self { options: self.options.host("127.0.0.1").port(port), ..self }
    }

    /// Whether it may succeed where the way before failed like this.
    pub(super) fn is_worth_a_try_after(&self, error: &DatabaseError) -> bool {
        match self.condition {
            Condition::First => true,
            Condition::AfterOldCertificate => matches!(error, DatabaseError::OldCertificate),
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
