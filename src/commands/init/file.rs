//! The file of settings that `init` writes.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use anyhow::{Context, bail};

use crate::config::Source;

/// Only its owner reads it.
const MODE: u32 = 0o600;
/// What is written, where it is given: what was asked for, and what the answers were tried with.
const WRITTEN: [&str; 15] = [
    "NXT_CLIENT_ID",
    "NXT_CLIENT_SECRET",
    "NXT_WEBHOOK_SECRETS",
    "NXT_OPS_TOKEN",
    "NXT_COMPANIES",
    "NXT_TABLES",
    "DATABASE_URL",
    "NXT_KEYS",
    "NXT_EXTENSION_COLUMNS",
    "NXT_SOURCE_TIMEZONE",
    "NXT_TOKEN_URL",
    "NXT_GRAPHQL_URL",
    "NXT_SCOPE",
    "NXT_TENANT_ID",
    "NXT_REQUESTS_PER_MINUTE",
];

/// The file's text: a line a setting, for Docker Compose, systemd and shells alike.
pub(super) fn text(source: &Source) -> anyhow::Result<String> {
    let mut text = "# Settings of nxt-mirror, written by `nxt-mirror init`. It has secrets: keep it to yourself.\n\
                    # .env.example explains these and all other settings.\n"
        .to_owned();
    for (name, value) in WRITTEN.iter().filter_map(|name| source.given(name)) {
        text.push_str(&line(&name, value)?);
    }
    Ok(text)
}

/// `NAME=value`, in single quotes where a reader would take a character for something else.
fn line(name: &str, value: &str) -> anyhow::Result<String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,@%+=".contains(c);
    if value.chars().all(is_plain) {
        return Ok(format!("{name}={value}\n"));
    }
    if value.contains(['\'', '\n', '\r', '\0']) {
        bail!(
            "{name} has a single quote or a line break, which not every reader of such a file takes: \
               put it into a file of its own and name that by {name}_FILE"
        );
    }
    Ok(format!("{name}='{value}'\n"))
}

/// Writes the file; one that is there is replaced as a whole, or not at all.
pub(super) fn write(path: &Path, text: &str, may_replace: bool) -> anyhow::Result<()> {
    let writing = || format!("write {}", path.display());
    if !may_replace {
        return create(path, text).with_context(writing);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = Path::new(&beside);
    let written = create(beside, text).and_then(|()| fs::rename(beside, path));
    if written.is_err() {
        // What was begun is of no use to anybody; the first error is the one to tell.
        _ = fs::remove_file(beside);
    }
    written.with_context(writing)
}

fn create(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_where_a_reader_would_misunderstand_them() {
        for (value, expected) in [
            ("isv_x", "A=isv_x\n"),
            ("postgres://u:p%40@h/d?sslmode=require", "A='postgres://u:p%40@h/d?sslmode=require'\n"),
            ("a$b \"c\" #d\\", "A='a$b \"c\" #d\\'\n"),
            ("Order,OrderLine", "A=Order,OrderLine\n"),
        ] {
            assert_eq!(line("A", value).unwrap(), expected);
        }
        for value in ["it's", "a\nb"] {
            assert!(line("A", value).unwrap_err().to_string().contains("A_FILE"));
        }
    }

    #[test]
    fn secrets_that_are_in_files_stay_there() {
        let pairs = [("NXT_CLIENT_ID", "isv_x"), ("NXT_CLIENT_SECRET_FILE", "/run/secrets/a"), ("NXT_LISTEN", "x")];
        let source = Source::from_pairs(pairs.map(|(name, value)| (name, value.to_owned())));
        let text = text(&source).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(lines, ["NXT_CLIENT_ID=isv_x", "NXT_CLIENT_SECRET_FILE=/run/secrets/a"]);
    }
}
