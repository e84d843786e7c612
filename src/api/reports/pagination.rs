//! Long lists, page by page, as Django REST framework shows them.

use axum::http::{HeaderMap, Uri, header};
use serde::{Deserialize, Serialize};
use url::form_urlencoded;
use utoipa::{IntoParams, ToSchema};

use crate::api::problem::{Fault, Problem};

/// Most on one page.
const LARGEST_PAGE: u32 = 100;
/// How many are on one unless the caller says.
const PAGE_SIZE: u32 = 20;
/// How far back anybody may look: what has to be skipped takes time.
const LAST_PAGE: u32 = 10_000;

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Pages {
    /// Which page, from 1.
    #[param(minimum = 1, maximum = 10_000)]
    page: Option<u32>,
    /// How many are on one.
    #[param(minimum = 1, maximum = 100, default = 20)]
    page_size: Option<u32>,
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// How many there are in all.
    count: u64,
    /// Where the next page is.
    next: Option<String>,
    /// Where the page before is.
    previous: Option<String>,
    /// What is on this one.
    results: Vec<T>,
}

impl Pages {
    /// How many come before the page, and how many are on it.
    ///
    /// # Errors
    /// There is no such page.
    pub fn window(&self) -> Result<(u64, u32), Problem> {
        let (page, size) = (self.page(), self.size());
        let fault = |field: &str, most| Fault {
            field: field.to_owned(),
            detail: format!("must be from 1 to {most}"),
        };
        let faults = [
            (!(1..=LAST_PAGE).contains(&page)).then(|| fault("page", LAST_PAGE)),
            (!(1..=LARGEST_PAGE).contains(&size)).then(|| fault("page_size", LARGEST_PAGE)),
        ];
        let faults: Vec<Fault> = faults.into_iter().flatten().collect();
        if !faults.is_empty() {
            return Err(Problem::invalid(faults));
        }
        Ok((u64::from(page - 1) * u64::from(size), size))
    }

    /// The page with these on it, of so many in all.
    ///
    /// # Errors
    /// It lies behind the last one.
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

    /// Where the next page and the one before are, of so many entries in all.
    ///
    /// # Errors
    /// The page lies behind the last one.
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
        let next = (u64::from(page) < last && page < LAST_PAGE).then(|| at(page + 1));
        Ok((next, (page > 1).then(|| at(page - 1))))
    }

    fn page(&self) -> u32 {
        self.page.unwrap_or(1)
    }

    fn size(&self) -> u32 {
        self.page_size.unwrap_or(PAGE_SIZE)
    }
}

/// Another page of what was asked for, as the caller sees it in front of whatever is in between.
fn address(page: u32, uri: &Uri, headers: &HeaderMap) -> String {
    let header =
        |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok());
    let scheme = header("x-forwarded-proto").filter(|scheme| *scheme == "https").unwrap_or("http");
    let place = header("host").map(|host| format!("{scheme}://{host}")).unwrap_or_default();
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("page", &page.to_string());
    let asked = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let query = query.extend_pairs(asked.filter(|(name, _)| name != "page")).finish();
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
