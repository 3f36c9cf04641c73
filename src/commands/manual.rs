//! What is made of the command line's definition: manual pages, and what completes commands in a shell.

use std::{path::Path, process::ExitCode};

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;

/// The program's name.
const NAME: &str = "nxt-mirror";

pub(super) fn completions(shell: Shell, folder: &Path) -> anyhow::Result<ExitCode> {
    make(folder)?;
    let file = clap_complete::generate_to(shell, &mut Cli::command(), NAME, folder);
    say!("{}", file.with_context(|| format!("write completions for {shell}"))?.display());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn pages(folder: &Path) -> anyhow::Result<ExitCode> {
    make(folder)?;
    clap_mangen::generate_to(Cli::command(), folder).context("write manual pages")?;
    say!("{}", folder.display());
    Ok(ExitCode::SUCCESS)
}

fn make(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make the folder {}", folder.display()))
}
