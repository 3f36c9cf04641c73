//! The operators' pages: rendered by the server, with all figures in them. A small script has them follow live, and asks
//! once more before it does something.

mod activity;
mod assets;
mod chart;
mod dead_letters;
mod entry;
mod frame;
mod login;
mod named;
mod overview;
mod row;
mod target;
mod words;

pub(super) use activity::activity;
pub(super) use assets::asset;
pub(super) use dead_letters::dead_letters;
pub(super) use frame::refused;
pub(super) use login::{login, login_form, logout};
pub(super) use named::names;
pub(super) use overview::overview;
pub(super) use row::row;
pub(super) use target::target;

/// Entries of the sync log on a page.
const ENTRIES: i64 = 40;
