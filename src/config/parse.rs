//! From texts to typed settings, one function a group.

use std::{collections::BTreeMap, fmt::Display, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};
use url::Url;

use super::{
    ConfigError, DatabaseAddress, DatabaseSettings, Deletes, HistoryScope, LogFormat, LogSettings, MirrorSettings,
    OpsSettings, Source, UpstreamSettings, WebhookSettings,
};
use crate::domain::{Exclusions, ExtensionColumn, ExtensionType, Language, TableName, naming};

/// How long a reader of a stream may take for one part of it.
const TAKING_MAX: Duration = Duration::from_secs(30);

pub(super) fn database(source: &Source) -> Result<DatabaseSettings, ConfigError> {
    let address = source.secret("DATABASE_URL")?.as_ref().map(DatabaseAddress::parse).transpose()?;
    Ok(DatabaseSettings { address, data_dir: source.text("NXT_DATA_DIR").unwrap_or("./nxt-data").into() })
}

pub(super) fn webhook(source: &Source, required: bool) -> Result<Option<WebhookSettings>, ConfigError> {
    const NAME: &str = "NXT_WEBHOOK_SECRETS";
    let listen = address(source, "NXT_LISTEN", "127.0.0.1:8080")?;
    let path = source.text("NXT_WEBHOOK_PATH").unwrap_or("/webhooks/business-nxt").to_owned();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.~".contains(c);
    if !path.starts_with('/') || path.len() < 2 || !path.chars().all(plain) {
        return Err(wrong("NXT_WEBHOOK_PATH", "must start with / and have only letters, digits and /-_.~ behind it"));
    }
    if path == "/healthz" {
        return Err(wrong("NXT_WEBHOOK_PATH", "/healthz is where health checks ask"));
    }
    let body_bytes_max = in_range(source, "NXT_WEBHOOK_BODY_MAX", 1_048_576, 1..=268_435_456)?;
    let Some(list) = source.secret(NAME)? else {
        let purpose = "the signature keys of the webhook subscriptions, separated by commas";
        return if required { Err(ConfigError::Missing { variable: NAME, purpose }) } else { Ok(None) };
    };
    let secrets: Vec<SecretString> = list.expose_secret().split(',').map(str::trim).map(SecretString::from).collect();
    if secrets.iter().any(|secret| secret.expose_secret().is_empty()) {
        return Err(wrong(NAME, "one of the comma-separated keys is empty"));
    }
    Ok(Some(WebhookSettings { listen, path, secrets, body_bytes_max }))
}

pub(super) fn ops(source: &Source) -> Result<OpsSettings, ConfigError> {
    let listen = address(source, "NXT_OPS_LISTEN", "127.0.0.1:9090")?;
    let token = source.secret("NXT_OPS_TOKEN")?;
    if token.is_none() && !listen.ip().is_loopback() {
        let problem = format!("not set, and NXT_OPS_LISTEN={listen} is not a loopback address");
        return Err(wrong("NXT_OPS_TOKEN", problem));
    }
    Ok(OpsSettings { listen, token, requests_per_minute: requests_per_minute(source)?, taking_max: TAKING_MAX })
}

