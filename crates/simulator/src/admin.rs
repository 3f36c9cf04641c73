//! The admin API: JSON over HTTP on a port of its own.

use std::{net::TcpListener, sync::Arc, time::Duration};

use actix_web::{HttpResponse, dev::ServerHandle, web};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::{Edit, Fault, Knobs, Oddities, Owner, SimulatorError, World, server, store::Store};

pub(super) fn serve(listener: TcpListener, world: Arc<World>) -> std::result::Result<ServerHandle, SimulatorError> {
    let world = web::Data::from(world);
    server::start(listener, move |config| {
        config
            .app_data(world.clone())
            .app_data(web::JsonConfig::default().limit(64 * 1024 * 1024))
            .route("/healthz", web::get().to(|| async { HttpResponse::Ok().json(json!({ "status": "alive" })) }))
            .route("/counters", web::get().to(counters))
            .route("/counters/reset", web::post().to(reset))
            .route("/rows", web::post().to(change_rows))
            .route("/rows/{level}/{no}/{table}", web::get().to(rows))
            .route("/generate", web::post().to(generate))
            .route("/burst", web::post().to(burst))
            .route("/notify", web::post().to(notify))
            .route("/faults", web::post().to(add_fault))
            .route("/faults", web::delete().to(clear_faults))
            .route("/knobs", web::get().to(show_knobs))
            .route("/knobs", web::put().to(set_knobs))
            .route("/oddities", web::get().to(show_oddities))
            .route("/oddities", web::put().to(set_oddities))
            .route("/columns", web::post().to(columns))
            .route("/tables", web::post().to(tables))
            .route("/read-lag", web::put().to(read_lag));
    })
}

type Result<T = HttpResponse> = std::result::Result<T, AdminError>;

/// An error as an answer.
#[derive(Debug)]
struct AdminError(SimulatorError);

impl std::fmt::Display for AdminError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl actix_web::ResponseError for AdminError {
    fn error_response(&self) -> HttpResponse {
        HttpResponse::BadRequest().json(json!({ "error": self.0.to_string() }))
    }
}

impl From<SimulatorError> for AdminError {
    fn from(error: SimulatorError) -> Self {
        Self(error)
    }
}

fn done() -> HttpResponse {
    HttpResponse::Ok().json(json!({ "status": "done" }))
}

async fn counters(world: web::Data<World>) -> HttpResponse {
    HttpResponse::Ok().json(json!({
        "api": world.limits.counters(&world.faults), "webhooks": world.sender.counters(),
    }))
}

async fn reset(world: web::Data<World>) -> HttpResponse {
    world.limits.reset();
    done()
}

#[derive(Deserialize)]
struct RowChange {
    owner: Owner,
    table: String,
    /// Rows to insert or update.
    #[serde(default)]
    put: Vec<Map<String, Json>>,
    /// Keys to delete.
    #[serde(default)]
    delete: Vec<Map<String, Json>>,
    #[serde(default = "yes")]
    notify: bool,
    /// All at one time, as an edit session saves them; deleted first.
    #[serde(default)]
    session: bool,
}

fn yes() -> bool {
    true
}

async fn change_rows(change: web::Json<RowChange>, world: web::Data<World>) -> Result {
    let put = change.put.iter().map(|row| Edit::Put(change.owner, change.table.clone(), row.clone()));
    let delete = change.delete.iter().map(|key| Edit::Delete(change.owner, change.table.clone(), key.clone()));
    let (in_session, one_by_one) = (delete.clone().chain(put.clone()), put.chain(delete));
    world.change(change.notify, |store| match change.session {
        true => store.save(in_session),
        false => one_by_one.map(|edit| store.edit(&edit)).collect(),
    })?;
    Ok(done())
}

async fn rows(path: web::Path<(String, i64, String)>, world: web::Data<World>) -> Result {
    let (level, no, table) = path.into_inner();
    let owner = if level == "customer" { Owner::Customer(no) } else { Owner::Company(no) };
    Ok(HttpResponse::Ok().json(world.store().rows(owner, &table)?))
}

#[derive(Deserialize)]
struct Generate {
    owner: Owner,
    table: String,
    /// First number of the key's last column.
    #[serde(default)]
    from: i64,
    count: i64,
    #[serde(default)]
    notify: bool,
}

