//! Reads the command line and runs a subcommand.

use std::process::ExitCode;

use clap::Parser;
use nxt_mirror::{cli::Cli, commands};

fn main() -> ExitCode {
    commands::main(Cli::parse())
}