pub(super) fn upstream(source: &Source, required: bool) -> Result<Option<UpstreamSettings>, ConfigError> {
    let client_id = source.text("NXT_CLIENT_ID");
    let client_secret = source.secret("NXT_CLIENT_SECRET")?;
    let token_url = url(source, "NXT_TOKEN_URL", "https://connect.visma.com/connect/token")?;
    let graphql_url = url(source, "NXT_GRAPHQL_URL", "https://business.visma.net/api/graphql-service")?;
    let requests_per_minute = requests_per_minute(source)?;
    let in_flight_max = in_range(source, "NXT_IN_FLIGHT_MAX", 60, 1..=10_000)?;
    let fetch_rows_max = in_range(source, "NXT_FETCH_ROWS_MAX", 500, 1..=100_000)?;
    let timezone = match source.text("NXT_SOURCE_TIMEZONE") {
        None => chrono_tz::UTC,
        Some(name) => name
            .parse()
            .map_err(|_| wrong("NXT_SOURCE_TIMEZONE", format!("{name:?} is no time zone such as Europe/Oslo")))?,
    };
    let missing = |variable, purpose| if required { Err(ConfigError::Missing { variable, purpose }) } else { Ok(None) };
    let Some(client_id) = client_id else {
        return missing("NXT_CLIENT_ID", "the id of the service application (isv_...)");
    };
    let Some(client_secret) = client_secret else {
        return missing("NXT_CLIENT_SECRET", "the secret of the service application");
    };
    Ok(Some(UpstreamSettings {
        client_id: client_id.to_owned(),
        client_secret,
        token_url,
        scope: source
            .text("NXT_SCOPE")
            .unwrap_or("business-graphql-service-api:access-group-based-readonly")
            .to_owned(),
        tenant_id: source.text("NXT_TENANT_ID").map(str::to_owned),
        graphql_url,
        requests_per_minute,
        in_flight_max,
        fetch_rows_max,
        timezone,
    }))
}

pub(super) fn requests_per_minute(source: &Source) -> Result<u32, ConfigError> {
    in_range(source, "NXT_REQUESTS_PER_MINUTE", 600, 1..=100_000)
}

pub(super) fn mirror(source: &Source) -> Result<MirrorSettings, ConfigError> {
    let tables = items(source, "NXT_TABLES").map(|name| table("NXT_TABLES", name)).collect::<Result<_, _>>()?;
    let companies = items(source, "NXT_COMPANIES")
        .map(|item| {
            let number = item.parse().ok().filter(|number| *number > 0);
            number.ok_or_else(|| wrong("NXT_COMPANIES", format!("{item:?} is not a company number")))
        })
        .collect::<Result<_, _>>()?;
    let deletes = match source.text("NXT_DELETES") {
        None | Some("hard") => Deletes::Hard,
        Some("soft") => Deletes::Soft,
        Some(other) => return Err(wrong("NXT_DELETES", format!("{other:?} is neither hard nor soft"))),
    };
    let (tables, exclusions): (Vec<TableName>, _) = (tables, exclusions(source)?);
    if let Some(table) = tables.iter().find(|table| exclusions.has_table(table.as_str())) {
        return Err(wrong("NXT_EXCLUDE", format!("table {table} is named in NXT_TABLES, too")));
    }
    Ok(MirrorSettings {
        exclusions: Arc::new(exclusions),
        tables,
        companies,
        keys: keys(source)?,
        extensions: extensions(source)?,
        language: language(source)?,
        relation_indexes: relation_indexes(source)?,
        deletes,
        history: history(source)?,
        history_days: match source.text("NXT_HISTORY_DAYS") {
            None => None,
            Some(_) => Some(in_range(source, "NXT_HISTORY_DAYS", 0, 1..=36_500)?),
        },
        sweep_interval: seconds(source, "NXT_SWEEP_SECONDS", 300)?,
        walk_interval: seconds(source, "NXT_WALK_SECONDS", 86_400)?,
        ledger_days: in_range(source, "NXT_LEDGER_DAYS", 30, 1..=3_650)?,
    })
}

/// `Associate.emailAddress;Associate.phone;FileArchive`
pub(super) fn exclusions(source: &Source) -> Result<Exclusions, ConfigError> {
    const NAME: &str = "NXT_EXCLUDE";
    let mut exclusions = Exclusions::default();
    let keys = keys(source)?;
    let entries = source.text(NAME).unwrap_or_default().split([';', ',']).map(str::trim);
    for entry in entries.filter(|entry| !entry.is_empty()) {
        let (owner, column) = match entry.split_once('.') {
            Some((owner, column)) => (table(NAME, owner.trim())?, Some(column.trim())),
            None => (table(NAME, entry)?, None),
        };
        match column {
            Some(column) if !naming::is_well_formed(column) => {
                return Err(wrong(NAME, format!("{column:?} in {entry:?} is not a column name")));
            }
            Some(column) => exclusions.add_column(owner.as_str(), column),
            None => exclusions.add_table(owner.as_str()),
        }
    }
    for (owner, columns) in &keys {
        if let Some(column) = columns.iter().find(|column| exclusions.has_column(owner.as_str(), column)) {
            return Err(wrong(
                NAME,
                format!("{owner}.{column} is part of the key (NXT_KEYS), which cannot be left out"),
            ));
        }
    }
    Ok(exclusions)
}

