//! Pagination in the format of Django REST framework.

use axum::http::{HeaderMap, Uri, header};
use serde::{Deserialize, Serialize};
use url::form_urlencoded;
use utoipa::{IntoParams, ToSchema};

use crate::api::problem::{Fault, Problem};

/// Largest page size.
const MAX_PAGE_SIZE: u32 = 100;
/// Default page size.
const PAGE_SIZE: u32 = 20;
/// Last page that can be requested, since skipping takes time.
const MAX_PAGE: u32 = 10_000;

/// Selects a page.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Pages {
    /// Number of the page, from 1.
    #[param(minimum = 1, maximum = 10_000)]
    page: Option<u32>,
    /// Entries on one page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    page_size: Option<u32>,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// Total number of entries.
    count: u64,
    /// URL of the next page.
    next: Option<String>,
    /// URL of the previous page.
    previous: Option<String>,
    /// Entries of this page.
    results: Vec<T>,
}

impl Pages {
    /// The number of entries to skip, and the page size.
    pub fn window(&self) -> Result<(u64, u32), Problem> {
        let (page, size) = (self.page(), self.size());
        let fault = |field: &str, most| Fault {
            field: field.to_owned(),
            detail: format!("must be from 1 to {most}"),
        };
        let faults = [
            (!(1..=MAX_PAGE).contains(&page)).then(|| fault("page", MAX_PAGE)),
            (!(1..=MAX_PAGE_SIZE).contains(&size)).then(|| fault("page_size", MAX_PAGE_SIZE)),
        ];
        let faults: Vec<Fault> = faults.into_iter().flatten().collect();
        if !faults.is_empty() {
            return Err(Problem::invalid(faults));
        }
        Ok((u64::from(page - 1) * u64::from(size), size))
    }

    /// The page with these entries, out of `count`.
    ///
    /// # Errors
    /// The page is behind the last one.
    pub fn page_of<T>(
        &self,
        count: u64,
        results: Vec<T>,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Page<T>, Problem> {
        let (next, previous) = self.neighbours(count, uri, headers)?;
        Ok(Page { count, next, previous, results })
    }

    /// The URLs of the next and the previous page.
    ///
    /// # Errors
    /// The page is behind the last one.
    pub fn neighbours(
        &self,
        count: u64,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<(Option<String>, Option<String>), Problem> {
        let (page, size) = (self.page(), self.size());
        let last = count.div_ceil(u64::from(size)).max(1);
        if u64::from(page) > last {
            return Err(Problem::not_found());
        }
        let at = |page: u32| address(page, uri, headers);
        let next = (u64::from(page) < last && page < MAX_PAGE).then(|| at(page + 1));
        Ok((next, (page > 1).then(|| at(page - 1))))
    }

    fn page(&self) -> u32 {
        self.page.unwrap_or(1)
    }

    fn size(&self) -> u32 {
        self.page_size.unwrap_or(PAGE_SIZE)
    }
}

/// The URL of another page, as the client sees it in front of proxies.
fn address(page: u32, uri: &Uri, headers: &HeaderMap) -> String {
    let header =
        |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let scheme = header("x-forwarded-proto").filter(|scheme| *scheme == "https").unwrap_or("http");
    let place = header("host").map(|host| format!("{scheme}://{host}")).unwrap_or_default();
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("page", &page.to_string());
    let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let query = query.extend_pairs(pairs.filter(|(name, _)| name != "page")).finish();
    format!("{place}{}?{query}", uri.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_point_at_their_neighbours_and_there_is_none_behind_the_last() {
        let uri: Uri = "/api/contact/?page=2&page_size=10&q=%C3%B1%26".parse().unwrap();
        let headers = [(header::HOST, "usher.example.com".parse().unwrap())].into_iter().collect();
        let page = |page, count| {
            let pages = Pages { page: Some(page), page_size: Some(10) };
            pages.window().and_then(|_| pages.page_of(count, Vec::<u8>::new(), &uri, &headers))
        };
        let at = |page| {
            Some(format!(
                "http://usher.example.com/api/contact/?page={page}&page_size=10&q=%C3%B1%26"
            ))
        };
        let middle = page(2, 21).unwrap();
        assert_eq!((middle.count, middle.next, middle.previous), (21, at(3), at(1)));
        let last = page(3, 21).unwrap();
        assert_eq!((last.next, last.previous), (None, at(2)));
        assert!(page(1, 0).is_ok());
        assert!(page(4, 21).is_err() && page(0, 21).is_err() && page(10_001, u64::MAX).is_err());
    }
}
