//! Group commit: one statement and one commit for all requests that wait, each answered after it.

use std::{collections::HashSet, sync::Arc, time::Duration};

use sqlx::{Connection, PgConnection, Row, postgres::PgConnectOptions};
use tokio::sync::{Notify, mpsc};

use super::accept::{AcceptError, Accepted, Acceptor, Delivery, Notification, Quarantine, Waiting};
use crate::{failpoint::Failpoint, telemetry::Metrics};

/// Deliveries in one commit.
const BATCH_MAX: usize = 1_000;
/// How long one commit may take before its requests get a 503. Two of them fit into the answer's time-out.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Stores a batch of notifications. Locks are taken in the order of ids, then of row keys, by every replica alike,
/// so that two batches never wait for each other.
const STORE: &str = r#"
with input as (
    select * from unnest($1::text[], $2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[],
                         $7::timestamptz[], $8::timestamptz[], $9::text[], $10::text[])
        with ordinality as i (delivery_id, tenant_kind, tenant_no, table_name, row_key, event,
                              changed_at, deleted_at, changed_by, body, position)
), fresh as (
    insert into nxt_mirror.delivery (id, received_at)
    select delivery_id, now() from input where delivery_id is not null order by delivery_id collate "C"
    on conflict do nothing
    returning id
), accepted as materialized (
    select nextval('nxt_mirror.notification_id') as id, input.*
      from input
     where delivery_id is null or delivery_id in (select id from fresh)
), ledger as (
    insert into nxt_mirror.notification
        (id, received_at, delivery_id, tenant_kind, tenant_no, table_name, row_key, event, changed_at, deleted_at,
         changed_by, body)
    select id, now(), delivery_id, tenant_kind, tenant_no, table_name, row_key, event, changed_at, deleted_at,
           changed_by, body
      from accepted
), marked as (
    insert into nxt_mirror.dirty_row as d
        (tenant_kind, tenant_no, table_name, row_key, generation, due_at, waiting_since, notification_id,
         deleted_at, delete_received_at, announced, changed_at)
    select tenant_kind, tenant_no, table_name, row_key, count(*), now(), now(), max(id),
           max(deleted_at), case when max(deleted_at) is not null then now() end,
           bool_or(event <> 'DELETE'),
           case when bool_or(event <> 'DELETE' and changed_at is null) then null else max(changed_at) end
      from accepted
     group by tenant_kind, tenant_no, table_name, row_key
     order by tenant_kind collate "C", tenant_no, table_name collate "C", row_key collate "C"
    on conflict on constraint dirty_row_pkey do update set
        generation = d.generation + excluded.generation,
        priority = 0,
        due_at = case when d.claim_id is null and d.attempts = 0 and d.lane_failures = 0
                      then least(d.due_at, excluded.due_at) else d.due_at end,
        notification_id = excluded.notification_id,
        deleted_at = greatest(d.deleted_at, excluded.deleted_at),
        delete_received_at = greatest(d.delete_received_at, excluded.delete_received_at),
        announced = d.announced or excluded.announced,
        changed_at = case
            when not d.announced then excluded.changed_at
            when not excluded.announced then d.changed_at
            when d.changed_at is null or excluded.changed_at is null then null
            else greatest(d.changed_at, excluded.changed_at)
        end,
        looks = 0
)
select position from accepted
"#;

const QUARANTINE: &str = "
insert into nxt_mirror.dead_letter (kind, reason, first_at, last_at, delivery_id, body)
select 'body', reason, now(), now(), delivery_id, body
  from unnest($1::text[], $2::text[], $3::bytea[]) as i (delivery_id, reason, body)
";

/// The task that commits. It has a connection of its own, so that nothing else can keep it waiting for one.
pub struct Committer {
    options: PgConnectOptions,
    connection: Option<PgConnection>,
    waiting: mpsc::Receiver<Waiting>,
    stored: Arc<Notify>,
    metrics: Arc<Metrics>,
}

impl std::fmt::Debug for Committer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Committer").finish_non_exhaustive()
    }
}

impl Committer {
    /// A committer and the place where requests hand in. `stored` is notified after each commit with new work.
    pub fn new(options: PgConnectOptions, stored: Arc<Notify>, metrics: Arc<Metrics>) -> (Acceptor, Self) {
        let (acceptor, waiting) = Acceptor::channel();
        // The server gives up before the client does, so that no statement outlives its requests.
        let options = options.options([
            ("statement_timeout", "4500"),
            ("application_name", "nxt-mirror receiver"),
            // One statement for ever, by primary keys alone.
            ("plan_cache_mode", "auto"),
        ]);
        (acceptor, Self { options, connection: None, waiting, stored, metrics })
    }