/// `Order,OrderLine`, or `*`
fn history(source: &Source) -> Result<HistoryScope, ConfigError> {
    const NAME: &str = "NXT_HISTORY";
    if source.text(NAME).is_some_and(|text| text.trim() == "*") {
        return Ok(HistoryScope::All);
    }
    let tables = items(source, NAME).map(|name| table(NAME, name)).collect::<Result<_, _>>()?;
    Ok(HistoryScope::Tables(tables))
}

fn language(source: &Source) -> Result<Language, ConfigError> {
    const NAME: &str = "NXT_LANGUAGE";
    let Some(text) = source.text(NAME) else { return Ok(Language::English) };
    Language::ALL.into_iter().find(|known| known.name().eq_ignore_ascii_case(text)).ok_or_else(|| {
        wrong(NAME, format!("{text:?} is none of the languages {}", Language::ALL.map(Language::name).join(", ")))
    })
}

/// A word by itself is a level. The filter would take any other for the name of a part whose lines alone are wanted, so
/// that a slip of the pen silenced the daemon.
fn is_misspelt_level(part: &str) -> bool {
    let is_name = part.is_empty() || part.contains(['=', '[', ':']) || part.starts_with("nxt_");
    !is_name && part.parse::<LevelFilter>().is_err()
}

fn relation_indexes(source: &Source) -> Result<bool, ConfigError> {
    const NAME: &str = "NXT_RELATION_INDEXES";
    match source.text(NAME) {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(other) => Err(wrong(NAME, format!("{other:?} is neither on nor off"))),
    }
}

pub(super) fn log(source: &Source) -> Result<LogSettings, ConfigError> {
    let filter = source.text("NXT_LOG").unwrap_or("info").to_owned();
    EnvFilter::try_new(&filter).map_err(|error| wrong("NXT_LOG", error))?;
    if let Some(word) = filter.split(',').map(str::trim).find(|part| is_misspelt_level(part)) {
        return Err(wrong("NXT_LOG", format!("{word:?} is none of the levels off, error, warn, info, debug, trace")));
    }
    let format = match source.text("NXT_LOG_FORMAT") {
        None => None,
        Some("text") => Some(LogFormat::Text),
        Some("json") => Some(LogFormat::Json),
        Some(other) => return Err(wrong("NXT_LOG_FORMAT", format!("{other:?} is neither text nor json"))),
    };
    Ok(LogSettings { filter, format })
}

/// `Voucher=batchNo+voucherNo;Text=languageNo+textType+textNo`
fn keys(source: &Source) -> Result<BTreeMap<TableName, Vec<String>>, ConfigError> {
    const NAME: &str = "NXT_KEYS";
    let mut keys = BTreeMap::new();
    let entries = source.text(NAME).unwrap_or_default().split(';').map(str::trim).filter(|entry| !entry.is_empty());
    for entry in entries {
        let (name, columns) = entry
            .split_once('=')
            .ok_or_else(|| wrong(NAME, format!("{entry:?} is not of the form Table=column+column")))?;
        let columns: Vec<String> = columns.split('+').map(|column| column.trim().to_owned()).collect();
        if let Some(bad) = columns.iter().find(|column| !naming::is_well_formed(column)) {
            return Err(wrong(NAME, format!("{bad:?} in {entry:?} is not a column name")));
        }
        if let Some(twice) = repeated(&columns) {
            return Err(wrong(NAME, format!("{entry:?} names column {twice} twice")));
        }
        if keys.insert(table(NAME, name.trim())?, columns).is_some() {
            return Err(wrong(NAME, format!("table {} is given twice", name.trim())));
        }
    }
    Ok(keys)
}

