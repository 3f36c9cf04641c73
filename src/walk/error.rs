//! Why walks end early, and whose failure that is.

use crate::{
    domain::{Diagnosis, Owner},
    mirror::{MirrorError, SchemaError},
    queue::QueueError,
    reconcile::ReconcileError,
    telemetry::chain,
    upstream::{AskError, CatalogError, UpstreamError, diagnose, diagnose_part},
};

/// Why a walk did not come to its end. What it did is kept, and it goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The API answers, but not for this table of this tenant.
    #[error("no access: {0}")]
    Refused(AskError),
    /// The key of the table lacks a column, so that no page of it can be told apart into rows.
    #[error(transparent)]
    OneKey(AskError),
    /// The API is away, or its answers make no sense, for longer than a walk waits.
    #[error("the API gives no usable answer")]
    Upstream(#[from] UpstreamError),
    /// Other tables of the tenant have just failed, so this one was not asked about.
    #[error("not asked for: other tables of the tenant gave no answer")]
    NotAsked,
    /// The table cannot be described.
    #[error(transparent)]
    Catalogue(#[from] CatalogError),
    /// The mirrored table cannot be brought in line.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A page was not written, or the walk's own state.
    #[error(transparent)]
    Write(#[from] ReconcileError),
    /// Another process walks the same table, or has walked it to its end.
    #[error("another process has gone on with this walk")]
    Overtaken,
    /// The walk of a key range panicked, which is a mistake in this program.
    #[error("the walk of a key range panicked: {0}")]
    Panicked(String),
}

/// What a walk that ended early can do about it by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recovery {
    /// Nothing: it goes on another time.
    None,
    /// Go on with a new description of the table.
    Redescribe,
    /// Have the mirrored table made again, and begin anew: rows may be gone with it.
    Remake,
    /// Take up the walk where it is now.
    TakeUp,
}

impl From<MirrorError> for WalkError {
    fn from(error: MirrorError) -> Self {
        Self::Write(error.into())
    }
}

impl From<QueueError> for WalkError {
    fn from(error: QueueError) -> Self {
        Self::Write(error.into())
    }
}

impl From<sqlx::Error> for WalkError {
    fn from(error: sqlx::Error) -> Self {
        Self::Write(error.into())
    }
}

impl WalkError {
    /// Whose failure it is.
    pub fn diagnose(&self) -> Diagnosis {
        let of = |owner| Diagnosis { owner, pause: None, reason: chain(self).to_string() };
        match self {
            Self::Refused(error) | Self::OneKey(error) => diagnose_part(error),
            Self::Upstream(error) => diagnose(error),
            Self::Write(error) => error.diagnose(),
            Self::NotAsked => of(Owner::Tenant),
            Self::Schema(error) => error.diagnose(),
            Self::Catalogue(_) | Self::Overtaken | Self::Panicked(_) => of(Owner::Target),
        }
    }

    /// Whether somebody holds the mirrored table, so that the same statement goes well when that one has ended.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self.diagnose(), Diagnosis { owner: Owner::Target, pause: Some(_), .. }) && self.is_write()
    }

    /// Why the rows that were to be written are to blame, one of them at least; `None` where they are not.
    pub(super) fn reason_of_rows(&self) -> Option<String> {
        let diagnosis = self.diagnose();
        (self.is_write() && diagnosis.owner == Owner::Row).then_some(diagnosis.reason)
    }

    /// Whether the database is to blame, which comes back.
    pub(super) fn is_about_database(&self) -> bool {
        self.is_write() && self.diagnose().owner == Owner::Database
    }

    pub(super) fn recovery(&self) -> Recovery {
        match (self, self.diagnose().owner) {
            (Self::Overtaken, _) => Recovery::TakeUp,
            // Pages wait by themselves: this was one of the few transactions that come once a walk.
            (Self::Write(_), _) if self.is_busy() => Recovery::TakeUp,
            (Self::Write(_), Owner::Schema) => Recovery::Remake,
            (Self::Refused(_) | Self::Upstream(_), Owner::Schema) => Recovery::Redescribe,
            _ => Recovery::None,
        }
    }

    /// Whether it came from the database.
    fn is_write(&self) -> bool {
        matches!(self, Self::Write(_) | Self::Schema(_))
    }
}
