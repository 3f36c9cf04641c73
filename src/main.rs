//! Reads the command line, runs a subcommand, prints errors with their causes.

use std::process::ExitCode;

use clap::Parser;
use nxt_mirror::{cli::Cli, commands, output, telemetry};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::complaint(format_args!("nxt-mirror: no runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(output::while_written(run(cli)))
}

async fn run(cli: Cli) -> ExitCode {
    // What is said again and again is told in between, and at the end.
    let result = tokio::select! {
        result = commands::run(cli) => result,
        () = telemetry::tell_repeats() => unreachable!("it never ends"),
    };
    telemetry::tell_last_repeats();
    match result {
        Ok(code) => code,
        Err(error) => {
            // One line with the whole chain of causes.
            output::complaint(format_args!("nxt-mirror: {}", telemetry::chain(&*error)));
            commands::exit_code(&error)
        }
    }
}
