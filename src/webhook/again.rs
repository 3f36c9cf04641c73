//! The way back of what was set aside.

use std::sync::Arc;

use actix_web::web::Bytes;
use sqlx::PgPool;
use tokio::{sync::Notify, task::JoinError};

use super::understand;
use crate::{
    database::Connector,
    domain::Exclusions,
    queue::{
        AcceptError, Acceptor, Appender, Asked, Delivery, DeliveryId, Notification, QueueError,
        dead_letter::{self, DeadLetter},
    },
    telemetry::Metrics,
};

/// What came of letters that were tried again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retried {
    /// Rows that are fetched again.
    pub rows: u64,
    /// Bodies that are understood by now, and stored as if they had just come.
    pub bodies: u64,
    /// Bodies that are still not understood, and why.
    pub left: Vec<(i64, String)>,
}

/// Letters could not be tried again.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// A statement failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// No connection.
    #[error("the database cannot be reached")]
    Sql(#[from] sqlx::Error),
    /// A body could not be stored.
    #[error("a body could not be stored")]
    Accept(#[from] AcceptError),
    /// A bug.
    #[error("the appender panicked")]
    Appender(#[from] JoinError),
}

/// Tries dead letters again: rows become dirty, bodies are read once more. A body's letter goes when it is stored.
///
/// What is left out by now is not stored with a body. Who `asked` is logged together with what is done to each.
pub async fn retry(
    pool: &PgPool,
    connector: Connector,
    exclusions: Arc<Exclusions>,
    ids: &[i64],
    asked: &Asked,
) -> Result<Retried, RetryError> {
    let rows = dead_letter::retry_rows(pool, ids, asked).await?;
    let mut retried = Retried { rows, ..Retried::default() };
    let (acceptor, appender) = Appender::new(connector, exclusions, Arc::new(Notify::new()), Arc::new(Metrics::new()));
    let task = tokio::spawn(appender.run());
    for &id in ids {
        if let Some((letter, Some(body))) = dead_letter::show(pool, id).await? {
            retry_body(pool, &acceptor, letter, body, asked, &mut retried).await?;
        }
    }
    drop(acceptor);
    task.await?;
    Ok(retried)
}

async fn retry_body(
    pool: &PgPool,
    acceptor: &Acceptor,
    letter: DeadLetter,
    body: Vec<u8>,
    asked: &Asked,
    retried: &mut Retried,
) -> Result<(), RetryError> {
    let understood = match understand(&body) {
        Ok(understood) => understood,
        Err(reason) => {
            retried.left.push((letter.id, reason));
            return Ok(());
        }
    };
    let notification = Notification {
        delivery_id: letter.delivery_id.as_ref().and_then(|id| DeliveryId::new(id.as_bytes())),
        event: understood.event,
        changed_by: understood.changed_by,
        columns: understood.columns,
        body: Bytes::from(body),
    };
    acceptor.accept(Delivery::Notification(notification)).await?;
    retried.bodies += dead_letter::remove(pool, &[letter.id], asked).await?;
    Ok(())
}