/// A name that an earlier one differs from in case at most.
fn repeated(names: &[String]) -> Option<&String> {
    let mut rest = names.iter().enumerate();
    let is_known =
        |(place, name): &(usize, &String)| names[..*place].iter().any(|other| other.eq_ignore_ascii_case(name));
    rest.find(is_known).map(|(_, name)| name)
}

/// `Order.MyDme_approvedBy=string;Order.MyDme_score=decimal`
fn extensions(source: &Source) -> Result<BTreeMap<TableName, Vec<ExtensionColumn>>, ConfigError> {
    const NAME: &str = "NXT_EXTENSION_COLUMNS";
    let mut extensions: BTreeMap<TableName, Vec<ExtensionColumn>> = BTreeMap::new();
    let entries = source.text(NAME).unwrap_or_default().split(';').map(str::trim).filter(|entry| !entry.is_empty());
    for entry in entries {
        let (owner, column) = extension(entry).map_err(|problem| wrong(NAME, problem))?;
        // However a table is spelled, it is one.
        let known = extensions.keys().find(|known| known.as_str().eq_ignore_ascii_case(owner.as_str())).cloned();
        let columns = extensions.entry(known.unwrap_or(owner)).or_default();
        if columns.iter().any(|other| other.name.eq_ignore_ascii_case(&column.name)) {
            return Err(wrong(NAME, format!("{entry:?} names a column that is given before")));
        }
        columns.push(column);
    }
    Ok(extensions)
}

/// `Order.MyDme_approvedBy=string`
fn extension(entry: &str) -> Result<(TableName, ExtensionColumn), String> {
    let parts = entry.split_once('=').and_then(|(place, kind)| Some((place.split_once('.')?, kind.trim())));
    let ((table, column), kind) = parts.ok_or_else(|| format!("{entry:?} is not of the form Table.column=type"))?;
    let (table, column) = (table.trim(), column.trim());
    let table = TableName::new(table).map_err(|error| error.to_string())?;
    if !naming::is_well_formed(column) {
        return Err(format!("{column:?} in {entry:?} is not a column name"));
    }
    let types = ExtensionType::ALL;
    let kind = types.into_iter().find(|known| known.name() == kind).ok_or_else(|| {
        format!("{kind:?} in {entry:?} is none of the types {}", types.map(ExtensionType::name).join(", "))
    })?;
    Ok((table, ExtensionColumn { name: column.to_owned(), kind }))
}

fn items<'a>(source: &'a Source, name: &str) -> impl Iterator<Item = &'a str> {
    source.text(name).unwrap_or_default().split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn table(variable: &str, name: &str) -> Result<TableName, ConfigError> {
    TableName::new(name).map_err(|error| wrong(variable, error))
}

fn address(source: &Source, name: &'static str, default: &str) -> Result<SocketAddr, ConfigError> {
    let text = source.text(name).unwrap_or(default);
    text.parse().map_err(|_| wrong(name, format!("{text:?} is not an address such as {default}")))
}

/// An `https` URL, or a plain `http` one, which is fit for a simulator on the same machine or network.
fn url(source: &Source, name: &'static str, default: &str) -> Result<Url, ConfigError> {
    let text = source.text(name).unwrap_or(default);
    let url = Url::parse(text).map_err(|error| wrong(name, format!("{text:?} is not a URL: {error}")))?;
    if !matches!(url.scheme(), "https" | "http") || url.host_str().is_none() {
        return Err(wrong(name, format!("{text:?} is not an http or https URL")));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong(name, "must not contain a user name or password"));
    }
    Ok(url)
}

fn seconds(source: &Source, name: &'static str, default: u32) -> Result<Option<Duration>, ConfigError> {
    let seconds: u32 = in_range(source, name, default, 0..=31_536_000)?;
    Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
}

