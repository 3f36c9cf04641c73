//! Reads the command line, runs a subcommand, prints errors with their causes.

use std::process::ExitCode;

use clap::Parser;
use nxt_mirror::{cli::Cli, commands};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("nxt-mirror: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(commands::run(cli)) {
        Ok(code) => code,
        Err(error) => {
            // One line with the whole chain of causes.
            eprintln!("nxt-mirror: {}", nxt_mirror::telemetry::chain(&*error));
            commands::exit_code(&error)
        }
    }
}
