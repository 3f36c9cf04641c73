//! Daemons without `DATABASE_URL`.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nxt_simulator::Options;
use nxt_testkit::{Daemon, SECRET, Scratch, Site, Wait, free_address, sign, webhook_url};
use serde_json::json;

use super::pid;
use crate::support::site;

const WAIT: Wait = Wait::seconds(120);

/// Starts a daemon on a folder of its own server.
fn spawn(site: &Site, folder: &Path, public: &str) -> Daemon {
    let mut command = site.command(&["serve"]);
    Daemon::start(command.env_remove("DATABASE_URL").env("NXT_DATA_DIR", folder).env("NXT_LISTEN", public))
}

/// Waits until a notification is acknowledged.
async fn until_accepted(what: &str, public: &str) {
    let body = json!({
        "tableIdentifier": "Order", "customerNo": 1, "companyNo": 2_000_001, "event": "UPDATE",
        "primaryKeys": [{"OrderNo": 1}], "timestamp": "2026-01-01T00:00:00Z",
    })
    .to_string();
    let http = reqwest::Client::new();
    let look = async || {
        let signature = sign(SECRET, body.as_bytes());
        let request = http.post(webhook_url(public)).header("x-vwd-signature-v1", signature).body(body.clone());
        match request.send().await {
            Ok(answer) if answer.status() == 202 => Ok(()),
            Ok(answer) => Err(answer.status().to_string()),
            Err(error) => Err(error.to_string()),
        }
    };
    WAIT.until(what, look).await.unwrap_or_else(|late| panic!("{late}"));
}

/// The process id that the server in this folder wrote down, while there is one.
fn postmaster(folder: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(folder.join("cluster/postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok()
}

/// The process id of the server that comes instead of another one. That one's own processes may answer a while longer.
async fn next_postmaster(folder: &Path, old: u32) -> u32 {
    let look = async || match postmaster(folder) {
        Some(pid) if pid != old => Ok(()),
        Some(_) => Err("the old server".to_owned()),
        None => Err("no server".to_owned()),
    };
    WAIT.until("another server", look).await.unwrap_or_else(|late| panic!("{late}"));
    postmaster(folder).unwrap()
}

#[tokio::test]
async fn a_killed_server_is_started_again_and_a_second_daemon_survives_the_first() {
    let scratch = Scratch::new();
    let site = site(Options::default(), "postgresql://unused/unused", &[("NXT_OPS_LISTEN", "127.0.0.1:0")]).await;
    let (one, two) = (free_address(), free_address());
    let first = spawn(&site, &scratch.0, &one);
    until_accepted("the first daemon", &one).await;

    let killed = postmaster(&scratch.0).unwrap();
    kill(pid(killed), Signal::SIGKILL).unwrap();
    let again = next_postmaster(&scratch.0, killed).await;
    until_accepted("the first daemon, whose server was killed", &one).await;

    let mut second = spawn(&site, &scratch.0, &two);
    until_accepted("the second daemon", &two).await;
    assert_eq!(postmaster(&scratch.0), Some(again), "both use one server");
    first.kill().await;
    let taken_over = next_postmaster(&scratch.0, again).await;
    until_accepted("the second daemon, alone", &two).await;

    // A server that cannot start again ends its daemon.
    std::fs::rename(scratch.0.join("cluster/global"), scratch.0.join("cluster/away")).unwrap();
    kill(pid(taken_over), Signal::SIGKILL).unwrap();
    assert!(!second.ended().await.success());
}