fn in_range<T>(
    source: &Source,
    name: &'static str,
    default: T,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, ConfigError>
where
    T: FromStr + PartialOrd + Display,
{
    let Some(text) = source.text(name) else { return Ok(default) };
    text.parse()
        .ok()
        .filter(|value| range.contains(value))
        .ok_or_else(|| wrong(name, format!("{text:?} is not a whole number from {} to {}", range.start(), range.end())))
}

fn wrong(variable: &str, problem: impl Display) -> ConfigError {
    ConfigError::Wrong { variable: variable.to_owned(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::{Role, Settings};
    use super::*;

    const COMPLETE: [(&str, &str); 3] =
        [("NXT_WEBHOOK_SECRETS", "one, two"), ("NXT_CLIENT_ID", "isv_x"), ("NXT_CLIENT_SECRET", "hush")];

    fn source(extra: &[(&'static str, &str)]) -> Source {
        Source::from_pairs(COMPLETE.iter().chain(extra).map(|(name, value)| (*name, (*value).to_owned())))
    }

    #[test]
    fn the_defaults_are_the_contract_s() {
        let settings = Settings::read(&source(&[]), Role::All).unwrap();
        let webhook = settings.webhook.unwrap();
        let upstream = settings.upstream.unwrap();
        assert_eq!(webhook.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(webhook.path, "/webhooks/business-nxt");
        assert_eq!((webhook.body_bytes_max, webhook.secrets.len()), (1_048_576, 2));
        assert_eq!(settings.ops.listen.to_string(), "127.0.0.1:9090");
        assert_eq!((upstream.requests_per_minute, upstream.in_flight_max, upstream.fetch_rows_max), (600, 60, 500));
        assert_eq!(upstream.graphql_url.as_str(), "https://business.visma.net/api/graphql-service");
        assert_eq!(settings.mirror.walk_interval, Some(Duration::from_secs(86_400)));
    }

    #[test]
    fn a_host_name_of_another_alphabet_is_known_to_the_network() {
        let settings =
            Settings::read(&source(&[("NXT_GRAPHQL_URL", "https://Bücher.example/api")]), Role::All).unwrap();
        assert_eq!(settings.upstream.unwrap().graphql_url.as_str(), "https://xn--bcher-kva.example/api");
    }

    #[test]
    fn a_wrong_value_is_one_line_that_names_the_variable() {
        for (name, value) in [
            ("DATABASE_URL", "mysql://x"),
            ("NXT_LISTEN", "8080"),
            ("NXT_OPS_LISTEN", "localhost"),
            ("NXT_WEBHOOK_PATH", "hooks"),
            ("NXT_WEBHOOK_PATH", "/healthz"),
            ("NXT_WEBHOOK_BODY_MAX", "1MB"),
            ("NXT_WEBHOOK_SECRETS", "a,,b"),
            ("NXT_TOKEN_URL", "ftp://x"),
            ("NXT_GRAPHQL_URL", "here"),
            ("NXT_TABLES", "Order,Order Line"),
            ("NXT_COMPANIES", "1,x"),
            ("NXT_KEYS", "Voucher"),
            ("NXT_KEYS", "Voucher=a+"),
            ("NXT_KEYS", "Voucher=batchNo+BatchNo"),
            ("NXT_EXTENSION_COLUMNS", "Order.MyDme_score"),
            ("NXT_EXTENSION_COLUMNS", "MyDme_score=decimal"),
            ("NXT_EXTENSION_COLUMNS", "Order.MyDme score=decimal"),
            ("NXT_EXTENSION_COLUMNS", "Order Line.MyDme_score=decimal"),
            ("NXT_EXTENSION_COLUMNS", "Order.MyDme_score=float"),
            ("NXT_EXTENSION_COLUMNS", "Order.MyDme_score=decimal;order.mydme_SCORE=string"),
            ("NXT_LANGUAGE", "german"),
            ("NXT_RELATION_INDEXES", "yes"),
            ("NXT_DELETES", "maybe"),
            ("NXT_FETCH_ROWS_MAX", "0"),
            ("NXT_REQUESTS_PER_MINUTE", "-1"),
            ("NXT_IN_FLIGHT_MAX", "many"),
            ("NXT_SWEEP_SECONDS", "1.5"),
            ("NXT_SOURCE_TIMEZONE", "Oslo"),
            ("NXT_LOG", "nxt_mirror=loud=very"),
            ("NXT_LOG", "inof"),
            ("NXT_LOG", "warning,nxt_mirror=debug"),
            ("NXT_LOG_FORMAT", "xml"),
        ] {
            let error = Settings::read(&source(&[(name, value)]), Role::All).expect_err(name).to_string();
            assert!(error.starts_with(name) && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn what_a_role_does_not_need_may_be_absent() {
        let none = Source::from_pairs([]);
        assert!(matches!(
            Settings::read(&none, Role::Receiver),
            Err(ConfigError::Missing { variable: "NXT_WEBHOOK_SECRETS", .. })
        ));
        assert!(matches!(
            Settings::read(&none, Role::Worker),
            Err(ConfigError::Missing { variable: "NXT_CLIENT_ID", .. })
        ));
    }

    #[test]
    fn the_ops_listener_stays_on_loopback_without_a_token() {
        let open = ("NXT_OPS_LISTEN", "0.0.0.0:9090");
        let error = Settings::read(&source(&[open]), Role::All).unwrap_err().to_string();
        assert!(error.starts_with("NXT_OPS_TOKEN"), "{error}");
        assert!(Settings::read(&source(&[open, ("NXT_OPS_TOKEN", "t")]), Role::All).is_ok());
    }

    #[test]
    fn keys_are_read_in_their_order() {
        let settings = Settings::read(&source(&[("NXT_KEYS", "Voucher=batchNo+voucherNo; Text=textNo")]), Role::All);
        let keys = settings.unwrap().mirror.keys;
        assert_eq!(keys[&TableName::new("Voucher").unwrap()], ["batchNo", "voucherNo"]);
        assert_eq!(keys.len(), 2);
    }

    #[test]
    fn columns_of_the_customer_s_own_are_read_by_table() {
        let text = "Order.MyDme_approvedBy=string; Order.MyDme_score = decimal ;Associate.MyDme_since=date;";
        let settings = Settings::read(&source(&[("NXT_EXTENSION_COLUMNS", text)]), Role::All).unwrap();
        let column = |name: &str, kind| ExtensionColumn { name: name.into(), kind };
        let of = |table: &str| settings.mirror.extensions[&TableName::new(table).unwrap()].clone();
        assert_eq!(
            of("Order"),
            [column("MyDme_approvedBy", ExtensionType::String), column("MyDme_score", ExtensionType::Decimal)]
        );
        assert_eq!(of("Associate"), [column("MyDme_since", ExtensionType::Date)]);
    }

    #[test]
    fn what_is_left_out_is_read_in_any_form_and_no_key_is_among_it() {
        let read = |pairs: &[(&'static str, &'static str)]| Settings::read(&source(pairs), Role::All);
        let text = "Associate.emailAddress; associate.mobile_phone;FileArchive;";
        let exclusions = read(&[("NXT_EXCLUDE", text)]).unwrap().mirror.exclusions;
        assert!(exclusions.has_table("file_archive") && !exclusions.has_table("Associate"));
        assert!(exclusions.has_column("Associate", "MobilePhone") && !exclusions.has_column("Order", "MobilePhone"));
        for (name, value) in [("NXT_KEYS", "Associate=associateNo+emailAddress"), ("NXT_TABLES", "Order,FileArchive")] {
            let error = read(&[("NXT_EXCLUDE", text), (name, value)]).unwrap_err().to_string();
            assert!(error.starts_with("NXT_EXCLUDE is wrong: ") && error.contains(name), "{error}");
        }
        assert!(read(&[("NXT_EXCLUDE", "Associate.e-mail")]).is_err());
    }

    #[test]
    fn no_secret_is_printed() {
        let settings = Settings::read(&source(&[("DATABASE_URL", "postgresql://u:pa55@h/d")]), Role::All).unwrap();
        let printed = format!("{settings:?}");
        assert!(!printed.contains("hush") && !printed.contains("pa55") && !printed.contains("\"one\""), "{printed}");
    }
}
