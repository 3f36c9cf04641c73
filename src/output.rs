//! What commands print: lines on standard output, complaints on standard error.
//!
//! A reader may go before all is told, as `head` does. The command then ends as other programs do that are written to a
//! pipe: soon, without a word, and with the exit code that a shell shows for the signal SIGPIPE. What it has begun is
//! dropped, so that servers of its own are stopped. Any other failure to write is told, and ends it as well.

use std::{
    fmt,
    io::{self, ErrorKind, Write},
    process::ExitCode,
    sync::OnceLock,
};

use tokio::sync::Notify;

/// 128 and the number of SIGPIPE.
const NOBODY_READS: u8 = 141;

/// Why nothing can be printed any more. Of the process, as standard output is.
static END: OnceLock<ErrorKind> = OnceLock::new();
static ENDED: Notify = Notify::const_new();

/// Prints a line on standard output; nothing once that has ended.
macro_rules! say {
    ($($part:tt)*) => { $crate::output::line(format_args!($($part)*)) };
}

/// Prints a line on standard error, if anybody can read it.
macro_rules! complain {
    ($($part:tt)*) => { $crate::output::complaint(format_args!($($part)*)) };
}

/// See `say!`.
pub fn line(text: fmt::Arguments<'_>) {
    if END.get().is_some() {
        return;
    }
    let mut output = io::stdout().lock();
    if let Err(error) = writeln!(output, "{text}").and_then(|()| output.flush()) {
        if error.kind() != ErrorKind::BrokenPipe {
            complain!("nxt-mirror: standard output cannot be written: {error}");
        }
        _ = END.set(error.kind());
        ENDED.notify_one();
    }
}

/// See `complain!`.
pub fn complaint(text: fmt::Arguments<'_>) {
    _ = writeln!(io::stderr().lock(), "{text}");
}

/// Runs a command for as long as what it prints can be written.
pub async fn while_written(command: impl Future<Output = ExitCode>) -> ExitCode {
    let ended = tokio::select! {
        biased;
        () = ENDED.notified() => None,
        code = command => Some(code),
    };
    match (END.get(), ended) {
        (Some(ErrorKind::BrokenPipe), _) => ExitCode::from(NOBODY_READS),
        (None, Some(code)) => code,
        (Some(_), _) | (None, None) => ExitCode::FAILURE,
    }
}
