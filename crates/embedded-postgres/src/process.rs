//! Runs the server so that it ends with us, however we end.
//!
//! Between us and the server stands a small shell script, the supervisor. It holds the reading end of a pipe whose
//! writing end only we hold: when we go, even by `kill -9`, the pipe ends and the supervisor shuts the server down.
//! It is in a process group of its own, so that Ctrl-C on a terminal reaches us alone and the server outlives our
//! orderly end.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cluster::{Files, server_command};
use super::error::EmbeddedError;
use super::{Durability, Launch, POLL};

/// Runs "$@" until it ends or standard input does; then SIGINT, which is PostgreSQL's fast shutdown.
const SUPERVISOR: &str = r#"
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
{ read -r _ <&3; kill -INT "$server"; } 2>/dev/null &
watch=$!
exec 3<&-
wait "$server"
status=$?
kill "$watch" 2>/dev/null
exit "$status"
"#;

/// How long a server may take to shut down, with its last checkpoint.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// A running supervisor and, below it, the server.
#[derive(Debug)]
pub(super) struct ServerProcess {
    supervisor: Child,
    /// Dropping it tells the supervisor to shut the server down.
    pipe: Option<ChildStdin>,
}

impl ServerProcess {
    pub(super) fn spawn(launch: &Launch, port: u16) -> Result<Self, EmbeddedError> {
        let files = &launch.files;
        let log = files.new_log()?;
        let log_too = log.try_clone().map_err(EmbeddedError::io("open", files.log()))?;
        let shell = Path::new("/bin/sh");
        let mut command = server_command(shell, &launch.account);
        command
            .args(["-c", SUPERVISOR, "nxt-mirror-postgres"])
            .arg(launch.binaries.program("postgres"))
            .arg("-D")
            .arg(files.cluster())
            .stdin(Stdio::piped())
            .stdout(log)
            .stderr(log_too)
            .process_group(0);
        configure(&mut command, port, launch.durability);
        let mut supervisor = command.spawn().map_err(EmbeddedError::io("run", shell))?;
        let pipe = supervisor.stdin.take();
        Ok(Self { supervisor, pipe })
    }

    /// Whether the server has ended by itself.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.supervisor.try_wait(), Ok(None))
    }

    /// Begins a fast shutdown and returns at once.
    pub(super) fn begin_stop(&mut self) {
        self.pipe = None;
    }

    /// Shuts the server down and waits until it has ended.
    pub(super) async fn stop(&mut self) -> Result<(), EmbeddedError> {
        self.begin_stop();
        let ended = async {
            while !self.has_ended() {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(STOP_TIMEOUT, ended)
            .await
            .map_err(|_| EmbeddedError::NotStopped { seconds: STOP_TIMEOUT.as_secs() })
    }
}

/// Settings go on the command line, so that a newer nxt-mirror brings its own to an old cluster.
fn configure(command: &mut Command, port: u16, durability: Durability) {
    let port = format!("port={port}");
    let mut settings = vec![
        port.as_str(),
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "max_connections=300",
        "shared_buffers=64MB",
        "max_wal_size=1GB",
        "timezone=UTC",
        "log_timezone=UTC",
        "log_checkpoints=off",
        // Row values must not reach a log file: no statements, no details such as the key that was not unique.
        "log_min_error_statement=panic",
        "log_error_verbosity=terse",
    ];
    settings.extend_from_slice(match durability {
        Durability::Durable => &["fsync=on", "synchronous_commit=on", "full_page_writes=on"],
        // Commits are still written, if not to disk, so that they outlive a kill of the server. What tests ask is not
        // worth compiling.
        Durability::Volatile => &["fsync=off", "synchronous_commit=on", "full_page_writes=off", "jit=off"],
    });
    for setting in settings {
        command.args(["-c", setting]);
    }
}

/// Waits until nothing runs in the cluster any more, and helps along what a killed process left behind.
///
/// Only called while the folder's lock is held: such a server has no owner any more and is shutting down, or its
/// supervisor was killed as well, or the server itself was and its sessions have not noticed yet.
pub(super) async fn clear_leftover(launch: &Launch) -> Result<(), EmbeddedError> {
    for (signal, patience) in [
        (None, Duration::from_secs(2)),
        (Some(Signal::SIGINT), Duration::from_secs(30)),
        (Some(Signal::SIGQUIT), Duration::from_secs(10)),
    ] {
        let left = processes_in(launch);
        if left.is_empty() {
            break;
        }
        if let Some(signal) = signal {
            tracing::warn!(pids = ?left, %signal, "stopping a database server left over from an earlier run");
            for pid in left {
                // It may have ended this instant, which is what is wanted.
                let _ = kill(as_pid(pid), signal);
            }
        }
        let gone = async {
            while !processes_in(launch).is_empty() {
                tokio::time::sleep(POLL).await;
            }
        };
        let _ = tokio::time::timeout(patience, gone).await;
    }
    match processes_in(launch).first() {
        None => remove_stale_pid_file(&launch.files),
        Some(&pid) => Err(EmbeddedError::Leftover { pid, path: launch.files.cluster() }),
    }
}

/// PostgreSQL refuses to start if any process of its user has the number in this file, which after a restart of a
/// container is likely to be one of ours. That nothing runs in the cluster is known by now.
fn remove_stale_pid_file(files: &Files) -> Result<(), EmbeddedError> {
    let pid_file = files.cluster().join("postmaster.pid");
    match std::fs::remove_file(&pid_file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EmbeddedError::io("remove the stale", pid_file)(error))
        }
        _ => Ok(()),
    }
}

/// The process id of the server that runs in this cluster, if one does.
pub(super) fn server_pid(launch: &Launch) -> Option<u32> {
    let pid = noted_pid(&launch.files)?;
    processes_in(launch).contains(&pid).then_some(pid)
}

/// The process id that the last server wrote down; it may be long gone.
fn noted_pid(files: &Files) -> Option<u32> {
    let text = std::fs::read_to_string(files.cluster().join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok()
}

fn as_pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX))
}

/// The server of this cluster and all its sessions: they alone have the cluster as their working directory.
///
/// In a container even root may not look at another user's working directory, so the server's own user looks.
#[cfg(target_os = "linux")]
fn processes_in(launch: &Launch) -> Vec<u32> {
    const LOOK: &str = r#"for one in /proc/[0-9]*; do [ "$one/cwd" -ef "$1" ] && echo "${one#/proc/}"; done; :"#;
    let mut command = server_command(Path::new("/bin/sh"), &launch.account);
    command.args(["-c", LOOK, "sh"]).arg(launch.files.cluster()).stdin(Stdio::null());
    numbers(command)
}

/// The server of this cluster, told by its command line.
#[cfg(not(target_os = "linux"))]
fn processes_in(launch: &Launch) -> Vec<u32> {
    const LOOK: &str = r#"ps -o command= -p "$2" | grep -qF -e "$1" && echo "$2"; :"#;
    let Some(pid) = noted_pid(&launch.files) else {
        return Vec::new();
    };
    let mut command = server_command(Path::new("/bin/sh"), &launch.account);
    command.args(["-c", LOOK, "sh"]).arg(launch.files.cluster()).arg(pid.to_string()).stdin(Stdio::null());
    numbers(command)
}

/// The numbers that `command` prints.
fn numbers(mut command: Command) -> Vec<u32> {
    let output = command.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&output).lines().filter_map(|line| line.parse().ok()).collect()
}