    /// Commits until every [`Acceptor`] is gone.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        while self.waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
            self.commit(std::mem::take(&mut batch)).await;
            batch.reserve(BATCH_MAX);
        }
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            tracing::debug!(%error, "connection not closed in order");
        }
    }

    async fn commit(&mut self, batch: Vec<Waiting>) {
        self.metrics.commit_batch.observe(batch.len() as f64);
        Failpoint::ReceiveTaken.pass();
        let (deliveries, answers): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|waiting| (waiting.delivery, waiting.answer)).unzip();
        let stored = match tokio::time::timeout(COMMIT_TIMEOUT, self.store(&deliveries)).await {
            Ok(Ok(stored)) => Ok(stored),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_elapsed) => Err(format!("not done within {COMMIT_TIMEOUT:?}")),
        };
        match stored {
            Ok(stored) => {
                Failpoint::ReceiveStored.pass();
                for (answer, accepted) in answers.into_iter().zip(stored) {
                    // A request that is gone was stored all the same.
                    let _ = answer.send(Ok(accepted));
                }
                self.stored.notify_one();
                Failpoint::ReceiveAnswered.pass();
            }
            Err(reason) => {
                // Its state is unknown: the next batch gets a new connection.
                self.connection = None;
                for answer in answers {
                    let _ = answer.send(Err(AcceptError::Failed(reason.clone())));
                }
            }
        }
    }

    async fn store(&mut self, deliveries: &[Delivery]) -> Result<Vec<Accepted>, sqlx::Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            empty => empty.insert(PgConnection::connect_with(&self.options).await?),
        };
        let mut stored = vec![Accepted::Quarantined; deliveries.len()];
        let quarantined: Vec<_> = deliveries.iter().filter_map(as_quarantine).collect();
        if !quarantined.is_empty() {
            quarantine(connection, &quarantined).await?;
        }
        let notifications: Vec<_> = deliveries.iter().enumerate().filter_map(as_notification).collect();
        if notifications.is_empty() {
            return Ok(stored);
        }
        // Within a batch the first of an id is the one; SQL sees each id once.
        let mut ids = HashSet::new();
        let (first, repeated): (Vec<_>, Vec<_>) = notifications
            .into_iter()
            .partition(|(_, notification)| notification.delivery_id.as_ref().is_none_or(|id| ids.insert(id)));
        for (index, _) in first.iter().chain(&repeated) {
            stored[*index] = Accepted::Duplicate;
        }
        let batch: Vec<_> = first.iter().map(|(_, notification)| *notification).collect();
        for position in store(connection, &batch).await? {
            stored[first[position].0] = Accepted::New;
        }
        Ok(stored)
    }
}

fn as_quarantine(delivery: &Delivery) -> Option<&Quarantine> {
    match delivery {
        Delivery::Quarantine(quarantine) => Some(quarantine),
        Delivery::Notification(_) => None,
    }
}

fn as_notification((index, delivery): (usize, &Delivery)) -> Option<(usize, &Notification)> {
    match delivery {
        Delivery::Notification(notification) => Some((index, notification)),
        Delivery::Quarantine(_) => None,
    }
}

async fn quarantine(connection: &mut PgConnection, batch: &[&Quarantine]) -> Result<(), sqlx::Error> {
    let ids: Vec<_> = batch.iter().map(|letter| letter.delivery_id.as_ref().map(|id| id.as_str())).collect();
    let reasons: Vec<_> = batch.iter().map(|letter| letter.reason.as_str()).collect();
    let bodies: Vec<_> = batch.iter().map(|letter| letter.body.as_ref()).collect();
    sqlx::query(QUARANTINE).bind(ids).bind(reasons).bind(bodies).execute(connection).await?;
    Ok(())
}

/// Stores notifications whose ids differ; returns the positions of those not seen before.
async fn store(connection: &mut PgConnection, batch: &[&Notification]) -> Result<Vec<usize>, sqlx::Error> {
    fn column<'a, T>(batch: &'a [&'a Notification], of: impl Fn(&'a Notification) -> T) -> Vec<T> {
        batch.iter().map(|notification| of(notification)).collect()
    }
    let rows = sqlx::query(STORE)
        .bind(column(batch, |n| n.delivery_id.as_ref().map(|id| id.as_str())))
        .bind(column(batch, |n| n.event.row.tenant.kind()))
        .bind(column(batch, |n| n.event.row.tenant.number()))
        .bind(column(batch, |n| n.event.row.table.as_str()))
        .bind(column(batch, |n| n.event.row.key.canonical()))
        .bind(column(batch, |n| n.event.kind.name()))
        .bind(column(batch, |n| n.event.kind.changed_at()))
        .bind(column(batch, |n| n.event.kind.deleted_at()))
        .bind(column(batch, |n| n.changed_by.as_ref().map(|name| name.replace('\0', "\u{fffd}"))))
        .bind(column(batch, |n| String::from_utf8_lossy(&n.body).into_owned()))
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            let position: i64 = row.try_get("position")?;
            usize::try_from(position - 1).map_err(|error| sqlx::Error::Decode(error.into()))
        })
        .collect()
}
