//! The support page: static files in the binary. They hold no data, so they need no token. The page
//! reads everything from the API, where its user signs in.

use axum::{
    Router,
    extract::Path,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use rust_embed::{EmbeddedFile, RustEmbed};

use super::Problem;

#[derive(RustEmbed)]
#[folder = "page/"]
struct Files;

/// Only files of usher's own and requests to it; no inline scripts or styles. In its frames only what the API says may be framed: mails.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      frame-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

pub(crate) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/page/words.json", get(|headers: HeaderMap| async move { words(&headers) }))
        .route("/", get(|headers: HeaderMap| async move { file("index.html", &headers) }))
        .route(
            "/page/{name}",
            get(
                |Path(name): Path<String>, headers: HeaderMap| async move { file(&name, &headers) },
            ),
        )
}

fn file(name: &str, headers: &HeaderMap) -> Response {
    let kind = match name.rsplit_once('.') {
        Some((_, "html")) => "text/html; charset=utf-8",
        Some((_, "css")) => "text/css; charset=utf-8",
        Some((_, "js")) => "text/javascript; charset=utf-8",
        Some((_, "json")) => "application/json",
        Some((_, "svg")) => "image/svg+xml",
        _ => return Problem::not_found().into_response(),
    };
    let Some(file) = Files::get(name) else { return Problem::not_found().into_response() };
    let tag = tag(&file);
    let is_known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| *known == tag);
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => file.data.into_response(),
    };
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // Revalidated each time, and sent again only by another version.
    answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer.insert(header::ETAG, tag);
    answer.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    response
}

/// The page's words in the language that the browser asks for, of those that there are files for.
fn words(headers: &HeaderMap) -> Response {
    let asked = headers.get(header::ACCEPT_LANGUAGE).and_then(|asked| asked.to_str().ok());
    let language = language(asked.unwrap_or_default());
    let mut response = file(&words_of(&language), headers);
    let answer = response.headers_mut();
    if let Ok(language) = HeaderValue::try_from(&language) {
        answer.insert(header::CONTENT_LANGUAGE, language);
    }
    answer.insert(header::VARY, HeaderValue::from_static("accept-language"));
    response
}

fn words_of(language: &str) -> String {
    format!("words.{language}.json")
}

/// The first language of an `Accept-Language` (RFC 9110 section 12.5.4) that there are words in, also without its
/// region; else English.
fn language(asked: &str) -> String {
    let weighted = asked.split(',').filter_map(|range| {
        let (tag, weight) = range.split_once(';').unwrap_or((range, "q=1"));
        let weight: f32 = weight.trim().strip_prefix("q=")?.parse().ok()?;
        (weight > 0.0).then(|| (tag.trim().to_ascii_lowercase(), weight))
    });
    let mut weighted: Vec<(String, f32)> = weighted.collect();
    weighted.sort_by(|one, other| other.1.total_cmp(&one.1));
    let found = weighted.iter().find_map(|(tag, _)| {
        let mut tags = std::iter::successors(Some(tag.as_str()), |tag| {
            tag.rsplit_once('-').map(|(shorter, _)| shorter)
        });
        tags.find(|tag| Files::get(&words_of(tag)).is_some())
    });
    found.unwrap_or("en").to_owned()
}

fn tag(file: &EmbeddedFile) -> HeaderValue {
    let tag = format!("\"{}\"", hex::encode(&file.metadata.sha256_hash()[..16]));
    // Only quotes and hex digits, so this can't fail.
    HeaderValue::try_from(tag).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;

    #[test]
    fn the_page_is_in_a_language_that_the_browser_asks_for() {
        for (asked, chosen) in [
            ("", "en"),
            ("es-MX,es;q=0.9,en;q=0.8", "es"),
            ("ar-EG", "ar"),
            ("fi, fr-CA;q=0.5, pt-BR;q=0.4", "fr"),
            ("EN-gb, es;q=0.5", "en"),
            ("fi, es;q=0.5, en;q=0.7", "en"),
            ("es;q=0, fi", "en"),
            ("../index, *", "en"),
        ] {
            assert_eq!(language(asked), chosen, "{asked}");
        }
    }

    #[test]
    fn every_language_has_all_words() {
        let words = |name: &str| -> Map<String, Value> {
            serde_json::from_slice(&Files::get(name).unwrap().data).unwrap()
        };
        let english = words("words.en.json");
        for name in Files::iter().filter(|name| name.ends_with(".json")) {
            for (word, meant) in &words(&name) {
                let place = |text: &Value| text.to_string().matches('{').count();
                let same = match (meant, &english[word]) {
                    // Plural forms are each language's own.
                    (Value::Object(own), Value::Object(all)) if all.contains_key("other") => {
                        own.contains_key("other")
                    }
                    (Value::Object(own), Value::Object(all)) => own.keys().eq(all.keys()),
                    (own, english) => own.is_string() && place(own) == place(english),
                };
                assert!(same, "{name}: {word}");
            }
            assert!(words(&name).keys().eq(english.keys()), "{name}");
        }
    }
}
