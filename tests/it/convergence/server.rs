//! A server that can be killed.

use std::time::Duration;

use nxt_embedded_postgres::{EmbeddedOptions, EmbeddedPostgres};
use nxt_testkit::Scratch;
use secrecy::ExposeSecret;

/// The server of a run, which can be killed and comes back at the same address.
pub struct Server {
    folder: Scratch,
    running: Option<EmbeddedPostgres>,
}

impl Server {
    pub async fn start() -> Self {
        let folder = Scratch::new();
        // Durable: what it has committed must outlive it.
        let running = Some(EmbeddedPostgres::start(EmbeddedOptions::new(&folder.0)).await.expect("the server starts"));
        Self { folder, running }
    }

    pub fn url(&self) -> String {
        self.running.as_ref().expect("the server runs").url("nxt_mirror").expose_secret().to_owned()
    }

    /// As a power cut does; it comes back at once.
    pub async fn kill(&mut self) {
        let running = self.running.take().expect("the server runs");
        let pid = i32::try_from(running.server_pid().expect("the server runs")).expect("a process id");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .expect("ours to kill");
        drop(running);
        for _ in 0..100 {
            // Its children need a moment to notice.
            match EmbeddedPostgres::start(EmbeddedOptions::new(&self.folder.0)).await {
                Ok(running) => {
                    self.running = Some(running);
                    return;
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        panic!("the server does not come back");
    }

    pub async fn stop(mut self) {
        self.running.take().expect("the server runs").stop().await.expect("the server stops");
    }
}
