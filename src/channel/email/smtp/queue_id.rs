//! The server's own name for a mail that it accepted, as its reply to the dot has it. RFC 5321 gives it
//! no form, so each server writes it in its own.

use super::reply::Reply;

/// Longer words are no ids.
const MAX: usize = 128;

/// The id, if the reply is a 2xx in one of the known forms.
pub(super) fn queue_id(reply: &Reply) -> Option<String> {
    if reply.code / 100 != 2 {
        return None;
    }
    // The forms begin in the first line; some servers repeat the enhanced code in each.
    let text = reply.lines.join(" ");
    let text = match reply.enhanced() {
        Some(code) => text.trim_start().strip_prefix(&code.to_string()).unwrap_or(&text),
        None => &text,
    };
    // Postfix, SendGrid, Mailpit; Exim; Exchange.
    for mark in ["queued as ", "id=", "internalid="] {
        if let Some(found) = behind(text, mark) {
            return Some(found);
        }
    }
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    match *words.as_slice() {
        // Sendmail, OpenSMTPD.
        [id, message, "accepted", "for", "delivery", ..]
            if message.eq_ignore_ascii_case("message") =>
        {
            as_id(id)
        }
        // Amazon SES. A single word of text would be no id.
        [ok, id] if ok.eq_ignore_ascii_case("ok") && id.bytes().any(|b| b.is_ascii_digit()) => {
            as_id(id)
        }
        // Gmail: a time, the id, and its name.
        [ok, _, id, "-", "gsmtp"] if ok.eq_ignore_ascii_case("ok") => as_id(id),
        // qmail: a time, "qp", and a process.
        [ok, time, "qp", process] if ok.eq_ignore_ascii_case("ok") => {
            Some(format!("{} qp {}", as_id(time)?, as_id(process)?))
        }
        _ => None,
    }
}

/// The word behind the mark, where the mark begins a word.
fn behind(text: &str, mark: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let begins_word = |at: usize| !lower[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
    let (at, _) = lower.match_indices(mark).find(|(at, _)| begins_word(*at))?;
    as_id(text[at + mark.len()..].split_ascii_whitespace().next()?)
}

/// A word without what surrounds it. One with an `@` may be an address and is left out.
fn as_id(word: &str) -> Option<String> {
    let id = word.split([',', ';', ']', ')', '>']).next()?;
    let id = id.trim_start_matches(['<', '(', '[', '"']).trim_end_matches(['.', '"']);
    let is_id =
        (1..=MAX).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic() && b != b'@');
    is_id.then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: u16, text: &str) -> Option<String> {
        queue_id(&Reply { code, lines: vec![text.to_owned()] })
    }

    #[test]
    fn the_id_is_found_in_what_each_server_says() {
        for (text, id) in [
            ("2.0.0 Ok: queued as 4F1B2C0D", "4F1B2C0D"),
            ("Ok: queued as aB3-_xyz", "aB3-_xyz"),
            ("OK id=1tABCd-000000001xy-2QRs", "1tABCd-000000001xy-2QRs"),
            ("2.0.0 45A1bCde012345 Message accepted for delivery", "45A1bCde012345"),
            ("2.0.0 5f0e1d2c Message accepted for delivery", "5f0e1d2c"),
            (
                "Ok 0100018f00000000-1111-2222-3333-444455556666-000000",
                "0100018f00000000-1111-2222-3333-444455556666-000000",
            ),
            ("2.0.0 OK  1700000000 a1b2-c3d4.12 - gsmtp", "a1b2-c3d4.12"),
            ("ok 1700000000 qp 12345", "1700000000 qp 12345"),
            (
                "2.6.0 <0123@example.org> [InternalId=987654, Hostname=A.PROD.OUTLOOK.COM] 12 bytes in 0.1, 9 KB/sec Queued mail for delivery",
                "987654",
            ),
        ] {
            assert_eq!(of(250, text).as_deref(), Some(id), "{text}");
        }
    }

    #[test]
    fn what_is_no_id_is_not_taken_for_one() {
        for text in [
            "",
            "OK",
            "2.0.0 Ok",
            "Ok accepted",
            "Great success",
            "queued as",
            "Ok: queued as ana@example.com",
            "2.0.0 valid=no",
            "2.1.5 <ana@example.com> Message accepted for delivery",
        ] {
            assert_eq!(of(250, text), None, "{text}");
        }
        assert_eq!(of(450, "Ok: queued as 4F1B2C0D"), None);
        assert_eq!(of(250, &format!("Ok: queued as {}", "x".repeat(129))), None);
    }
}
