//! Where a request comes from, as far as its headers tell. Pure.

use actix_web::http::header::{self, HeaderMap};

/// Whether the address that was asked for is this machine's own. A page of the internet can have a name of its own point
/// to this machine, and then read what is answered to that name; it cannot have it called localhost.
pub(super) fn is_local_host(headers: &HeaderMap) -> bool {
    // No header: no browser.
    let Some(host) = headers.get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a browser says that the request was made by a page of another site. Every browser of these years says where
/// requests that change something come from; programs say nothing.
pub(super) fn is_cross_site(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if text("sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return true;
    }
    let Some(origin) = text("origin") else { return false };
    let host = text("host").unwrap_or_default();
    origin.split_once("://").is_none_or(|(_, origin)| !origin.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("plain text"))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn only_names_of_this_machine_are_local() {
        for (host, expected) in [
            ("localhost:9090", true),
            ("LOCALHOST", true),
            ("mirror.localhost:1", true),
            ("127.0.0.1:9090", true),
            ("127.8.0.1", true),
            ("[::1]:9090", true),
            ("[::1]", true),
            ("evil.example:9090", false),
            ("localhost.evil.example", false),
            ("10.0.0.1:9090", false),
            ("", false),
        ] {
            assert_eq!(is_local_host(&headers(&[("host", host)])), expected, "{host}");
        }
        assert!(is_local_host(&headers(&[])));
    }

    #[test]
    fn a_page_of_another_site_is_told_from_our_own() {
        let host = ("host", "mirror.example:9090");
        for (more, expected) in [
            (vec![], false),
            (vec![("origin", "http://mirror.example:9090")], false),
            (vec![("origin", "https://mirror.example:9090"), ("sec-fetch-site", "same-origin")], false),
            (vec![("origin", "http://mirror.example")], true),
            (vec![("origin", "null")], true),
            (vec![("origin", "https://evil.example")], true),
            (vec![("sec-fetch-site", "cross-site")], true),
            (vec![("sec-fetch-site", "same-site")], true),
        ] {
            let all: Vec<_> = [host].into_iter().chain(more.clone()).collect();
            assert_eq!(is_cross_site(&headers(&all)), expected, "{more:?}");
        }
    }
}
