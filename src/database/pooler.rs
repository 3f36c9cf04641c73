//! Poolers that give each transaction another session. Prepared statements, settings and locks of a session do not work
//! behind those, so they are refused. All of this is asked in the simple protocol, which leaves nothing behind.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Row};

use super::{Connector, DatabaseError, session::Session};

/// Times that two connections are compared. A busy pooler may have others take the sessions in between.
const ROUNDS: u32 = 3;
/// How long an idle connection may take to answer. Behind a pooler with few sessions it waits for the other one's.
const PATIENCE: Duration = Duration::from_secs(2);

/// Fails when `first`, which is idle, does not keep a session of its own while another connection has a transaction.
pub(super) async fn refuse_transaction_mode(
    connector: &Connector,
    first: &mut PgConnection,
) -> Result<(), DatabaseError> {
    let mut second = connector.connect(&Session::WORK).await?;
    for _ in 0..ROUNDS {
        let own = backend(first).await?;
        // A pooler of single statements refuses this.
        sqlx::raw_sql("begin").execute(&mut second).await.map_err(|_| DatabaseError::Pooler)?;
        let others = backend(&mut second).await?;
        let still_own = tokio::time::timeout(PATIENCE, backend(first)).await;
        sqlx::raw_sql("commit").execute(&mut second).await?;
        let Ok(still_own) = still_own else { return Err(DatabaseError::Pooler) };
        if own == others || own != still_own? {
            return Err(DatabaseError::Pooler);
        }
    }
    second.close().await?;
    Ok(())
}

/// The number of the server's process that answers.
async fn backend(connection: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let rows = sqlx::raw_sql("select pg_backend_pid()").fetch_all(connection).await?;
    rows.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)
}
