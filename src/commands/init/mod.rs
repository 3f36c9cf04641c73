//! `init`: asks for what is needed, tries each answer against what it is about, and writes the settings.

mod dialogue;
mod file;
mod trial;

use std::{collections::BTreeSet, path::Path, process::ExitCode};

use anyhow::bail;
use secrecy::ExposeSecret;
use uuid::Uuid;

use dialogue::{Kind, Question};
use trial::{Found, Trial};

use super::{
    Usage,
    subscriptions::{Line, State},
};
use crate::{
    cli::InitArgs,
    config::{Settings, Source},
    telemetry::chain,
};

/// What an option says instead of naming one by one.
const ALL: &str = "all";
/// What `--database-url` says for a database that is not named.
const OWN: &str = "own";

const DATABASE: Question = Question {
    setting: "DATABASE_URL",
    option: "--database-url",
    text: "Address of the PostgreSQL database (empty: that of Docker Compose, or an embedded server)",
    // It has a password, but who types it in wants to see the rest.
    kind: Kind::Optional,
};
const CLIENT: [Question; 2] = [
    Question {
        setting: "NXT_CLIENT_ID",
        option: "--client-id",
        text: "Client id of the application in the Developer Portal",
        kind: Kind::Needed,
    },
    Question {
        setting: "NXT_CLIENT_SECRET",
        option: "--client-secret",
        text: "Its client secret (not shown)",
        kind: Kind::Secret,
    },
];
const COMPANIES: Question = Question {
    setting: "NXT_COMPANIES",
    option: "--companies",
    text: "Companies to mirror, comma-separated (empty: all)",
    kind: Kind::Optional,
};
const TABLES: Question = Question {
    setting: "NXT_TABLES",
    option: "--tables",
    text: "Tables to mirror, such as Order,OrderLine (empty: every table that a notification comes of)",
    kind: Kind::Optional,
};
const KEYS: Question = Question {
    setting: "NXT_WEBHOOK_SECRETS",
    option: "--webhook-secrets",
    text: "Signature key of the webhook subscription in the Developer Portal (not shown)",
    kind: Kind::Secret,
};

/// Asks, tries, writes, and says what is left to do.
pub(super) async fn init(config: Option<&Path>, args: InitArgs) -> anyhow::Result<ExitCode> {
    let source = Source::from_process(config)?;
    let mut setup = Setup::new(source, &args);
    if let Some(missing) = setup.missing() {
        return Err(Usage(format!("init needs {missing}, since standard input is no terminal")).into());
    }
    let may_replace = args.force || setup.may_replace(&args.out)?;
    Settings::check(&setup.source)?;
    let found = setup.settle_all().await?;
    file::write(&args.out, &file::text(&setup.source)?, may_replace)?;
    say!("ok  {} is written; only you can read it", args.out.display());
    print_subscriptions(&found);
    print_commands(&args.out, setup.source.given(DATABASE.setting).is_some());
    Ok(ExitCode::SUCCESS)
}

/// The answers so far.
struct Setup {
    source: Source,
    /// Settings that need not be asked for.
    answered: BTreeSet<&'static str>,
    has_terminal: bool,
}

impl Setup {
    fn new(source: Source, args: &InitArgs) -> Self {
        let plain = |text: &Option<String>| text.clone();
        let secret = |text: &Option<secrecy::SecretString>| text.as_ref().map(|text| text.expose_secret().to_owned());
        let options = [
            (CLIENT[0].setting, plain(&args.client_id)),
            (CLIENT[1].setting, secret(&args.client_secret)),
            (KEYS.setting, secret(&args.webhook_secrets)),
            (COMPANIES.setting, plain(&args.companies)),
            (TABLES.setting, plain(&args.tables)),
            (DATABASE.setting, secret(&args.database_url)),
        ];
        let has_terminal = dialogue::has_terminal();
        let mut setup = Self { source, answered: BTreeSet::new(), has_terminal };
        for (setting, value) in options {
            if let Some(value) = value {
                setup.answer(setting, value);
            }
        }
        if setup.source.given("NXT_OPS_TOKEN").is_none() {
            setup.answer("NXT_OPS_TOKEN", random_token());
        }
        setup
    }

    /// Without a terminal: the options that are missing.
    fn missing(&self) -> Option<String> {
        let needed = CLIENT.iter().chain([&KEYS]).filter(|question| self.source.given(question.setting).is_none());
        let missing: Vec<_> = needed.map(|question| format!("{} ({})", question.option, question.setting)).collect();
        (!self.has_terminal && !missing.is_empty()).then(|| missing.join(", "))
    }

