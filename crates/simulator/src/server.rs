//! The API over HTTP: what the gateway does, then what GraphQL does.

use std::{io::Write, net::TcpListener, sync::Arc, time::Duration};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    dev::ServerHandle,
    http::{
        StatusCode,
        header::{self, HeaderName, HeaderValue},
    },
    web::{self, Bytes},
};
use async_graphql::{Request, Response, Variables};
use flate2::{Compression, write::GzEncoder};
use futures_util::{future::join_all, stream};
use serde_json::{Value as Json, json};

use super::{SimulatorError, World, fault::FaultKind, limits::Scope, problem::FieldErrors, token};

/// Operations in one batch (release note 2024-05-23).
const BATCH_MAX: usize = 32;
const BODY_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How long a connection is kept while nothing is asked, as servers commonly do. The library's five seconds would cut off
/// requests on a busy machine.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
const A_SECOND: Duration = Duration::from_secs(1);
const UNAUTHORIZED: &str = "<html>\r\n<head><title>401 Authorization Required</title></head>\r\n<body>\r\n\
    <center><h1>401 Authorization Required</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n";

pub(super) fn serve(listener: TcpListener, world: Arc<World>) -> Result<ServerHandle, SimulatorError> {
    let world = web::Data::from(world);
    start(listener, move |config| {
        config
            .app_data(world.clone())
            .app_data(web::PayloadConfig::new(BODY_BYTES_MAX))
            .route("/connect/token", web::post().to(token::grant))
            .route("/api/graphql-service", web::post().to(graphql));
    })
}

