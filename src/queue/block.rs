//! Blocks of the ledger, and the stream that one connection writes them to.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use sqlx::{Connection, PgConnection};

use super::accept::Notification;
use crate::{database::may_be_used, domain::SourceTime};

/// Names of announced columns that a stream remembers; past it, it begins anew.
const REMEMBERED_MAX: usize = 50_000;

/// Notifications, column by column.
#[derive(Debug, Default)]
pub(super) struct Block<'a> {
    is_company: Vec<bool>,
    tenant_no: Vec<i64>,
    table_name: Vec<&'a str>,
    row_key: Vec<String>,
    event: Vec<&'static str>,
    changed_at: Vec<Option<SourceTime>>,
    deleted_at: Vec<Option<SourceTime>>,
    changed_by: Vec<Option<Cow<'a, str>>>,
    delivery_id: Vec<Option<&'a str>>,
    body: Vec<Cow<'a, str>>,
    announced: Vec<&'a [String]>,
}

impl<'a> Block<'a> {
    /// A block of these, in their order.
    pub(super) fn of(notifications: impl Iterator<Item = &'a Notification>) -> Self {
        let mut block = Self::default();
        for notification in notifications {
            block.push(notification);
        }
        block
    }

    fn push(&mut self, notification: &'a Notification) {
        let event = &notification.event;
        self.is_company.push(matches!(event.row.tenant, crate::domain::Tenant::Company(_)));
        self.tenant_no.push(event.row.tenant.number());
        self.table_name.push(event.row.table.as_str());
        self.row_key.push(event.row.key.canonical());
        self.event.push(event.kind.name());
        self.changed_at.push(event.kind.changed_at());
        self.deleted_at.push(event.kind.deleted_at());
        self.changed_by.push(notification.changed_by.as_deref().map(without_nul));
        self.delivery_id.push(notification.delivery_id.as_ref().map(|id| id.as_str()));
        self.body.push(String::from_utf8_lossy(&notification.body));
        self.announced.push(&notification.columns);
    }

    fn is_empty(&self) -> bool {
        self.tenant_no.is_empty()
    }

    /// Table and column of everything that is announced.
    fn columns(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let tables = self.table_name.iter().zip(&self.announced);
        tables.flat_map(|(&table, columns)| columns.iter().map(move |column| (table, column.as_str())))
    }
}

fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// A body that was not understood.
#[derive(Debug, Clone, Copy)]
pub(super) struct Letter<'a> {
    pub(super) delivery_id: Option<&'a str>,
    pub(super) reason: &'a str,
    pub(super) body: &'a [u8],
}

/// A connection and the stream it writes to. Its blocks become visible in the order of their ids, since it commits one
/// after the other.
pub(super) struct Stream {
    connection: PgConnection,
    id: i64,
    /// Columns that this stream has announced, by table.
    announced: HashMap<String, HashSet<String>>,
}

impl Stream {
    /// Begins a stream.
    pub(super) async fn open(mut connection: PgConnection) -> Result<Self, sqlx::Error> {
        make_durable(&mut connection).await?;
        let id = open(&mut connection).await?;
        Ok(Self { connection, id, announced: HashMap::new() })
    }

    /// Stores everything in one transaction.
    pub(super) async fn append(&mut self, block: &Block<'_>, letters: &[Letter<'_>]) -> Result<(), sqlx::Error> {
        let columns = self.new_columns(block);
        let announced: Vec<_> = columns.iter().map(|(table, column)| format!("{table}.{column}")).collect();
        if letters.is_empty() {
            self.id = append(&mut self.connection, self.id, block, &announced).await?;
        } else {
            let mut transaction = self.connection.begin().await?;
            quarantine(&mut transaction, letters).await?;
            if !block.is_empty() {
                self.id = append(&mut transaction, self.id, block, &announced).await?;
            }
            transaction.commit().await?;
        }
        self.remember(&columns);
        Ok(())
    }

    /// Whether its connection is alive, after some time without a block.
    pub(super) async fn may_be_used(&mut self) -> bool {
        may_be_used(&mut self.connection).await
    }

    /// Ends the connection in order.
    pub(super) async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::debug!(%error, "connection not closed in order");
        }
    }

    fn new_columns<'a>(&self, block: &Block<'a>) -> HashSet<(&'a str, &'a str)> {
        let is_known =
            |table: &str, column: &str| self.announced.get(table).is_some_and(|known| known.contains(column));
        block.columns().filter(|(table, column)| !is_known(table, column)).collect()
    }

    fn remember(&mut self, columns: &HashSet<(&str, &str)>) {
        if columns.is_empty() {
            return;
        }
        if self.announced.values().map(HashSet::len).sum::<usize>() + columns.len() > REMEMBERED_MAX {
            self.announced.clear();
        }
        for (table, column) in columns {
            self.announced.entry((*table).to_owned()).or_default().insert((*column).to_owned());
        }
    }
}

/// What is acknowledged is on disk, whatever the server's defaults say; stricter ones are kept.
async fn make_durable(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'",
    )
    .execute(connection)
    .await
    .map(drop)
}

async fn open(connection: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!("insert into nxt_mirror.stream default values returning id").fetch_one(connection).await
}

/// Appends a block to the stream, or to a new one if it is a day old, and returns the stream's id. The database's clock
/// decides, so that maintenance can tell which streams get no more blocks.
async fn append(
    connection: &mut PgConnection,
    stream: i64,
    block: &Block<'_>,
    announced: &[String],
) -> Result<i64, sqlx::Error> {
    if append_if_young(connection, stream, block, announced).await? {
        return Ok(stream);
    }
    let fresh = open(connection).await?;
    match append_if_young(connection, fresh, block, announced).await? {
        true => Ok(fresh),
        false => Err(sqlx::Error::Protocol("a new stream is older than a day".to_owned())),
    }
}

async fn append_if_young(
    connection: &mut PgConnection,
    stream: i64,
    block: &Block<'_>,
    announced: &[String],
) -> Result<bool, sqlx::Error> {
    sqlx::query!(
        "insert into nxt_mirror.ledger_block
             (stream_id, is_company, tenant_no, table_name, row_key, event, changed_at, deleted_at, changed_by,
              delivery_id, body, announced_columns)
         select id, $2::boolean[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
                $8::timestamptz[], $9::text[], $10::text[], $11::text[], $12::text[]
           from nxt_mirror.stream where id = $1 and opened_at > now() - interval '1 day'",
        stream,
        &block.is_company,
        &block.tenant_no,
        &block.table_name as _,
        &block.row_key,
        &block.event as _,
        &block.changed_at as _,
        &block.deleted_at as _,
        &block.changed_by as _,
        &block.delivery_id as _,
        &block.body as _,
        announced
    )
    .execute(connection)
    .await
    .map(|done| done.rows_affected() > 0)
}

async fn quarantine(connection: &mut PgConnection, letters: &[Letter<'_>]) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into nxt_mirror.quarantine (reason, delivery_id, body)
         select reason, delivery_id, body
           from unnest($1::text[], $2::text[], $3::bytea[]) as letter (reason, delivery_id, body)",
        letters.iter().map(|letter| without_nul(letter.reason)).collect::<Vec<_>>() as _,
        letters.iter().map(|letter| letter.delivery_id).collect::<Vec<_>>() as _,
        letters.iter().map(|letter| letter.body).collect::<Vec<_>>() as _
    )
    .execute(connection)
    .await
    .map(drop)
}
