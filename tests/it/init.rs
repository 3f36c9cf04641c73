//! `init` leads from nothing to a file of settings.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use nxt_mirror::config::{Role, Settings, Source};
use nxt_simulator::{Fault, FaultKind, Options, Simulator};
use nxt_testkit::{SECRET, Scratch};

use crate::support::{PROGRAM, app::COMPANY, database, terminal::Terminal};

/// A source and a folder to set up in.
struct Place {
    simulator: Simulator,
    folder: Scratch,
}

impl Place {
    async fn new() -> Self {
        let simulator = Simulator::start(Options::default()).await.expect("the simulator starts");
        let folder = Scratch::new();
        fs::create_dir_all(&folder.0).unwrap();
        Self { simulator, folder }
    }

    fn file(&self) -> PathBuf {
        self.folder.0.join(".env")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .arg("init")
            .args(arguments)
            .current_dir(&self.folder.0)
            .env_clear()
            .env("TERM", "xterm")
            .env("NXT_TOKEN_URL", self.simulator.token_url())
            .env("NXT_GRAPHQL_URL", self.simulator.graphql_url());
        command
    }

    /// Runs it without a terminal.
    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().expect("the program runs")
    }
}

/// The settings as a shell reads them from the file.
fn as_a_shell_reads(file: &Path) -> BTreeMap<String, String> {
    let script = "set -a; . \"$1\"; env -0";
    let output = Command::new("/bin/sh").args(["-c", script, "sh"]).arg(file).env_clear().output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(name, _)| *name != "PWD" && *name != "_").map(|(name, value)| (name.into(), value.into())).collect()
}

fn is_one_line(output: &Output, parts: &[&str]) -> bool {
    let errors = String::from_utf8_lossy(&output.stderr);
    errors.lines().count() == 1 && parts.iter().all(|part| errors.contains(part))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_led_from_nothing_to_a_file_that_only_they_can_read() {
    let (place, database) = (Place::new().await, database().await);
    let mut terminal = Terminal::start(place.command(&[]));
    let shown = tokio::task::block_in_place(|| {
        terminal.answer("Address of the PostgreSQL database", "postgres://127.0.0.1:1/nowhere");
        terminal.answer("--  the database cannot be reached", &database.url());
        for secret in ["a-wrong-secret", "simulated-secret"] {
            terminal.answer("Client id", "isv_simulated");
            terminal.answer_unseen("client secret", secret);
        }
        terminal.answer("Companies to mirror", "77");
        terminal.answer("--  the service does not see company 77; it sees 2000001", "2000001");
        terminal.answer("Tables to mirror", "Nothing");
        terminal.answer("--  the API knows no table Nothing", "order_line, User");
        terminal.answer_unseen("Signature key", SECRET);
        let (status, shown) = terminal.finish();
        assert!(status.success(), "{shown}");
        shown
    });

    assert_eq!(fs::metadata(place.file()).unwrap().permissions().mode() & 0o777, 0o600);
    let settings = as_a_shell_reads(&place.file());
    for (name, value) in [
        ("NXT_CLIENT_SECRET", "simulated-secret"),
        ("NXT_WEBHOOK_SECRETS", SECRET),
        ("NXT_COMPANIES", "2000001"),
        ("NXT_TABLES", "OrderLine,User"),
        ("DATABASE_URL", &database.url()),
    ] {
        assert_eq!(settings[name], value);
    }
    assert!(settings["NXT_OPS_TOKEN"].len() >= 32);
    for secret in ["a-wrong-secret", "simulated-secret", SECRET, &settings["NXT_OPS_TOKEN"]] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let is_row = |cells: &[&str]| shown.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == cells);
    for (whose, number, table, no) in [("company", "2000001", "OrderLine", "128"), ("customer", "1000001", "User", "3")]
    {
        assert!(is_row(&[whose, number, table, no, "0", "empty", "there", "already"]), "{shown}");
    }
    let end: Vec<_> = shown.lines().rev().take(2).map(str::trim).collect();
    assert_eq!(end, ["nxt-mirror serve", "set -a; . ./.env; set +a"], "{shown}");

    // What is written is all that a daemon needs.
    let pairs = settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
    Settings::read(&Source::from_pairs(pairs), Role::All).expect("the settings are complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_what_is_missing_is_one_line_and_nothing_is_replaced_unasked() {
    let place = Place::new().await;
    let output = place.run(&["--client-id", "isv_simulated"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(is_one_line(&output, &["--client-secret", "--webhook-secrets"]), "{output:?}");

    let wrong_key = ["--webhook-secrets", "it's"];
    let given = ["--client-id", "isv_simulated", "--client-secret", "simulated-secret", "--tables", "Order,OrderLine"];
    place.simulator.fault(Fault::new(FaultKind::Deny).on(COMPANY, Some("Order")));
    let output = place.run(&[&given[..], &wrong_key].concat()).await;
    assert!(is_one_line(&output, &["Order of company 2000001 cannot be read"]), "{output:?}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!errors.contains("OrderLine of") && !errors.contains("2000002"), "{errors}");
    place.simulator.clear_faults();
    let output = place.run(&[&given[..], &wrong_key].concat()).await;
    assert!(is_one_line(&output, &["NXT_WEBHOOK_SECRETS", "NXT_WEBHOOK_SECRETS_FILE"]), "{output:?}");
    assert!(!output.status.success() && !place.file().exists());

    let right = [&given[..], &["--webhook-secrets", "a$b, `c` \"d\" #e"]].concat();
    let output = place.run(&right).await;
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && shown.contains("docker compose up -d --build"), "{output:?}");
    let settings = as_a_shell_reads(&place.file());
    assert_eq!(settings["NXT_WEBHOOK_SECRETS"], "a$b, `c` \"d\" #e");
    assert!(!settings.contains_key("DATABASE_URL") && !settings.contains_key("NXT_COMPANIES"), "{settings:?}");

    let output = place.run(&right).await;
    assert!(is_one_line(&output, &[".env", "--force"]) && !output.status.success(), "{output:?}");
    assert_eq!(as_a_shell_reads(&place.file()), settings);
    let output = place.run(&[&right[..], &["--force", "--companies", "2000002"]].concat()).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(as_a_shell_reads(&place.file())["NXT_COMPANIES"], "2000002");
    assert_eq!(fs::read_dir(&place.folder.0).unwrap().count(), 1, "nothing is left beside it");
}
