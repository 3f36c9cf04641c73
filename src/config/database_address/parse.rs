//! What the parameters of an address come to.

use std::{net::IpAddr, time::Duration};

use secrecy::{ExposeSecret, SecretString};

use super::{
    DatabaseAddress, DatabaseHost, Place, TIMEOUT_ALONE, TIMEOUT_AMONG_OTHERS, Tls, TlsMode,
    problem::Problem,
    text::{Parameters, WITHOUT_EFFECT, parameters},
};

const DEFAULT_PORT: u16 = 5432;
/// Of those without effect, what an address that was made by a program may well have, and what nobody needs to hear of.
const NOT_WORTH_A_LINE: [&str; 1] = ["statement-cache-capacity"];

pub(super) fn address(text: &SecretString) -> Result<DatabaseAddress, Problem> {
    understand(parameters(text.expose_secret().trim())?)
}

fn understand(mut parameters: Parameters) -> Result<DatabaseAddress, Problem> {
    let mut take = |name: &str| parameters.remove(name);
    let tls = tls(take("sslmode"), take("sslrootcert"), take("sslcert"), take("sslkey"))?;
    let hosts = hosts(take("host"), take("hostaddr"), take("port"), tls.mode)?;
    match take("target_session_attrs").as_deref() {
        None | Some("any" | "read-write" | "primary") => {}
        Some(_) => return Err(Problem::Attributes),
    }
    if let Some(encoding) = take("client_encoding")
        && !["utf8", "utf-8", "unicode", "auto"].contains(&encoding.to_ascii_lowercase().as_str())
    {
        return Err(Problem::ClientEncoding);
    }
    let name = take("application_name").or(take("fallback_application_name"));
    Ok(DatabaseAddress {
        connect_timeout: timeout(take("connect_timeout"), hosts.len())?,
        user: take("user"),
        password: take("password").map(SecretString::from),
        database: take("dbname"),
        application_name: name.unwrap_or_else(|| "nxt-mirror".to_owned()),
        options: take("options"),
        hosts,
        tls,
        without_effect: WITHOUT_EFFECT
            .into_iter()
            .filter(|name| parameters.contains_key(*name) && !NOT_WORTH_A_LINE.contains(name))
            .collect(),
    })
}

fn tls(
    mode: Option<String>,
    root_cert: Option<String>,
    cert: Option<String>,
    key: Option<String>,
) -> Result<Tls, Problem> {
    let mode = match mode.as_deref() {
        None if root_cert.as_deref() == Some("system") => TlsMode::VerifyFull,
        None | Some("prefer") => TlsMode::Prefer,
        Some("disable") => TlsMode::Disable,
        Some("allow") => TlsMode::Allow,
        Some("require") => TlsMode::Require,
        Some("verify-ca") => TlsMode::VerifyCa,
        Some("verify-full") => TlsMode::VerifyFull,
        Some(_) => return Err(Problem::TlsMode),
    };
    let (mode, root_cert) = match (mode, root_cert) {
        (TlsMode::VerifyFull, Some(system)) if system == "system" => (mode, None),
        (_, Some(system)) if system == "system" => return Err(Problem::SystemRoots),
        // As in libpq, whoever names an authority wants it asked.
        (TlsMode::Require, Some(path)) => (TlsMode::VerifyCa, Some(path)),
        both => both,
    };
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some((cert.into(), key.into())),
        (None, None) => None,
        _ => return Err(Problem::Identity),
    };
    Ok(Tls { mode, root_cert: root_cert.map(Into::into), identity })
}

/// Hosts and ports, which are lists with commas.
fn hosts(
    names: Option<String>,
    addresses: Option<String>,
    ports: Option<String>,
    mode: TlsMode,
) -> Result<Vec<DatabaseHost>, Problem> {
    let names = match (names, addresses) {
        (names, Some(addresses)) => {
            let is_list = addresses.split(',').all(|address| address.trim().parse::<IpAddr>().is_ok());
            let fits = names.as_ref().is_none_or(|names| names.split(',').count() == addresses.split(',').count());
            match (is_list && fits, mode) {
                (false, _) => return Err(Problem::HostAddresses),
                (true, TlsMode::VerifyFull) => return Err(Problem::HostAddressUnverified),
                (true, _) => addresses,
            }
        }
        (names, None) => names.unwrap_or_default(),
    };
    let places: Vec<_> = names.split(',').map(|name| place(name.trim())).collect();
    let ports = ports.unwrap_or_default();
    let ports = ports.split(',').map(|port| port_number(port.trim())).collect::<Result<Vec<_>, _>>()?;
    let port = |index: usize| match ports.as_slice() {
        [port] => Ok(*port),
        ports if ports.len() == places.len() => Ok(ports[index]),
        _ => Err(Problem::Ports),
    };
    places
        .iter()
        .enumerate()
        .map(|(index, place)| Ok(DatabaseHost { place: place.clone(), port: port(index)? }))
        .collect()
}

fn place(name: &str) -> Place {
    match name.bytes().next() {
        None => Place::Usual,
        Some(b'/' | b'@') => Place::Socket(name.to_owned()),
        Some(_) => Place::Network(name.to_owned()),
    }
}

fn port_number(text: &str) -> Result<u16, Problem> {
    match text {
        "" => Ok(DEFAULT_PORT),
        text => text.parse().ok().filter(|port| *port > 0).ok_or(Problem::Port),
    }
}

/// As in libpq: zero or less says nothing, and one second counts as two. There is always a bound.
fn timeout(seconds: Option<String>, hosts: usize) -> Result<Duration, Problem> {
    let seconds: i64 = match seconds {
        Some(text) => text.trim().parse().map_err(|_| Problem::Timeout)?,
        None => 0,
    };
    Ok(match u64::try_from(seconds) {
        Ok(seconds @ 1..) => Duration::from_secs(seconds.max(2)),
        _ if hosts > 1 => TIMEOUT_AMONG_OTHERS,
        _ => TIMEOUT_ALONE,
    })
}
