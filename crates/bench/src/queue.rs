//! What folding, the overview and a claim cost beside few dirty rows and beside very many.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use futures_util::future::join_all;
use nxt_embedded_postgres::EmbeddedPostgres;
use nxt_mirror::{
    database::{self, Connector},
    queue::{Acceptor, Appender, Claimable, Claims, Delivery, Notification, Priority, Queue, Wanted, WorkerId},
    telemetry::Metrics,
    webhook,
};
use nxt_testkit::recreate;
use serde_json::json;
use sqlx::PgPool;
use tokio::sync::Notify;

use super::figures::{median, ratio};

const FEW: i64 = 1_000;
const MANY: i64 = 1_000_000;
/// Targets over which the rows are spread.
const TARGETS: i64 = 2;
const FIRST_COMPANY: i64 = 3_000_001;
/// Notifications folded in one turn: half of rows that wait already, half of new ones.
const BATCH: i64 = 1_000;
/// Rows of a claim, as many as a request asks for, and as a target has that has few.
const CLAIMED: usize = 500;
const ROUNDS: i64 = 21;

pub(super) async fn measure(server: &EmbeddedPostgres) -> anyhow::Result<()> {
    let (beside_few, beside_many) = times(server, MANY).await?;
    print(&format!("fold of {BATCH} notifications"), &beside_few.fold, &beside_many.fold);
    print(&format!("overview and claim of {CLAIMED} rows"), &beside_few.claim, &beside_many.claim);
    Ok(())
}

/// The times beside few dirty rows, and beside so many.
pub(super) async fn times(server: &EmbeddedPostgres, many: i64) -> anyhow::Result<(Times, Times)> {
    let (few, many) = (Side::new(server, FEW).await?, Side::new(server, many).await?);
    let (mut beside_few, mut beside_many) = (Times::default(), Times::default());
    for round in 0..ROUNDS {
        few.turn(round, &mut beside_few).await?;
        many.turn(round, &mut beside_many).await?;
    }
    Ok((beside_few, beside_many))
}

fn print(what: &str, few: &[f64], many: &[f64]) {
    println!(
        "{what:<45} {:>8.1} ms beside {FEW} dirty rows, {:.1} ms beside {MANY}: ratio {}",
        median(few),
        median(many),
        ratio(many, few)
    );
}

/// Milliseconds of each turn.
#[derive(Default)]
pub(super) struct Times {
    pub(super) fold: Vec<f64>,
    pub(super) claim: Vec<f64>,
}

/// A database with so many dirty rows.
struct Side {
    rows: i64,
    pool: PgPool,
    queue: Queue,
    me: WorkerId,
    claims: Claims,
    acceptor: Acceptor,
}

impl Side {
    async fn new(server: &EmbeddedPostgres, rows: i64) -> anyhow::Result<Self> {
        let name = if rows == FEW { "bench_few" } else { "bench_many" };
        recreate(&server.url("postgres"), name).await?;
        let connector = Connector::to(&server.url(name))?;
        let pool = database::connect(&connector).await?;
        database::migrate(&pool).await?;
        fill(&pool, rows).await?;
        let queue = Queue::new(pool.clone());
        let me = queue.register().await?;
        let (acceptor, appender) =
            Appender::new(connector, Arc::default(), Arc::new(Notify::new()), Arc::new(Metrics::new()));
        tokio::spawn(appender.run());
        Ok(Self { rows, pool, queue, me, claims: Claims::new(), acceptor })
    }

    async fn turn(&self, round: i64, times: &mut Times) -> anyhow::Result<()> {
        self.queue.beat(self.me).await?;
        let step = self.rows / (BATCH / 2);
        let waiting = (0..BATCH / 2).map(|place| place * step + round % step);
        let new = (0..BATCH / 2).map(|place| self.rows + place);
        self.receive(waiting.chain(new)).await?;

        let started = Instant::now();
        let folded = self.queue.fold().await?;
        let fold = millis(started.elapsed());
        ensure!(folded.notifications == BATCH as u64, "{} of {BATCH} were folded", folded.notifications);

        let started = Instant::now();
        let overview = self.queue.overview(self.me, &self.claims, Claimable::All, 500).await?;
        let target = overview.due.get(round as usize % overview.due.len().max(1)).context("nothing is due")?.target.id;
        let wanted = [Wanted { target, priority: Priority::Live, rows_max: CLAIMED }];
        let claimed = self.queue.claim(self.me, &self.claims, &wanted, Claimable::All).await?;
        let claim = millis(started.elapsed());
        ensure!(claimed.iter().map(|claim| claim.rows.len()).sum::<usize>() == CLAIMED, "rows are missing");

        // As many rows as before.
        let new = "delete from nxt_mirror.dirty_row as dirty using nxt_mirror.target as target
                    where dirty.target_id = target.id and dirty.row_key = any($1)";
        sqlx::query(new)
            .bind((0..BATCH / 2).map(|place| key(self.rows + place)).collect::<Vec<_>>())
            .execute(&self.pool)
            .await?;
        // The first turn finds nothing prepared and nothing in memory.
        if round > 0 {
            times.fold.push(fold);
            times.claim.push(claim);
        }
        Ok(())
    }

    /// Has the notifications stored, as a receiver does.
    async fn receive(&self, numbers: impl Iterator<Item = i64>) -> anyhow::Result<()> {
        let stored = join_all(numbers.map(|number| async move {
            let body = json!({
                "tableIdentifier": "Order", "customerNo": 1, "companyNo": FIRST_COMPANY + number % TARGETS,
                "event": "UPDATE", "primaryKeys": [{ "OrderNo": number }], "timestamp": "2026-01-01T00:00:00.1234567Z",
                "changedByUser": "benchmark", "changedColumns": [],
            })
            .to_string();
            let parsed = webhook::understand(body.as_bytes()).map_err(anyhow::Error::msg)?;
            let notification = Notification {
                delivery_id: None,
                event: parsed.event,
                changed_by: parsed.changed_by,
                columns: parsed.columns,
                body: body.into_bytes().into(),
            };
            anyhow::Ok(self.acceptor.accept(Delivery::Notification(notification)).await?)
        }));
        stored.await.into_iter().collect::<anyhow::Result<Vec<_>>>().map(drop)
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// The canonical key of an order.
fn key(number: i64) -> String {
    format!("{{\"orderno\":{number}}}")
}

async fn fill(pool: &PgPool, rows: i64) -> anyhow::Result<()> {
    sqlx::query(
        "insert into nxt_mirror.target (tenant_kind, tenant_no, table_name)
         select 'company', $1 + n, 'Order' from generate_series(0, $2 - 1) n",
    )
    .bind(FIRST_COMPANY)
    .bind(TARGETS)
    .execute(pool)
    .await?;
    sqlx::query(
        "insert into nxt_mirror.dirty_row (target_id, row_key, due_at, waiting_since, announced, notification_id)
         select target.id, '{\"orderno\":' || n || '}', now(), now(), true, n
           from generate_series(0, $3 - 1) n
           join nxt_mirror.target as target on target.tenant_no = $1 + n % $2",
    )
    .bind(FIRST_COMPANY)
    .bind(TARGETS)
    .bind(rows)
    .execute(pool)
    .await?;
    sqlx::query("vacuum analyze nxt_mirror.dirty_row").execute(pool).await?;
    Ok(())
}
