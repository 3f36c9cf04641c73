//! Where settings come from: the environment over a TOML file, and secrets also from files of their own.

use std::{collections::HashMap, path::Path};

use secrecy::SecretString;

use super::ConfigError;

/// Every setting there is. A key of the file that is not among them is a spelling mistake and stops the start.
const KNOWN: [&str; 33] = [
    "DATABASE_URL",
    "NXT_DATA_DIR",
    "NXT_LISTEN",
    "NXT_OPS_LISTEN",
    "NXT_OPS_TOKEN",
    "NXT_WEBHOOK_PATH",
    "NXT_WEBHOOK_SECRETS",
    "NXT_WEBHOOK_BODY_MAX",
    "NXT_CLIENT_ID",
    "NXT_CLIENT_SECRET",
    "NXT_TOKEN_URL",
    "NXT_SCOPE",
    "NXT_TENANT_ID",
    "NXT_GRAPHQL_URL",
    "NXT_TABLES",
    "NXT_COMPANIES",
    "NXT_KEYS",
    "NXT_LANGUAGE",
    "NXT_RELATION_INDEXES",
    "NXT_EXTENSION_COLUMNS",
    "NXT_DELETES",
    "NXT_HISTORY",
    "NXT_HISTORY_DAYS",
    "NXT_EXCLUDE",
    "NXT_FETCH_ROWS_MAX",
    "NXT_REQUESTS_PER_MINUTE",
    "NXT_IN_FLIGHT_MAX",
    "NXT_SWEEP_SECONDS",
    "NXT_WALK_SECONDS",
    "NXT_LEDGER_DAYS",
    "NXT_SOURCE_TIMEZONE",
    "NXT_LOG",
    "NXT_LOG_FORMAT",
];
/// Settings that may be read from the file that `<NAME>_FILE` names.
const SECRETS: [&str; 4] = ["DATABASE_URL", "NXT_OPS_TOKEN", "NXT_WEBHOOK_SECRETS", "NXT_CLIENT_SECRET"];

/// The raw texts of all settings. Does not print them: some are secret.
#[derive(Clone)]
pub struct Source {
    values: HashMap<String, String>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").finish_non_exhaustive()
    }
}

impl Source {
    /// The process environment over the settings file, if one is given.
    pub fn from_process(file: Option<&Path>) -> Result<Self, ConfigError> {
        let values = match file {
            Some(path) => read_file(path)?,
            None => HashMap::new(),
        };
        let mut environment = vec![];
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| is_known(name)) else { continue };
            let value = value.into_string().map_err(|_| wrong(name, "not valid UTF-8"))?;
            environment.push((name.to_owned(), value));
        }
        Ok(Self { values }.with(environment))
    }

    /// These settings over the others, whichever of its two forms a secret has there.
    pub(crate) fn with(mut self, settings: Vec<(String, String)>) -> Self {
        for (name, _) in &settings {
            match name.strip_suffix("_FILE") {
                Some(secret) => self.values.remove(secret),
                None => self.values.remove(&format!("{name}_FILE")),
            };
        }
        self.values.extend(settings);
        self
    }

    /// A setting as it was given: its name, or that of the file that has it, and what is there. Not for a log.
    pub(crate) fn given(&self, name: &str) -> Option<(String, &str)> {
        let file = format!("{name}_FILE");
        let text = |name: &str| is_known(name).then(|| self.text(name)).flatten();
        let as_file = text(&file);
        text(name).map(|value| (name.to_owned(), value)).or_else(|| Some((file, as_file?)))
    }

    /// Takes a setting out, whichever of its two forms it has.
    pub(crate) fn forget(&mut self, name: &str) {
        self.values.remove(name);
        self.values.remove(&format!("{name}_FILE"));
    }

    /// The names of all settings.
    pub fn names() -> &'static [&'static str] {
        &KNOWN
    }

    /// The names of those that may be read from a file: `<NAME>_FILE` names it.
    pub fn secrets() -> &'static [&'static str] {
        &SECRETS
    }

    /// Settings from a list, for tests and for the demo.
    pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        Self { values: pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() }
    }

    /// A setting, trimmed; `None` when absent or empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        debug_assert!(is_known(name), "{name} is not listed as a setting");
        self.values.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// A secret, from the setting itself or from the file that `<NAME>_FILE` names. Both at once is a mistake.
    pub(super) fn secret(&self, name: &str) -> Result<Option<SecretString>, ConfigError> {
        debug_assert!(SECRETS.contains(&name), "{name} is not listed as a secret");
        let file = format!("{name}_FILE");
        match (self.text(name), self.text(&file)) {
            (Some(_), Some(_)) => Err(wrong(&file, &format!("{name} is set too; give one of them"))),
            (Some(value), None) => Ok(Some(value.into())),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path).map_err(|error| wrong(&file, &format!("{path}: {error}")))?;
                match without_mark(&text).trim() {
                    "" => Err(wrong(&file, &format!("{path} is empty"))),
                    value if has_several_lines(value) => {
                        Err(wrong(&file, &format!("{path} has several lines, and a secret is one")))
                    }
                    value => Ok(Some(value.into())),
                }
            }
            (None, None) => Ok(None),
        }
    }
}

