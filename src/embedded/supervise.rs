//! The server's process, tied to ours.

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::account::Account;

/// Runs the server and waits for the end of its standard input, which is the end of us; then asks for a fast
/// shutdown. The server gets a process group of its own, so that Ctrl-C reaches us first.
const SUPERVISOR: &str = r#"
"$@" < /dev/null &
server=$!
(while read -r _; do :; done; kill -INT "$server" 2> /dev/null) <&3 &
watch=$!
wait "$server"
status=$?
kill "$watch" 2> /dev/null
exit "$status"
"#;
/// How long a fast shutdown may take before we stop waiting for it.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A running server. Dropping it shuts the server down.
#[derive(Debug)]
pub(super) struct Supervised {
    shell: Child,
}

impl Supervised {
    /// Starts a server; its output goes to `log`.
    pub(super) fn start(account: &Account, program: &Path, arguments: &[String], log: File) -> io::Result<Self> {
        let errors = log.try_clone()?;
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            // The background job's own standard input is /dev/null, so ours travels as descriptor 3.
            .arg(format!("exec 3<&0\n{SUPERVISOR}"))
            .arg("nxt-mirror-postgres")
            .arg(program)
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(errors)
            .process_group(0);
        let shell = account.apply(&mut command).spawn()?;
        Ok(Self { shell })
    }

    /// Whether the server is gone.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.shell.try_wait(), Ok(None))
    }

    /// Shuts the server down and waits until it is.
    pub(super) fn stop(&mut self) {
        drop(self.shell.stdin.take());
        let deadline = Instant::now() + STOP_TIMEOUT;
        while !self.has_ended() {
            if Instant::now() > deadline {
                tracing::error!("the database server does not stop");
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.stop();
    }
}
