//! From the text of an address to its parameters, whichever of libpq's two forms it has.

use std::{collections::BTreeMap, iter::Peekable, str::Chars};

use percent_encoding::percent_decode_str;

use super::problem::Problem;

const SCHEMES: [&str; 2] = ["postgresql://", "postgres://"];
/// What is understood.
const UNDERSTOOD: [&str; 16] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "connect_timeout",
    "application_name",
    "fallback_application_name",
    "target_session_attrs",
    "options",
    "client_encoding",
];
/// What libpq has beside that, and what makes no difference to what is stored.
pub(super) const WITHOUT_EFFECT: [&str; 19] = [
    "channel_binding",
    "gssdelegation",
    "gssencmode",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "max_protocol_version",
    "min_protocol_version",
    "require_auth",
    "ssl_max_protocol_version",
    "ssl_min_protocol_version",
    "sslcompression",
    "sslsni",
    "statement-cache-capacity",
    "tcp_user_timeout",
];
/// What libpq has and we refuse, since it would change where we connect, or as what.
const UNSUPPORTED: [&str; 3] = ["passfile", "replication", "service"];
/// Names and values, decoded.
pub(super) type Parameters = BTreeMap<String, String>;

/// What an address says.
pub(super) fn parameters(text: &str) -> Result<Parameters, Problem> {
    match SCHEMES.iter().find_map(|scheme| text.strip_prefix(scheme)) {
        Some(rest) => of_url(rest),
        None => of_list(text),
    }
}

/// What follows the scheme: `user:password@host:port,host:port/database?name=value&...`.
fn of_url(rest: &str) -> Result<Parameters, Problem> {
    let (front, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = front.split_once('/').unwrap_or((front, ""));
    let (login, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
    let mut parameters = Parameters::new();
    let mut keep = |name: &str, text: &str| {
        if !text.is_empty() {
            parameters.insert(name.to_owned(), decoded(text)?);
        }
        Ok(())
    };
    keep("user", user)?;
    keep("password", password.unwrap_or_default())?;
    keep("dbname", database)?;
    let hosts = hosts.split(',').map(host_and_port).collect::<Result<Vec<_>, _>>()?;
    let (names, ports): (Vec<_>, Vec<_>) = hosts.into_iter().unzip();
    keep("host", &names.join(","))?;
    if ports.iter().any(|port| !port.is_empty()) {
        keep("port", &ports.join(","))?;
    }
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or(Problem::UnknownParameter)?;
        let name = known(&decoded(name)?, query.contains('@'))?;
        keep(name, value)?;
    }
    Ok(parameters)
}

/// One host of a URL, which is an address of IP version 6 in brackets, and its port.
fn host_and_port(host: &str) -> Result<(&str, &str), Problem> {
    if let Some(rest) = host.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(Problem::Form)?;
        return match port.strip_prefix(':') {
            Some(port) => Ok((address, port)),
            None if port.is_empty() => Ok((address, "")),
            None => Err(Problem::Form),
        };
    }
    match host.split_once(':') {
        Some((_, port)) if port.contains(':') => Err(Problem::Port),
        Some(both) => Ok(both),
        None => Ok((host, "")),
    }
}

fn decoded(text: &str) -> Result<String, Problem> {
    percent_decode_str(text).decode_utf8().map(|text| text.into_owned()).map_err(|_| Problem::Encoding)
}

/// The parameter's own spelling. A name that may be a piece of a password is not repeated.
fn known(name: &str, may_be_secret: bool) -> Result<&'static str, Problem> {
    // Other libraries spell these apart.
    let name = match name {
        "ssl-mode" => "sslmode",
        "ssl-root-cert" | "ssl-ca" => "sslrootcert",
        "ssl-cert" => "sslcert",
        "ssl-key" => "sslkey",
        name => name,
    };
    match UNDERSTOOD.iter().chain(&WITHOUT_EFFECT).find(|known| **known == name) {
        Some(known) => Ok(known),
        None if UNSUPPORTED.contains(&name) => Err(Problem::Unsupported(name.to_owned())),
        None if may_be_secret || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => {
            Err(Problem::UnknownParameter)
        }
        None => Err(Problem::NoSuchParameter(name.to_owned())),
    }
}

/// A list of `key=value` with blanks between; values may be in single quotes, and a backslash takes the next character
/// as it is.
fn of_list(text: &str) -> Result<Parameters, Problem> {
    let mut parameters = Parameters::new();
    let mut characters = text.chars().peekable();
    loop {
        while characters.next_if(|character| character.is_whitespace()).is_some() {}
        if characters.peek().is_none() {
            break;
        }
        let mut name = String::new();
        while let Some(character) = characters.next_if(|character| *character != '=' && !character.is_whitespace()) {
            name.push(character);
        }
        while characters.next_if(|character| character.is_whitespace()).is_some() {}
        characters.next_if_eq(&'=').ok_or(Problem::Form)?;
        while characters.next_if(|character| character.is_whitespace()).is_some() {}
        let value = list_value(&mut characters)?;
        if !value.is_empty() {
            parameters.insert(known(&name, true)?.to_owned(), value);
        }
    }
    if parameters.is_empty() { Err(Problem::Form) } else { Ok(parameters) }
}

fn list_value(characters: &mut Peekable<Chars<'_>>) -> Result<String, Problem> {
    let is_quoted = characters.next_if_eq(&'\'').is_some();
    let mut value = String::new();
    loop {
        match characters.next() {
            Some('\\') => value.extend(characters.next()),
            Some('\'') if is_quoted => return Ok(value),
            Some(character) if !is_quoted && character.is_whitespace() => return Ok(value),
            Some(character) => value.push(character),
            None if is_quoted => return Err(Problem::Form),
            None => return Ok(value),
        }
    }
}
