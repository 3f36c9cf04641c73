//! Questions on a terminal.

use std::io::IsTerminal;

use anyhow::Context;
use dialoguer::{Confirm, Input, Password};
use tokio::task::block_in_place;

/// Something that is asked for, and the setting that it becomes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    /// The setting.
    pub(super) setting: &'static str,
    /// The option that answers it.
    pub(super) option: &'static str,
    pub(super) text: &'static str,
    pub(super) kind: Kind,
}

/// How something is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is shown, and needed.
    Needed,
    /// It is shown, and may be left empty.
    Optional,
    /// It is not shown, and needed.
    Secret,
}

/// Whether standard input and the place where questions are shown are a terminal.
pub(super) fn has_terminal() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Waits for an answer.
pub(super) fn ask(question: &Question) -> anyhow::Result<String> {
    let line = |may_be_empty| Input::<String>::new().with_prompt(question.text).allow_empty(may_be_empty).interact();
    let answer = block_in_place(|| match question.kind {
        Kind::Needed => line(false),
        Kind::Optional => line(true),
        Kind::Secret => Password::new().with_prompt(question.text).interact(),
    });
    Ok(answer.context("read an answer")?.trim().to_owned())
}

/// Waits for a yes or a no; no, if nothing is said.
pub(super) fn confirm(text: String) -> anyhow::Result<bool> {
    let asked = Confirm::new().with_prompt(text).default(false);
    block_in_place(|| asked.interact()).context("read an answer")
}
