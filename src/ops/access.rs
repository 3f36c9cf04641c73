//! Who may ask: the bearer of the token, or a browser with a session that began with it. Without a token the listener is
//! on loopback, and whoever is there may look.

use std::{
    fmt,
    future::{Ready, ready},
    net::{IpAddr, Ipv4Addr},
};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse, ResponseError,
    body::MessageBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
    http::{
        ConnectionType, Method,
        header::{self, HeaderMap},
    },
    middleware::Next,
    web,
};
use secrecy::SecretString;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Ops, origin, pages, refusal::Refusal, secret};

/// The cookie of a session.
pub(super) const COOKIE: &str = "nxt_session";
/// Paths for container health checks, which nothing guards.
const OPEN: [&str; 2] = ["/healthz", "/readyz"];
/// Paths that must be reachable without a token: by which one logs in. What is under the second one is part of the
/// published program.
const BEFORE_LOGIN: [&str; 2] = ["/login", "/assets/"];

/// How somebody has shown that he may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// The token itself.
    Token,
    /// A session that began with it.
    Session,
}

/// Who asks for an action.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    proof: Proof,
    address: IpAddr,
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let proof = match self.proof {
            Proof::Token => "token",
            Proof::Session => "session",
        };
        write!(f, "asked by {proof} from {}", self.address)
    }
}

/// Only who has shown the token, or has a session, may ask for what a handler with this argument does.
impl FromRequest for Asker {
    type Error = Refusal;
    type Future = Ready<Result<Self, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(request.extensions().get::<Self>().copied().ok_or(Refusal::NoToken))
    }
}

/// Whether the reader could ask for actions, so that pages offer them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MayAct(pub(super) bool);

impl FromRequest for MayAct {
    type Error = Refusal;
    type Future = Ready<Result<Self, Refusal>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Ok(Self(request.extensions().get::<Asker>().is_some())))
    }
}

/// Lets through who may ask. Goes around everything else, so that strangers learn nothing of what there is, and hangs up
/// on them after one answer.
pub(super) async fn gate(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse, actix_web::Error> {
    let wants_page = is_page_request(&request);
    let ops = request.app_data::<web::Data<Ops>>().expect("the listener has its data").clone();
    let admitted = admit(&request, &ops);
    let is_known = match &admitted {
        Ok(Some(_)) => true,
        Ok(None) => ops.token.is_none(),
        Err(_) => false,
    };
    let mut response = answer(admitted, wants_page, request, next).await?;
    if !is_known {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

async fn answer(
    admitted: Result<Option<Asker>, Refusal>,
    wants_page: bool,
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse, actix_web::Error> {
    match admitted {
        Ok(asker) => {
            if let Some(asker) = asker {
                request.extensions_mut().insert(asker);
            }
            let response = next.call(request).await?.map_into_boxed_body();
            let Some(error) = response.response().error() else { return Ok(response) };
            let of_library = Refusal::of_library(response.status());
            let refusal = error.as_error::<Refusal>().unwrap_or(&of_library);
            let answer = if wants_page { pages::refused(refusal) } else { refusal.error_response() };
            Ok(response.into_response(answer))
        }
        Err(Refusal::Unauthorized) if wants_page => {
            let to_login = HttpResponse::SeeOther().insert_header((header::LOCATION, "/login")).finish();
            Ok(request.into_response(to_login))
        }
        Err(refusal) => Ok(request.error_response(refusal).map_into_boxed_body()),
    }
}

fn admit(request: &ServiceRequest, ops: &Ops) -> Result<Option<Asker>, Refusal> {
    let (path, headers) = (request.path(), request.headers());
    if OPEN.contains(&path) {
        return Ok(None);
    }
    let Some(token) = &ops.token else {
        return if origin::is_local_host(headers) { Ok(None) } else { Err(Refusal::ForeignHost) };
    };
    let address = address(request.request());
    if has_token(headers, token) {
        return Ok(Some(Asker { proof: Proof::Token, address }));
    }
    if session(headers).is_some_and(|id| ops.sessions.lasts(id, Instant::now())) {
        if !request.method().is_safe() && origin::is_cross_site(headers) {
            return Err(Refusal::CrossSite);
        }
        return Ok(Some(Asker { proof: Proof::Session, address }));
    }
    if BEFORE_LOGIN.iter().any(|open| path == *open || (open.ends_with('/') && path.starts_with(open))) {
        return Ok(None);
    }
    Err(Refusal::Unauthorized)
}

/// A person who opens a page is better helped by the form than by a refusal.
fn is_page_request(request: &ServiceRequest) -> bool {
    let accepts = request.headers().get(header::ACCEPT).and_then(|accepts| accepts.to_str().ok()).unwrap_or_default();
    request.method() == Method::GET && accepts.contains("text/html") && !request.path().starts_with("/api/")
}

/// Where a request comes from: the connection's other end, whatever headers say.
pub(super) fn address(request: &HttpRequest) -> IpAddr {
    request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip().to_canonical())
}

fn has_token(headers: &HeaderMap, token: &SecretString) -> bool {
    let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    given.and_then(bearer).is_some_and(|given| secret::is(given, token))
}

/// The token of `Bearer TOKEN`, the scheme in any case.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The session that a cookie names.
pub(super) fn session(headers: &HeaderMap) -> Option<Uuid> {
    let lines = headers.get_all(header::COOKIE).filter_map(|line| line.to_str().ok());
    let cookies = lines.flat_map(|line| line.split(';')).filter_map(|cookie| cookie.trim().split_once('='));
    cookies.filter(|(name, _)| *name == COOKIE).find_map(|(_, id)| Uuid::try_parse(id).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_is_read_in_any_case() {
        for value in ["Bearer x", "bearer x", "BEARER  x ", " Bearer x"] {
            assert_eq!(bearer(value), Some("x"), "{value:?}");
        }
        for value in ["x", "Basic x", "Bearer", "Bearerx"] {
            assert_eq!(bearer(value), None, "{value:?}");
        }
    }
}
