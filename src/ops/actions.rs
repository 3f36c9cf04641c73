//! What operators have done. Each action stands in the sync log with who asked for it.

use std::sync::Arc;

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use sqlx::PgPool;

use super::{Ops, access::Asker, named::named_table, refusal::Refusal, verification::Request};
use crate::{
    domain::DatabaseTime,
    queue::{
        self, Asked,
        dead_letter::{self, DeadLetter},
        ledger::{self, ReplayRange},
    },
    telemetry::OPERATORS,
    webhook,
};

/// Tries a dead letter again.
pub(super) async fn retry(asker: Asker, ops: web::Data<Ops>, id: web::Path<String>) -> Result<HttpResponse, Refusal> {
    let letter = letter(&ops.pool, &id).await?;
    let asked = asked(&ops.pool, &letter, "retry", asker).await?;
    let exclusions = Arc::clone(&ops.exclusions);
    let retried = webhook::retry(&ops.pool, ops.connector.clone(), exclusions, &[letter.id], &asked).await?;
    if let Some((_, reason)) = retried.left.first() {
        return Err(Refusal::Conflict(format!("dead letter {} is still not understood: {reason}", letter.id)));
    }
    if retried.rows + retried.bodies == 0 {
        return Err(gone(letter.id));
    }
    Ok(HttpResponse::Ok().json(json!({ "rows": retried.rows, "bodies": retried.bodies })))
}

/// Forgets a dead letter.
pub(super) async fn drop_letter(
    asker: Asker,
    ops: web::Data<Ops>,
    id: web::Path<String>,
) -> Result<HttpResponse, Refusal> {
    let letter = letter(&ops.pool, &id).await?;
    let asked = asked(&ops.pool, &letter, "drop", asker).await?;
    let dropped = dead_letter::remove(&ops.pool, &[letter.id], &asked).await?;
    if dropped == 0 {
        return Err(gone(letter.id));
    }
    Ok(HttpResponse::Ok().json(json!({ "dropped": dropped })))
}

async fn letter(pool: &PgPool, id: &str) -> Result<DeadLetter, Refusal> {
    let id = id.parse().map_err(|_| Refusal::Gone(format!("there is no dead letter {id:?}")))?;
    Ok(dead_letter::show(pool, id).await?.ok_or_else(|| gone(id))?.0)
}

fn gone(id: i64) -> Refusal {
    Refusal::Gone(format!("there is no dead letter {id}"))
}

/// What is to be done to a letter, for the sync log; into the daemon's own at once.
async fn asked(pool: &PgPool, letter: &DeadLetter, verb: &str, asker: Asker) -> Result<Asked, Refusal> {
    tracing::info!(target: OPERATORS, "an operator asks: {verb} dead letter {}, {asker}", letter.id);
    Ok(Asked::of(pool, std::slice::from_ref(letter), verb, &asker).await?)
}

/// Into the sync log, and into the daemon's own.
async fn record(pool: &PgPool, what: &str) -> Result<(), Refusal> {
    tracing::info!(target: OPERATORS, "an operator asked: {what}");
    Ok(queue::log_operator(pool, None, what).await?)
}

/// The options of `replay`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplayBody {
    since: String,
    until: Option<String>,
    company: Option<i64>,
    table: Option<String>,
}

/// Fetches the rows of stored notifications again.
pub(super) async fn replay(asker: Asker, ops: web::Data<Ops>, body: web::Bytes) -> Result<HttpResponse, Refusal> {
    let body: ReplayBody = read(&body)?;
    let table = match &body.table {
        Some(table) => Some(named_table(&ops.pool, table).await?),
        None => None,
    };
    let range = ReplayRange {
        since: moment("since", &body.since)?,
        until: body.until.as_deref().map(|until| moment("until", until)).transpose()?,
        company: body.company,
        table,
    };
    let rows = ledger::replay(&ops.pool, &range).await?;
    let what = format!("replay {range}: {rows} rows, {asker}");
    record(&ops.pool, &what).await?;
    Ok(HttpResponse::Ok().json(json!({ "rows": rows })))
}

/// The options of `verify`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyBody {
    #[serde(default)]
    company: Vec<i64>,
    #[serde(default)]
    table: Vec<String>,
    #[serde(default)]
    repair: bool,
}

/// Compares mirror and source. Goes on afterwards; what it comes to stands in the sync log.
pub(super) async fn verify(asker: Asker, ops: web::Data<Ops>, body: web::Bytes) -> Result<HttpResponse, Refusal> {
    let body: VerifyBody = read(if body.is_empty() { b"{}" } else { &body })?;
    let mut tables = Vec::with_capacity(body.table.len());
    for table in &body.table {
        tables.push(named_table(&ops.pool, table).await?);
    }
    let verification = ops.verification.as_ref().ok_or_else(|| {
        Refusal::Conflict("this process only receives: ask one that works, or run nxt-mirror verify".to_owned())
    })?;
    let request = Request { companies: body.company, tables, is_repairing: body.repair, asker };
    let begun = verification.begin(request)?;
    record(&ops.pool, &begun.what).await?;
    begun.run(ops.stop.clone());
    Ok(HttpResponse::Accepted().json(json!({ "status": "accepted" })))
}

/// Options have names: a list, which serde would take for a struct, too, has none.
fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refusal> {
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(Refusal::Wrong("the body is not a JSON object".to_owned()));
    }
    serde_json::from_slice(body).map_err(|error| Refusal::Wrong(format!("the body is not understood: {error}")))
}

fn moment(name: &str, text: &str) -> Result<DatabaseTime, Refusal> {
    let wrong = || Refusal::Wrong(format!("{name}: {text:?} is not a time such as 2026-02-01T10:00:00Z"));
    DatabaseTime::parse(text).ok_or_else(wrong)
}
