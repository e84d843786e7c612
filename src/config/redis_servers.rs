//! The servers that a Redis URL names: one, several of which one is the primary, or Sentinels.

use url::Url;

use super::values::{Parsed, urls_of_hosts};

const SCHEMES: [&str; 2] = ["redis", "rediss"];

const SENTINEL_PORT: u16 = 26379;

/// Where the primary is.
#[derive(Clone)]
pub(crate) enum RedisServers {
    /// One of these.
    Listed(Vec<Url>),
    /// The Sentinels know.
    Sentinels {
        sentinels: Vec<Url>,
        /// Under which name they watch it.
        name: String,
        /// Its login and database. Host and port are of a Sentinel.
        primary: Url,
    },
}

/// `redis://LOGIN@HOST,HOST/DB`, or `redis+sentinel://LOGIN@SENTINEL,SENTINEL/NAME/DB`, where the login is
/// Redis's; that of the Sentinels is in `sentinel_username` and `sentinel_password`.
pub(crate) fn redis_servers(text: &str) -> Parsed<RedisServers> {
    let (scheme, rest) = text.split_once("://").unwrap_or((text, ""));
    let Some(scheme) = scheme.strip_suffix("+sentinel") else {
        return urls_of_hosts(text, &SCHEMES).map(RedisServers::Listed);
    };
    let mut sentinels = urls_of_hosts(&format!("{scheme}://{rest}"), &SCHEMES)?;
    let mut primary = sentinels.first().cloned().ok_or("must name a host")?;
    let mut path = primary.path_segments().into_iter().flatten().map(ToOwned::to_owned);
    let name = path.next().filter(|name| !name.is_empty()).ok_or(
        "must name what the Sentinels watch, such as redis+sentinel://host:26379/mymaster",
    )?;
    let database = path.next().unwrap_or_default();
    drop(path);
    if !database.is_empty() && database.parse::<u32>().is_err() {
        return Err("must have a number as database behind the name".to_owned());
    }
    let (mut username, mut password) = (String::new(), None);
    for (option, value) in primary.clone().query_pairs() {
        match &*option {
            "sentinel_username" => username = value.into_owned(),
            "sentinel_password" => password = Some(value.into_owned()),
            _ => {
                return Err(
                    "has an option other than sentinel_username and sentinel_password".into()
                );
            }
        }
    }
    let no_login = |()| "cannot hold a login".to_owned();
    for url in &mut sentinels {
        url.set_path("");
        url.set_query(None);
        url.set_username(&username).map_err(no_login)?;
        // `set_password` takes `%` for the beginning of an escape.
        let password = password.as_ref().map(|password| password.replace('%', "%25"));
        url.set_password(password.as_deref()).map_err(no_login)?;
        url.set_port(url.port().or(Some(SENTINEL_PORT))).map_err(no_login)?;
    }
    primary.set_path(&database);
    primary.set_query(None);
    Ok(RedisServers::Sentinels { sentinels, name, primary })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_one_server_several_or_sentinels() {
        let text = |urls: &[Url]| urls.iter().map(Url::to_string).collect::<Vec<_>>().join(" ");
        let RedisServers::Listed(listed) = redis_servers("rediss://:p%40@a:1,[::1]/2").unwrap()
        else {
            panic!("no Sentinels");
        };
        assert_eq!(text(&listed), "rediss://:p%40@a:1/2 rediss://:p%40@[::1]/2");
        let watched = redis_servers(
            "redis+sentinel://u:p@a,b:1/films/3?sentinel_username=s&sentinel_password=100%25%26",
        );
        let RedisServers::Sentinels { sentinels, name, primary } = watched.unwrap() else {
            panic!("Sentinels");
        };
        assert_eq!(text(&sentinels), "redis://s:100%25&@a:26379 redis://s:100%25&@b:1");
        assert_eq!((&*name, primary.as_str()), ("films", "redis://u:p@a/3"));
    }

    #[test]
    fn a_url_that_can_not_be_meant_is_refused() {
        for text in [
            "http://a",
            "redis://a,,b",
            "redis+sentinel://a",
            "redis+sentinel:///films",
            "redis+sentinel://a/films/x",
            "redis+sentinel://a/films?sentinal_password=x",
            "redis+cluster://a/films",
        ] {
            assert!(redis_servers(text).is_err(), "{text}");
        }
    }
}