/// A row whose key is made from a number: integers are the number, texts contain it.
fn numbered_row(store: &Store, table: &str, number: i64) -> std::result::Result<Map<String, Json>, SimulatorError> {
    let table = store.table(table)?;
    let mut row = Map::new();
    for (position, &index) in table.key.iter().enumerate() {
        let column = &table.columns[index];
        let value = match column.scalar.as_str() {
            "String" => Json::from(format!("Nr {number:07}")),
            _ if position + 1 < table.key.len() => Json::from(number / 10 + 1),
            _ => Json::from(number),
        };
        row.insert(column.name.clone(), value);
    }
    for column in table.columns.iter().filter(|column| !column.key) {
        match (column.scalar.as_str(), column.name.as_str()) {
            (_, name) if name.starts_with("changed") || name.starts_with("created") => {}
            ("String", name) => {
                row.insert(column.name.clone(), format!("{name} {number} æøå").into());
            }
            ("Decimal", _) => {
                let text = format!("{}.{:04}", number * 7 % 100_000, number % 10_000);
                row.insert(column.name.clone(), text.parse::<serde_json::Number>().map_or(Json::Null, Json::Number));
            }
            _ => {}
        }
    }
    Ok(row)
}

async fn generate(order: web::Json<Generate>, world: web::Data<World>) -> Result {
    world.change(order.notify, |store| {
        let mut changes = Vec::new();
        for number in order.from..order.from + order.count {
            let row = numbered_row(store, &order.table, number)?;
            let change = store.put(order.owner, &order.table, &row)?;
            if order.notify {
                changes.push(change);
            }
        }
        Ok(changes)
    })?;
    Ok(done())
}

#[derive(Deserialize)]
struct Burst {
    owner: Owner,
    table: String,
    #[serde(default)]
    from: i64,
    /// Rows that are changed, in turn.
    rows: i64,
    /// Changes, each with its notification.
    count: i64,
}

async fn burst(order: web::Json<Burst>, world: web::Data<World>) -> Result {
    world.change(true, |store| {
        let changes = (0..order.count).map(|turn| {
            let row = numbered_row(store, &order.table, order.from + turn % order.rows.max(1))?;
            store.put(order.owner, &order.table, &row)
        });
        changes.collect()
    })?;
    Ok(done())
}

/// `{"body": "..."}` for any body, or `{"owner": ..., "table": ..., "key": {...}}` for a row as it is.
async fn notify(order: web::Json<Json>, world: web::Data<World>) -> Result {
    if let Some(body) = order.get("body").and_then(Json::as_str) {
        world.sender.send_raw(body.to_owned());
        return Ok(done());
    }
    let owner = serde_json::from_value(order["owner"].clone());
    let owner = owner.map_err(|error| SimulatorError::BadValue(error.to_string()))?;
    let table = order["table"].as_str().unwrap_or_default();
    let key = order["key"].as_object().cloned().unwrap_or_default();
    let change = world.store().as_change(owner, table, &key)?;
    world.sender.announce(&change);
    Ok(done())
}

async fn add_fault(fault: web::Json<Fault>, world: web::Data<World>) -> HttpResponse {
    world.faults.add(fault.into_inner());
    done()
}

async fn clear_faults(world: web::Data<World>) -> HttpResponse {
    world.faults.clear();
    done()
}

async fn show_knobs(world: web::Data<World>) -> HttpResponse {
    HttpResponse::Ok().json(world.sender.current_knobs())
}

async fn set_knobs(knobs: web::Json<Knobs>, world: web::Data<World>) -> HttpResponse {
    world.sender.set_knobs(|own| *own = knobs.into_inner());
    done()
}

async fn show_oddities(world: web::Data<World>) -> HttpResponse {
    HttpResponse::Ok().json(world.odd.current())
}

async fn set_oddities(oddities: web::Json<Oddities>, world: web::Data<World>) -> Result {
    world.into_inner().change_oddities(|own| *own = oddities.into_inner())?;
    Ok(done())
}

#[derive(Deserialize)]
struct TableChange {
    table: String,
    hidden: bool,
}

async fn tables(change: web::Json<TableChange>, world: web::Data<World>) -> Result {
    world.store().hide_table(&change.table, change.hidden)?;
    world.into_inner().rebuild_schema()?;
    Ok(done())
}

#[derive(Deserialize)]
struct ColumnChange {
    table: String,
    name: String,
    /// Scalar of a new column; without it the column is hidden.
    scalar: Option<String>,
    /// The customer's own.
    #[serde(default)]
    extension: bool,
}

async fn columns(change: web::Json<ColumnChange>, world: web::Data<World>) -> Result {
    match &change.scalar {
        Some(scalar) => world.store().add_column(&change.table, &change.name, scalar, change.extension)?,
        None => world.store().change_column(&change.table, &change.name, |column| column.hidden = true)?,
    }
    world.clone().into_inner().rebuild_schema()?;
    Ok(done())
}

#[derive(Deserialize)]
struct ReadLag {
    millis: u64,
}

async fn read_lag(lag: web::Json<ReadLag>, world: web::Data<World>) -> HttpResponse {
    world.store().set_read_lag(Duration::from_millis(lag.millis));
    done()
}
