//! Settings of the gateway for text messages.

use super::{
    settings::Twilio,
    validate::{HOUR, MILLISECOND, Reader},
    values as v,
};

/// `None` if no account is set, or `SIMULATE` is `always`.
pub(super) fn sms(r: &mut Reader) -> Option<Twilio> {
    let account_sid = r.read("TWILIO_ACCOUNT_SID", v::line);
    let auth_token = r.read("TWILIO_AUTH_TOKEN", v::secret);
    let from = r.read("TWILIO_FROM", v::line);
    let base_url = r.value("TWILIO_BASE_URL", v::web_url);
    let timeout = r.value("TWILIO_TIMEOUT", v::duration_in(MILLISECOND..=HOUR));
    let connections = r.value("TWILIO_CONNECTIONS", v::number(1..=1000));
    let names = ["TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_FROM"];
    super::email::check_together(r, &names);
    let host = url::Url::parse(&base_url).ok();
    let host = host
        .filter(|url| url.scheme() == "http")
        .and_then(|url| url.host_str().map(ToOwned::to_owned));
    if let (Some(host), Some(_)) = (host.filter(|host| !v::is_loopback(host)), &account_sid) {
        r.report.warn("TWILIO_BASE_URL", format!("http sends the token to {host} unencrypted"));
    }
    let (account_sid, auth_token, from) = (account_sid?, auth_token?, from?);
    let twilio = Twilio { account_sid, auth_token, from, base_url, timeout, connections };
    let simulate = r.read("SIMULATE", v::line).unwrap_or_default();
    (!simulate.eq_ignore_ascii_case("always")).then_some(twilio)
}
