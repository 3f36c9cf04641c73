//! PgBouncer between the daemon and the server. Skipped, with a line, where it is not installed.

use std::{
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use nxt_embedded_postgres::{DATABASE, EmbeddedPostgres};
use nxt_simulator::Options;
use nxt_testkit::{Scratch, Wait, compare, free_address, object};
use secrecy::ExposeSecret;
use serde_json::json;

use super::{password, port};
use crate::support::{app::COMPANY, site};

const WAIT: Wait = Wait::seconds(120);

/// A pooler with the settings that Debian gives it, ended with this value.
struct PgBouncer {
    process: Child,
    address: String,
    folder: Scratch,
}

impl PgBouncer {
    /// `None` where it is not installed.
    fn start(server: &EmbeddedPostgres, mode: &str) -> Option<Self> {
        let (folder, address) = (Scratch::new(), free_address());
        std::fs::create_dir(&folder.0).unwrap();
        let (users, settings) = (folder.0.join("users.txt"), folder.0.join("pgbouncer.ini"));
        std::fs::write(&users, format!("\"nxt_mirror\" \"{}\"\n", password(server))).unwrap();
        let text = format!(
            "[databases]\n{DATABASE} = host=127.0.0.1 port={}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {}\npool_mode = {mode}\n",
            port(server),
            address.rsplit(':').next().unwrap(),
            users.display(),
        );
        std::fs::write(&settings, text).unwrap();
        let mut command = Command::new("pgbouncer");
        if nix::unistd::geteuid().is_root() {
            // It refuses to run as root.
            command.args(["--user", "nobody"]);
        }
        for path in [&users, &settings] {
            std::fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
        }
        let spawned = command.arg("--quiet").arg(&settings).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        match spawned {
            Ok(process) => Some(Self { process, address, folder }),
            Err(error) => {
                eprintln!("SKIPPED: pgbouncer cannot be run ({error}); install Debian's package pgbouncer to test it");
                None
            }
        }
    }

    fn url(&self) -> String {
        self.url_of(DATABASE)
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgresql://nxt_mirror:ignored@{}/{database}", self.address)
    }

    async fn answers(&self) {
        let look = async || match tokio::net::TcpStream::connect(&self.address).await {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        WAIT.until("PgBouncer", look).await.unwrap_or_else(|late| panic!("{late}; see {}", self.folder.0.display()));
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        _ = kill(Pid::from_raw(self.process.id().try_into().expect("process ids are small")), Signal::SIGINT);
        _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_pooler_in_transaction_mode_is_named_with_its_setting_and_one_in_session_mode_works() {
    let scratch = Scratch::new();
    let server = scratch.start().await;
    let Some(pooler) = PgBouncer::start(&server, "transaction") else { return };
    pooler.answers().await;
    let options = Options { published_example: false, ..Options::default() };
    let site = site(options, server.url(DATABASE).expose_secret(), &[]).await;
    for command in ["serve", "migrate", "doctor"] {
        let output = site.command(&[command]).env("DATABASE_URL", pooler.url()).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{command}: {said}");
        let lines: Vec<_> = said.lines().filter(|line| line.contains("pool_mode = session")).collect();
        assert!(lines.len() == 1 && lines[0].contains("PgBouncer in transaction mode"), "{command}: {said}");
    }
    drop(pooler);

    let pooler = PgBouncer::start(&server, "session").expect("it was there before");
    pooler.answers().await;
    for command in ["serve", "status"] {
        let output = site.command(&[command]).env("DATABASE_URL", pooler.url_of("missing")).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command}: {said}");
        assert!(said.contains("no such database: missing"), "{command}: {said}");
    }

    let daemon = site.spawn(&[("DATABASE_URL", &pooler.url())]);
    for number in 0..50 {
        site.simulator.put(COMPANY, "Order", object(json!({"orderNo": 7000 + number}))).unwrap();
    }
    WAIT.for_count("orders", &site.pool, 50, "select count(*) from business_nxt.\"order\"")
        .await
        .unwrap_or_else(|late| panic!("{late}"));
    let comparison = compare(&site.pool, &site.simulator).await.unwrap();
    assert!(comparison.is_equal(), "{comparison}");
    daemon.kill().await;
    server.stop().await.unwrap();
}