fn wrong(variable: &str, problem: &str) -> ConfigError {
    ConfigError::Wrong { variable: variable.to_owned(), problem: problem.to_owned() }
}

/// Without the mark that some editors put before a text.
fn without_mark(text: &str) -> &str {
    text.trim_start_matches('\u{feff}')
}

/// A list may go on in the next line behind its comma.
fn has_several_lines(text: &str) -> bool {
    let mut lines = text.lines().rev().skip(1);
    lines.any(|line| !line.trim_end().ends_with(','))
}

fn is_known(name: &str) -> bool {
    KNOWN.contains(&name) || name.strip_suffix("_FILE").is_some_and(|secret| SECRETS.contains(&secret))
}

fn read_file(path: &Path) -> Result<HashMap<String, String>, ConfigError> {
    let error = |problem: String| ConfigError::File { path: path.display().to_string(), problem };
    let text = std::fs::read_to_string(path).map_err(|cause| error(cause.to_string()))?;
    // The parser's own message quotes the line, which may hold a secret.
    let table: toml::Table =
        toml::from_str(without_mark(&text)).map_err(|cause| error(format!("not TOML: {}", cause.message())))?;
    table
        .into_iter()
        .map(|(name, value)| {
            if !is_known(&name) {
                return Err(error(format!("there is no setting {name}")));
            }
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Array(items) => {
                    list(items).ok_or_else(|| error(format!("{name} is not a list of texts")))?
                }
                toml::Value::Float(_) | toml::Value::Boolean(_) | toml::Value::Datetime(_) | toml::Value::Table(_) => {
                    return Err(error(format!("{name} must be a text or an integer")));
                }
            };
            Ok((name, value))
        })
        .collect()
}

/// A list of texts or integers, as the comma-separated form of the environment.
fn list(items: Vec<toml::Value>) -> Option<String> {
    let items = items.into_iter().map(|item| match item {
        toml::Value::String(text) => Some(text),
        toml::Value::Integer(number) => Some(number.to_string()),
        _ => None,
    });
    Some(items.collect::<Option<Vec<_>>>()?.join(","))
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn read(content: &str) -> Result<String, String> {
        let path = std::env::temp_dir().join(format!("nxt-secret-{}", uuid::Uuid::new_v4()));
        std::fs::write(&path, content).expect("the folder of temporary files can be written");
        let source = Source::from_pairs([("NXT_CLIENT_SECRET_FILE", path.display().to_string())]);
        let secret = source.secret("NXT_CLIENT_SECRET");
        std::fs::remove_file(path).expect("the file is still there");
        let secret = secret.map_err(|error| error.to_string())?.expect("a file was named");
        Ok(secret.expose_secret().to_owned())
    }

    #[test]
    fn marks_and_line_ends_around_a_secret_are_none_of_it() {
        for content in ["hush", "hush\n", "\u{feff}hush\r\n", "\n hush \r\n\r\n"] {
            assert_eq!(read(content).unwrap(), "hush", "{content:?}");
        }
        assert_eq!(read("one,\r\ntwo\n").unwrap(), "one,\r\ntwo");
    }

    #[test]
    fn a_file_that_is_no_secret_is_refused_without_its_content() {
        for (content, problem) in [("hush\nhush\n", "several lines"), ("\u{feff}\r\n", "is empty")] {
            let said = read(content).unwrap_err();
            assert!(said.contains("NXT_CLIENT_SECRET_FILE") && said.contains(problem), "{said}");
            assert!(!said.contains("hush"), "{said}");
        }
    }
}
