//! Style sheet and script: part of the binary, under names that change with what they hold, so that browsers keep them.

use std::sync::LazyLock;

use actix_web::{HttpResponse, http::header, web};
use sha2::{Digest, Sha256};

use crate::ops::refusal::Refusal;

/// A file of the pages.
pub(super) struct Asset {
    /// Where it is served.
    pub(super) path: String,
    content_type: &'static str,
    text: &'static str,
}

/// How the pages look.
pub(super) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("css", "text/css; charset=utf-8", include_str!("style.css")));
/// How they follow live.
pub(super) static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("js", "text/javascript; charset=utf-8", include_str!("live.js")));
/// The mark in the browser's tab.
pub(super) static MARK: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("svg", "image/svg+xml", include_str!("mark.svg")));

impl Asset {
    fn new(extension: &str, content_type: &'static str, text: &'static str) -> Self {
        let digest = Sha256::digest(text);
        let name = digest.iter().take(8).fold(String::new(), |name, byte| format!("{name}{byte:02x}"));
        Self { path: format!("/assets/{name}.{extension}"), content_type, text }
    }
}

/// One of them. What has this name never changes.
pub(in crate::ops) async fn asset(name: web::Path<String>) -> Result<HttpResponse, Refusal> {
    let path = format!("/assets/{name}");
    let assets = [&*STYLE, &*SCRIPT, &*MARK];
    let asset = assets.into_iter().find(|asset| asset.path == path).ok_or(Refusal::NothingHere)?;
    Ok(HttpResponse::Ok()
        .content_type(asset.content_type)
        .insert_header((header::CACHE_CONTROL, "public, max-age=31536000, immutable"))
        .body(asset.text))
}