    /// Whether a file that is there may be replaced.
    fn may_replace(&self, path: &Path) -> anyhow::Result<bool> {
        if !path.exists() {
            return Ok(false);
        }
        let path = path.display();
        if !self.has_terminal || !dialogue::confirm(format!("{path} is there already. Replace it?"))? {
            bail!("{path} is left as it is; --force replaces it, --out writes another file");
        }
        Ok(true)
    }

    /// Tries everything in its order.
    async fn settle_all(&mut self) -> anyhow::Result<Found> {
        let database = self.settle(&[DATABASE], async |source| trial::database(source).await).await?;
        let trial: Trial = self.settle(&CLIENT, async |source| Trial::client(source, database.as_ref()).await).await?;
        let companies = self.settle(&[COMPANIES], async |source| trial.companies(source).await).await?;
        let tables = self.settle(&[TABLES], async |source| trial.tables(source, &companies).await).await?;
        // The API's own spelling.
        let names: Vec<_> = tables.iter().map(ToString::to_string).collect();
        self.answer(TABLES.setting, names.join(","));
        self.settle(&[KEYS], async |source| trial::keys(source)).await?;
        trial.subscriptions(&self.source, companies, tables).await
    }

    /// Asks what is not answered, and tries it. On a terminal it is asked for again until the trial succeeds.
    async fn settle<T>(
        &mut self,
        questions: &[Question],
        trial: impl AsyncFn(&Source) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        loop {
            for question in questions {
                let is_known =
                    self.answered.contains(question.setting) || self.source.given(question.setting).is_some();
                if self.has_terminal && !is_known {
                    self.answer(question.setting, dialogue::ask(question)?);
                }
            }
            match trial(&self.source).await {
                Err(error) if self.has_terminal => {
                    say!("--  {}", chain(&*error));
                    for question in questions {
                        self.source.forget(question.setting);
                        self.answered.remove(question.setting);
                    }
                }
                done => return done,
            }
        }
    }

    fn answer(&mut self, setting: &'static str, value: String) {
        let is_default = match setting {
            "DATABASE_URL" => value == OWN,
            "NXT_COMPANIES" | "NXT_TABLES" => value == ALL,
            _ => false,
        };
        self.source.forget(setting);
        self.answered.insert(setting);
        if !is_default {
            self.source = self.source.clone().with(vec![(setting.to_owned(), value)]);
        }
    }
}

/// A secret of our own: 244 random bits.
fn random_token() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// The rows to type into Business NXT.
fn print_subscriptions(found: &Found) {
    say!("\nIn Business NXT, below the user {}, with a webhook target:", found.client_id);
    if found.lines.is_empty() {
        say!("add a WebhookSubscription row for each company and table, with filter 0 and no JQ filter.");
        return;
    }
    say!("these WebhookSubscription rows, for every INSERT, UPDATE and DELETE. A customer's table has no company.\n");
    say!("  {:<18}  {:<28}  {:>8}  {:>6}  JQ filter", "of", "table", "table no", "filter");
    for line in &found.lines {
        let number = line.table_no.map_or_else(|| "?".to_owned(), |number| number.to_string());
        let (tenant, table) = (line.tenant(), line.table());
        say!("  {tenant:<18}  {table:<28}  {number:>8}  {:>6}  {:<9}  {}", 0, "empty", remark(line));
    }
}

fn remark(line: &Line) -> &'static str {
    match line.state {
        State::Ok => "there already",
        State::Filtered => "there, but filtered",
        State::Missing => "to add",
        State::Unreadable => "to add, if it is not there",
    }
}

/// The two commands that start it.
fn print_commands(file: &Path, has_database: bool) {
    let file = file.display();
    let name = if file.to_string().contains('/') { file.to_string() } else { format!("./{file}") };
    let env_file = if name == "./.env" { String::new() } else { format!(" --env-file {name}") };
    say!("\nThen start it:\n");
    if has_database {
        say!("  set -a; . {name}; set +a\n  nxt-mirror serve");
    } else {
        say!("  docker compose{env_file} up -d --build\n  docker compose logs -f nxt-mirror");
        say!("\nor without Docker, with a PostgreSQL of its own: set -a; . {name}; nxt-mirror serve");
    }
}
