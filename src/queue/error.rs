//! What can go wrong with the queue's own tables.

use std::time::Duration;

/// Tries of a transaction that collides with another one.
const TRIES_MAX: u32 = 5;

/// A statement against the queue's tables failed.
#[derive(Debug, thiserror::Error)]
#[error("the queue could not {action}")]
pub struct QueueError {
    /// What was attempted.
    pub action: &'static str,
    /// Why it failed.
    #[source]
    pub source: sqlx::Error,
}

impl QueueError {
    pub(super) fn on(action: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |source| Self { action, source }
    }
}

fn code(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.into_owned())
}

/// Two transactions were in each other's way, and this one may be repeated: a serialization failure or a deadlock.
pub(super) fn is_collision(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| matches!(code.as_str(), "40001" | "40P01"))
}

/// The session only reads, since its host is a standby now, for example. Nothing was stored.
pub(super) fn is_read_only(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| code == "25006")
}

/// The connection or its session has ended: by an operator, a time-out, or what stands between. Whether a statement that
/// was under way was carried out is not known.
pub(super) fn is_lost(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(_))
        || code(error).is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
}

/// The values are to blame: data exceptions, violated constraints, exceeded limits.
pub(super) fn is_of_data(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
}

/// Repeats a transaction that collides.
pub(super) async fn repeated<T, F>(mut transaction: impl FnMut() -> F) -> Result<T, sqlx::Error>
where
    F: Future<Output = Result<T, sqlx::Error>>,
{
    let mut tries = 1;
    loop {
        match transaction().await {
            Err(error) if is_collision(&error) && tries < TRIES_MAX => {
                tracing::debug!(%error, "a transaction is repeated");
                tokio::time::sleep(Duration::from_millis(5) * tries).await;
                tries += 1;
            }
            done => return done,
        }
    }
}
