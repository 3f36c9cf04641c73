//! `backfill` and `verify`.

mod backfill;
mod bench;
mod verify;

pub(super) use backfill::backfill;
pub(super) use verify::verify;
