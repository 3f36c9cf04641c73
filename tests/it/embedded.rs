//! The embedded server, run for real.

mod daemon;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use nxt_embedded_postgres::{DATABASE, EmbeddedError, EmbeddedOptions, EmbeddedPostgres};
use nxt_testkit::{Scratch, Wait};
use secrecy::ExposeSecret;
use sqlx::{Connection, Executor, PgConnection};

use crate::support::database;

/// Tells the helper process below which folder to serve.
const HELPER_VARIABLE: &str = "NXT_TEST_EMBEDDED_FOLDER";
const HELPER_TEST: &str = "embedded::helper_process_that_owns_a_server";

async fn connect(server: &EmbeddedPostgres) -> PgConnection {
    PgConnection::connect(server.url(DATABASE).expose_secret()).await.expect("the server accepts connections")
}

async fn text(connection: &mut PgConnection, query: &'static str) -> String {
    sqlx::query_scalar(query).fetch_one(connection).await.expect("the query runs")
}

fn pid(process: u32) -> Pid {
    Pid::from_raw(process.try_into().expect("process ids are small"))
}

/// Waits until `process` is gone.
async fn wait_until_gone(process: u32) {
    wait_until(&format!("process {process} has ended"), || kill(pid(process), None).is_err()).await;
}

/// Bounded: what outlives this has outlived its owner.
async fn wait_until(what: &str, holds: impl Fn() -> bool) {
    Wait::seconds(20).for_true(what, async || holds()).await.unwrap_or_else(|late| panic!("{late}"));
}