/// Serves on a listener from a task of its own.
pub(super) fn start(
    listener: TcpListener,
    configure: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> Result<ServerHandle, SimulatorError> {
    let address = listener.local_addr().unwrap_or_else(|_| ([0, 0, 0, 0], 0).into());
    let server = HttpServer::new(move || App::new().configure(configure.clone()))
        .workers(2)
        .keep_alive(KEEP_ALIVE)
        .disable_signals()
        .shutdown_timeout(1)
        .listen(listener)
        .map_err(|source| SimulatorError::Listen { address, source })?
        .run();
    let handle = server.handle();
    tokio::spawn(server);
    Ok(handle)
}

fn unauthorized() -> HttpResponse {
    HttpResponse::Unauthorized().content_type("text/html").body(UNAUTHORIZED)
}

/// An answer with the trace that the gateway gives to each, whatever its status.
async fn graphql(request: HttpRequest, body: Bytes, world: web::Data<World>) -> HttpResponse {
    let mut answer = answer(request, body, world).await;
    let trace = HeaderValue::try_from(format!("{:032x}", rand::random::<u128>())).expect("digits");
    answer.headers_mut().insert(HeaderName::from_static("x-vbc-traceid"), trace);
    answer
}

async fn answer(request: HttpRequest, body: Bytes, world: web::Data<World>) -> HttpResponse {
    let too_many = |pause: Option<Duration>| {
        let mut answer = HttpResponse::TooManyRequests();
        if let Some((value, pause)) = pause.and_then(|pause| world.odd.current().retry_after.value(pause)) {
            world.limits.close(pause);
            answer.insert_header((header::RETRY_AFTER, value));
        }
        answer.content_type("text/html").body("<html>429 Too Many Requests</html>")
    };
    if !world.tokens.allow(&request) {
        return unauthorized();
    }
    if !world.limits.admit() {
        return too_many(Some(A_SECOND));
    }
    if let Some(left) = world.limits.closed() {
        return too_many(Some(left));
    }
    let early = [
        FaultKind::Unauthorized,
        FaultKind::TooMany,
        FaultKind::TooManyRetryAfter,
        FaultKind::InProgress,
        FaultKind::ServerError,
        FaultKind::Unavailable,
        FaultKind::Html,
    ];
    let fault = world.faults.take(&early, None);
    let pause = fault.as_ref().map(|fault| Duration::from_millis(fault.millis)).filter(|pause| !pause.is_zero());
    match fault.map(|fault| fault.kind) {
        Some(FaultKind::Unauthorized) => {
            world.tokens.revoke_all();
            return unauthorized();
        }
        Some(FaultKind::TooMany) => return too_many(None),
        Some(FaultKind::TooManyRetryAfter) => return too_many(pause.or(Some(A_SECOND))),
        Some(FaultKind::InProgress) => {
            return HttpResponse::Ok().json(json!({ "errors": [{
                "message": "Company 1234567 has 60 requests in progress. Limit is 60.",
                "extensions": { "code": "OUTSTANDING_LIMIT_EXCEEDED", "limit": 60 },
            }]}));
        }
        Some(FaultKind::ServerError) => return HttpResponse::InternalServerError().body("<html>500</html>"),
        Some(FaultKind::Unavailable) => return HttpResponse::ServiceUnavailable().body("<html>503</html>"),
        Some(FaultKind::Html) => return HttpResponse::Ok().content_type("text/html").body("<html>maintenance</html>"),
        _ => {}
    }
    match serde_json::from_slice::<Json>(&body) {
        Ok(Json::Array(batch)) if batch.len() > BATCH_MAX => {
            HttpResponse::Ok().json(json!({ "errors": [{ "message": "The batch is too long." }] }))
        }
        Ok(Json::Array(batch)) => {
            let scope = world.limits.scope();
            let answers = join_all(batch.iter().map(|one| execute(&world, &scope, one))).await;
            finish(&world, &request, &scope, Json::Array(answers).to_string())
        }
        Ok(one) => {
            let scope = world.limits.scope();
            let answer = execute(&world, &scope, &one).await;
            finish(&world, &request, &scope, answer.to_string())
        }
        Err(error) => HttpResponse::BadRequest().body(error.to_string()),
    }
}

/// The finished answer, unless something happens to it on the way.
fn finish(world: &World, request: &HttpRequest, scope: &Scope, text: String) -> HttpResponse {
    if scope.is_doomed() {
        return HttpResponse::InternalServerError().body("<html>500</html>");
    }
    let text = world.odd.sent(text);
    let half = text.len() / 2;
    let half = (0..=half).rev().find(|&index| text.is_char_boundary(index)).unwrap_or(0);
    let late = [FaultKind::Dropped, FaultKind::Truncated];
    match world.faults.take(&late, None).map(|fault| fault.kind) {
        Some(FaultKind::Dropped) => {
            let start = Ok(Bytes::from(text[..half].to_owned()));
            let end = Err(std::io::Error::other("dropped"));
            HttpResponse::build(StatusCode::OK).content_type("application/json").streaming(stream::iter([start, end]))
        }
        Some(_) => HttpResponse::Ok().content_type("application/json").body(text[..half].to_owned()),
        None => encoded(world, request, text),
    }
}

/// The whole answer, compressed or not.
fn encoded(world: &World, request: &HttpRequest, text: String) -> HttpResponse {
    let odd = world.odd.current();
    let mut answer = HttpResponse::Ok();
    answer.content_type("application/json");
    let offered = request.headers().get(header::ACCEPT_ENCODING).and_then(|offered| offered.to_str().ok());
    if let Some(encoding) = odd.encoding {
        answer.insert_header((header::CONTENT_ENCODING, encoding)).body(text)
    } else if odd.gzip && offered.is_some_and(|offered| offered.contains("gzip")) {
        world.limits.compressed();
        let mut encoder = GzEncoder::new(vec![], Compression::fast());
        encoder.write_all(text.as_bytes()).expect("memory takes everything");
        let bytes = encoder.finish().expect("memory takes everything");
        answer.insert_header((header::CONTENT_ENCODING, "gzip")).body(bytes)
    } else {
        answer.body(text)
    }
}

async fn execute(world: &World, scope: &Scope, one: &Json) -> Json {
    world.faults.hang_description(&one.to_string()).await;
    let mut request = Request::new(one["query"].as_str().unwrap_or_default());
    let name = one["operationName"].as_str();
    world.limits.was_asked(name.unwrap_or_default());
    if let Some(name) = name {
        request = request.operation_name(name);
    }
    // Documentation shows variables both as an object and as a string of one.
    let variables = match &one["variables"] {
        Json::String(text) => serde_json::from_str(text).unwrap_or(Json::Null),
        other => other.clone(),
    };
    if !variables.is_null() {
        request = request.variables(Variables::from_json(variables));
    }
    let schema = world.schema.read().clone();
    let field_errors = FieldErrors::default();
    let response = schema.execute(request.data(scope.clone()).data(field_errors.clone())).await;
    if response.data == async_graphql::Value::Null && !response.errors.is_empty() {
        world.limits.was_invalid();
    }
    to_json(world, response, field_errors.take())
}

fn to_json(world: &World, response: Response, field_errors: Vec<Json>) -> Json {
    let mut errors: Vec<Json> = response.errors.iter().map(error).chain(field_errors).collect();
    if world.odd.current().errors_without_paths {
        for error in errors.iter_mut().filter_map(Json::as_object_mut) {
            error.retain(|name, _| name != "path" && name != "locations");
        }
    }
    let mut data = response.data.into_json().unwrap_or(Json::Null);
    if world.faults.take(&[FaultKind::WrongShape], None).is_some() {
        lose_items(&mut data);
    }
    let mut answer =
        json!({ "data": data, "extensions": { "vbnxt-trace-id": format!("{:032x}", rand::random::<u128>()) } });
    if !errors.is_empty() {
        answer["errors"] = errors.into();
        if answer["data"].is_null() {
            answer.as_object_mut().expect("an object").remove("data");
        }
    }
    answer
}

fn lose_items(json: &mut Json) {
    match json {
        Json::Object(fields) => {
            for (name, value) in fields {
                if name == "items" { *value = Json::Null } else { lose_items(value) }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(lose_items),
        _ => {}
    }
}

/// An error of the library as the documentation shows those of validation, with a code.
fn error(error: &async_graphql::ServerError) -> Json {
    let extensions = error.extensions.as_ref();
    let mut json = serde_json::to_value(error).unwrap_or(Json::Null);
    if let Some(rest) = error.message.strip_prefix("Unknown field ") {
        json["message"] =
            format!("GraphQL.Validation.Errors.FieldsOnCorrectTypeError: Cannot query field {rest}").into();
        json["extensions"] = json!({ "code": "FIELDS_ON_CORRECT_TYPE", "codes": ["FIELDS_ON_CORRECT_TYPE"] });
    } else if error.path.is_empty() && extensions.is_none() {
        json["extensions"] = json!({ "code": "INVALID_VALUE", "codes": ["INVALID_VALUE"] });
    }
    json
}
