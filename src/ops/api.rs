//! What programs ask. Actions are in `actions`.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use serde::Deserialize;

use super::{
    Ops,
    reader::Connection,
    refusal::Refusal,
    sequence::{Filters, Line},
    status::Status,
    story::{GivenKey, Story},
    tail::Tail,
};
use crate::{domain::Tenant, queue::activity::EntryFilter};

/// Entries of a list where no limit is given, and at most.
const LIMIT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;

/// The document of `status --json`.
pub(super) async fn status(ops: web::Data<Ops>) -> Result<HttpResponse, Refusal> {
    Ok(HttpResponse::Ok().json(Status::read(&ops.pool, ops.requests_per_minute).await?))
}

/// From where, and how many.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Range {
    after: Option<String>,
    limit: Option<String>,
}

impl Range {
    fn after(&self) -> Result<Option<i64>, Refusal> {
        number("after", self.after.as_deref())
    }

    fn limit(&self) -> Result<i64, Refusal> {
        match number("limit", self.limit.as_deref())? {
            None => Ok(LIMIT),
            Some(limit) if limit >= 1 => Ok(limit.min(LIMIT_MAX)),
            Some(_) => Err(Refusal::Wrong("limit: at least 1".to_owned())),
        }
    }
}

pub(super) fn number(name: &str, text: Option<&str>) -> Result<Option<i64>, Refusal> {
    let wrong = |text: &str| Refusal::Wrong(format!("{name}: {text:?} is not a number"));
    text.filter(|text| !text.is_empty()).map(|text| text.parse().map_err(|_| wrong(text))).transpose()
}

/// The sync log.
pub(super) async fn activity(
    request: HttpRequest,
    ops: web::Data<Ops>,
    range: web::Query<Range>,
    filters: web::Query<Filters>,
) -> Result<HttpResponse, Refusal> {
    let filter = filters.read().map_err(Refusal::Wrong)?;
    entries(&request, &ops, &ops.activity, filter, &range).await
}

/// The feed.
pub(super) async fn changes(
    request: HttpRequest,
    ops: web::Data<Ops>,
    range: web::Query<Range>,
    filters: web::Query<Filters>,
) -> Result<HttpResponse, Refusal> {
    let filter = filters.read().map_err(Refusal::Wrong)?;
    entries(&request, &ops, &ops.changes, filter, &range).await
}

/// A sequence, as a list or live.
async fn entries(
    request: &HttpRequest,
    ops: &Ops,
    tail: &Tail,
    filter: EntryFilter,
    range: &Range,
) -> Result<HttpResponse, Refusal> {
    if is_stream_wanted(request) {
        let after = last_event_id(request)?.or(range.after()?);
        let connection = request.conn_data::<Connection>().cloned();
        let stream = tail.follow(ops.pool.clone(), filter, after, connection, ops.stop.clone()).await?;
        return Ok(HttpResponse::Ok()
            .content_type("text/event-stream")
            // For proxies that would gather parts of it.
            .insert_header(("X-Accel-Buffering", "no"))
            .streaming(stream));
    }
    let (after, limit) = (range.after()?.unwrap_or(0), range.limit()?);
    let lines = tail.sequence().after(&ops.pool, &filter, after, limit).await?;
    let list: Vec<&str> = lines.iter().map(Line::json).collect();
    Ok(HttpResponse::Ok().content_type("application/json").body(format!("[{}]", list.join(","))))
}

fn is_stream_wanted(request: &HttpRequest) -> bool {
    let accepts = request.headers().get(header::ACCEPT).and_then(|accepts| accepts.to_str().ok());
    accepts.is_some_and(|accepts| accepts.to_ascii_lowercase().contains("text/event-stream"))
}

/// What a client that comes back has seen last; it beats the address, which is that of its first request.
fn last_event_id(request: &HttpRequest) -> Result<Option<i64>, Refusal> {
    let Some(id) = request.headers().get("last-event-id") else { return Ok(None) };
    number("Last-Event-ID", Some(id.to_str().unwrap_or("?")))
}

/// One row's story. All parameters but the tenant's are columns of the key.
pub(super) async fn row(
    ops: web::Data<Ops>,
    table: web::Path<String>,
    given: web::Query<Vec<(String, String)>>,
) -> Result<HttpResponse, Refusal> {
    let (tenant, key) = row_address(given.into_inner())?;
    Ok(HttpResponse::Ok().json(Story::read(&ops.pool, &table, &key, tenant).await?))
}

/// The tenant and the key that an address names.
pub(super) fn row_address(given: Vec<(String, String)>) -> Result<(Option<Tenant>, GivenKey), Refusal> {
    let (mut company, mut customer, mut key) = (None, None, vec![]);
    for (name, value) in given {
        match name.as_str() {
            "company" => company = number("company", Some(&value))?,
            "customer" => customer = number("customer", Some(&value))?,
            _ => key.push((name, value)),
        }
    }
    Ok((Tenant::from_columns(company, customer), GivenKey::Named(key)))
}