#[tokio::test]
async fn a_new_server_is_durable_private_and_speaks_utf_8() {
    let scratch = Scratch::new();
    let server = EmbeddedPostgres::start(EmbeddedOptions::new(&scratch.0)).await.unwrap();
    let mut connection = connect(&server).await;
    let settings = "select concat_ws(' ', current_setting('server_encoding'), current_setting('fsync'), \
         current_setting('synchronous_commit'), current_setting('listen_addresses'), \
         current_setting('unix_socket_directories'), current_setting('TimeZone'), current_database())";
    assert_eq!(text(&mut connection, settings).await, "UTF8 on on 127.0.0.1  UTC nxt_mirror");
    let wrong = server.url(DATABASE).expose_secret().replace("nxt_mirror:", "nxt_mirror:x");
    assert!(PgConnection::connect(&wrong).await.is_err(), "a wrong password opens the server");
    let mode = std::fs::metadata(scratch.0.join("pgpass")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_restart_keeps_the_data_and_the_address() {
    let scratch = Scratch::new();
    let first = scratch.start().await;
    let address = first.url(DATABASE);
    let mut connection = connect(&first).await;
    connection.execute("create table kept as select 'here' as text").await.unwrap();
    first.stop().await.unwrap();

    let second = scratch.start().await;
    assert_eq!(second.url(DATABASE).expose_secret(), address.expose_secret());
    let mut connection = connect(&second).await;
    assert_eq!(text(&mut connection, "select text from kept").await, "here");
    second.stop().await.unwrap();
}

#[tokio::test]
async fn the_psql_command_works_as_printed_and_tells_no_password() {
    let scratch = Scratch::new();
    let server = scratch.start().await;
    let command = server.psql_command(DATABASE);
    let password_file = std::fs::read_to_string(scratch.0.join("pgpass")).unwrap();
    let password = password_file.trim().rsplit(':').next().unwrap();
    assert!(password.len() >= 32 && !command.contains(password));
    assert!(!format!("{server:?}").contains(password));
    let output = Command::new("sh").args(["-c", &format!("{command} -Atc 'select current_user'")]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "nxt_mirror\n", "{output:?}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn the_server_never_runs_as_root() {
    let scratch = Scratch::new();
    let server = scratch.start().await;
    assert!(server.server_pid().is_some());
    let owner = std::fs::metadata(scratch.0.join("cluster")).unwrap().uid();
    let ours = nix::unistd::geteuid();
    assert_eq!(owner == ours.as_raw(), !ours.is_root());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_folder_in_use_is_refused_and_free_again_after_a_drop() {
    let scratch = Scratch::new();
    let server = scratch.start().await;
    let process = server.server_pid().unwrap();
    assert!(matches!(
        scratch.try_start().await,
        Err(EmbeddedError::InUse { path }) if path == scratch.0
    ));
    drop(server);
    wait_until_gone(process).await;
    scratch.start().await.stop().await.unwrap();
}

#[tokio::test]
async fn a_stale_pid_file_naming_a_living_process_does_not_prevent_a_start() {
    let scratch = Scratch::new();
    scratch.start().await.stop().await.unwrap();
    let cluster = scratch.0.join("cluster");
    let stale = cluster.join("postmaster.pid");
    let this_process = std::process::id();
    let lines = format!("{this_process}\n{}\n1\n", cluster.display());
    std::fs::write(&stale, lines).unwrap();
    scratch.start().await.stop().await.unwrap();
    assert!(!stale.exists());
}

#[tokio::test]
async fn a_killed_server_with_a_busy_session_starts_again_with_its_commits() {
    let scratch = Scratch::new();
    let server = scratch.start().await;
    let mut connection = connect(&server).await;
    connection.execute("create table kept as select 'here' as text").await.unwrap();
    let mut busy = connect(&server).await;
    let busy = tokio::spawn(async move { busy.execute("select pg_sleep(600)").await });
    let sleeping =
        "select count(*)::text from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'";
    while text(&mut connection, sleeping).await == "0" {
        tokio::task::yield_now().await;
    }
    kill(pid(server.server_pid().unwrap()), Signal::SIGKILL).unwrap();
    drop(server);

    let again = scratch.start().await;
    assert!(busy.await.unwrap().is_err());
    let mut connection = connect(&again).await;
    assert_eq!(text(&mut connection, "select text from kept").await, "here");
    again.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_dies_with_its_owner_even_by_kill_9_and_keeps_what_was_committed() {
    let scratch = Scratch::new();
    let mut helper = Helper::start(&scratch.0);
    kill(pid(helper.child.id()), Signal::SIGKILL).unwrap();
    helper.child.wait().unwrap();
    // At once, while the old server may still be shutting down.
    let server = scratch.start().await;
    assert_ne!(server.server_pid(), Some(helper.server));
    let mut connection = connect(&server).await;
    assert_eq!(text(&mut connection, "select text from kept").await, "here");
    server.stop().await.unwrap();
    wait_until_gone(helper.server).await;
    wait_until("what the process had for itself is removed", || !helper.folder.exists()).await;
}

#[tokio::test]
async fn ctrl_c_for_the_whole_process_group_leaves_the_server_to_its_owner() {
    let scratch = Scratch::new();
    let mut helper = Helper::start(&scratch.0);
    killpg(pid(helper.child.id()), Signal::SIGINT).unwrap();
    assert_eq!(helper.line(), "after the signal: here");
    assert!(helper.child.wait().unwrap().success());
    wait_until_gone(helper.server).await;
}

#[tokio::test]
async fn each_test_database_is_empty_and_of_its_own() {
    let (one, other) = (database().await, database().await);
    let pool = one.pool().await;
    pool.execute("create table only_here (id integer)").await.unwrap();
    let mut connection = PgConnection::connect(&other.url()).await.unwrap();
    let tables = "select count(*)::text from pg_tables where schemaname = 'public'";
    assert_eq!(text(&mut connection, tables).await, "0");
}

/// This test binary once more, as a process that owns a server and can be killed.
struct Helper {
    child: Child,
    output: BufReader<ChildStdout>,
    server: u32,
    /// Where its [`Scratch`] folders are.
    folder: PathBuf,
}

impl Helper {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", HELPER_TEST, "--ignored", "--nocapture"])
            .env(HELPER_VARIABLE, folder)
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut helper = Self { child, output, server: 0, folder: PathBuf::new() };
        helper.folder = helper.line().into();
        assert!(helper.folder.is_dir());
        let line = helper.line();
        let number = line.strip_prefix("server: ").unwrap_or_default();
        helper.server = number.parse().expect("the helper names its server");
        helper
    }

    /// The helper's next line, past the test harness's own.
    fn line(&mut self) -> String {
        loop {
            let mut line = String::new();
            let bytes = self.output.read_line(&mut line).unwrap();
            assert_ne!(bytes, 0, "the helper ended early");
            if let Some(text) = line.trim().strip_prefix("helper> ") {
                return text.to_owned();
            }
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Already ended, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
#[ignore = "run by the tests above as a process of its own"]
async fn helper_process_that_owns_a_server() {
    let Some(folder) = std::env::var_os(HELPER_VARIABLE) else {
        return;
    };
    let mut interrupted = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt()).unwrap();
    let server = EmbeddedPostgres::start(EmbeddedOptions::new(folder).volatile()).await.unwrap();
    let mut connection = connect(&server).await;
    connection.execute("create table kept as select 'here' as text").await.unwrap();
    say(Scratch::new().0.parent().unwrap().to_str().unwrap());
    say(&format!("server: {}", server.server_pid().unwrap()));
    interrupted.recv().await;
    let answer = text(&mut connection, "select text from kept").await;
    say(&format!("after the signal: {answer}"));
    server.stop().await.unwrap();
}

/// On a line of its own: the harness begins one with the test's name.
fn say(text: &str) {
    println!("\nhelper> {text}");
    std::io::stdout().flush().unwrap();
}
