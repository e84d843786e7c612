//! The dialogues. Those of public reports name them.

use super::{
    Row, row,
    server::{At::*, Say},
};

pub(super) fn rows() -> Vec<Row> {
    [greetings(), hellos(), starttls(), logins(), envelopes(), ends(), sessions(), blame(), needs()]
        .concat()
}

fn greetings() -> Vec<Row> {
    vec![
        row("nothing special", "sent 250 2.0.0 Ok: queued as 1"),
        row("a greeting of several lines", "sent 250")
            .at(Greeting, b"220-mx\r\n220-\r\n220 hello\r\n"),
        row("a greeting without text", "sent 250").at(Greeting, b"220\r\n"),
        row("a Latin-1 greeting", "sent 250").at(Greeting, b"220 gr\xfc\xdf dich\r\n"),
        row(
            "two greetings, then 554 after the dot",
            "waits: EHLO: the server answered before it was asked: 220 b",
        )
        .whole()
        .at(Greeting, b"220 a\r\n220 b\r\n")
        .at(Dot, b"554 5.7.1 no\r\n"),
        row("554 instead of a greeting", "waits: greeting: 554 5.3.2 no service")
            .at(Greeting, b"554 5.3.2 no service\r\n"),
        row("421 instead of a greeting", "waits: greeting: 421 4.3.2 busy")
            .at(Greeting, b"421 4.3.2 busy\r\n"),
        row("250 instead of a greeting", "waits: greeting: 250 hello")
            .at(Greeting, b"250 hello\r\n"),
        row("a greeting of another protocol", "waits: greeting: not an SMTP reply: * OK IMAP4rev1")
            .at(Greeting, b"* OK IMAP4rev1\r\n"),
        row("a code of four digits", "waits: greeting: not an SMTP reply: 2200 mx")
            .at(Greeting, b"2200 mx\r\n"),
        row("a greeting that ends without CR", "waits: greeting: no answer within 2s")
            .at(Greeting, b"220 mx\n"),
        row("no greeting", "waits: greeting: no answer within 2s").say(Greeting, Say::Nothing),
        row("a closed door", "waits: greeting: the server closed the connection")
            .say(Greeting, Say::Hangup),
        row(
            "half a greeting",
            "waits: greeting: the server closed the connection in the middle of a reply: 220 m",
        )
        .say(Greeting, Say::Last(b"220 m")),
    ]
}

fn hellos() -> Vec<Row> {
    vec![
        row("the name in EHLO is a literal or a full name", "sent 250")
            .set("SMTP_EHLO_NAME", "[192.0.2.1]")
            .hears("EHLO [192.0.2.1]"),
        row("a server from before EHLO", "sent 250")
            .once(Ehlo, b"500 what?\r\n")
            .hears("HELO [192.0.2.1]")
            .set("SMTP_EHLO_NAME", "[192.0.2.1]"),
        row("a server that has EHLO switched off", "sent 250")
            .at(Ehlo, b"502 5.5.1 not implemented\r\n"),
        row("neither EHLO nor HELO", "waits: EHLO: 502 5.5.1 no")
            .at(Ehlo, b"500 no\r\n")
            .at(Helo, b"502 5.5.1 no\r\n"),
        row(
            "a name that is not liked",
            "waits: EHLO: 550 bad name (look at the name that usher gives, SMTP_EHLO_NAME)",
        )
        .at(Ehlo, b"550 bad name\r\n"),
        row("EHLO answered 220", "waits: EHLO: 220 hello").at(Ehlo, b"220 hello\r\n"),
        row("EHLO answered 354", "waits: EHLO: 354 go on").at(Ehlo, b"354 go on\r\n"),
        row("capabilities in lower case", "sent 250")
            .offering(&["auth plain", "8bitmime", "size 100000", "pipelining"])
            .login(),
        row("lines of two codes in EHLO", "waits: EHLO: not an SMTP reply: 250- and then 500")
            .at(Ehlo, b"250-mx\r\n500 no\r\n"),
        row("HELO knows no login", "waits: AUTH: the server offers no login")
            .at(Ehlo, b"502 no\r\n")
            .login(),
    ]
}

fn starttls() -> Vec<Row> {
    let tls =
        |name, records| row(name, records).offering(&["STARTTLS"]).set("SMTP_TLS", "starttls");
    vec![
        // nodemailer/nodemailer#1835.
        tls("a line behind the reply to STARTTLS", "waits: STARTTLS: ATTACK")
            .at(StartTls, b"220 go ahead\r\n250 evil\r\n")
            .whole(),
        tls("half a line behind the reply to STARTTLS", "waits: STARTTLS: ATTACK")
            .at(StartTls, b"220 go ahead\r\n250-PIPE")
            .whole(),
        tls("STARTTLS answered 250", "waits: STARTTLS: 250 ok").at(StartTls, b"250 ok\r\n"),
        tls("STARTTLS answered 454", "waits: STARTTLS: 454 4.7.0 TLS not available")
            .at(StartTls, b"454 4.7.0 TLS not available\r\n"),
        tls("no STARTTLS on offer", "waits: STARTTLS: the server does not offer it")
            .offering(&["X-STARTTLS"]),
        tls("a server that goes on unencrypted", "waits: STARTTLS: ")
            .at(StartTls, b"220 go ahead\r\n"),
    ]
}

fn logins() -> Vec<Row> {
    let login = |name, records| row(name, records).login();
    vec![
        login("a password by PLAIN", "sent 250").hears("AUTH PLAIN AGFuYQBwdw=="),
        // curl/curl#4080.
        login("334 to PLAIN's initial response", "sent 250")
            .at(Auth, b"334 \r\n")
            .hears("AGFuYQBwdw=="),
        login("334 without text or blank", "sent 250").at(Auth, b"334\r\n").hears("AGFuYQBwdw=="),
        login("334 without end", "waits: AUTH: 501 5.5.2 abandoned")
            .at(Auth, b"334 \r\n")
            .at(AuthLine, b"334 more\r\n")
            .at(AuthLine, b"501 5.5.2 abandoned\r\n")
            .hears("*"),
        login("504 to PLAIN", "sent 250")
            .once(Auth, b"504 5.5.4 no such mechanism\r\n")
            .hears("AUTH LOGIN"),
        login("LOGIN alone on offer", "sent 250")
            .offering(&["AUTH LOGIN"])
            .hears("AUTH LOGIN")
            .hears("YW5h")
            .hears("cHc="),
        // wneessen/go-mail#311.
        login("LOGIN asks in its own words", "sent 250")
            .offering(&["AUTH LOGIN"])
            .at(Auth, b"334 \xff\xfe?\r\n")
            .at(AuthLine, b"334\r\n")
            .at(AuthLine, b"235\r\n"),
        login("the old spelling of AUTH", "sent 250").offering(&["AUTH=LOGIN"]).hears("AUTH LOGIN"),
        login(
            "CRAM-MD5 alone",
            "waits: AUTH: the server offers CRAM-MD5, and none of PLAIN, LOGIN",
        )
        .offering(&["AUTH CRAM-MD5"]),
        login(
            "no login on offer",
            "waits: AUTH: the server offers no login, and none of PLAIN, LOGIN",
        )
        .offering(&[]),
        // cole/aiosmtplib#41.
        login(
            "535 in GBK",
            "waits: AUTH: 535 Error: \\xc7\\xeb (look at the login (SMTP_USERNAME, SMTP_PASSWORD, SMTP_AUTH))",
        )
        .at(Auth, b"535 Error: \xc7\xeb\r\n"),
        login("250 instead of 235", "waits: AUTH: 250 ok").at(Auth, b"250 ok\r\n"),
        login("454 at the login", "waits: AUTH: 454 4.7.0 later").at(Auth, b"454 4.7.0 later\r\n"),
        login(
            "two replies to AUTH",
            "waits: login: the server answered before it was asked: 250 evil",
        )
        .at(Auth, b"235 ok\r\n250 evil\r\n")
        .whole(),
    ]
}

fn envelopes() -> Vec<Row> {
    vec![
        row("replies without text", "sent 250")
            .at(Mail, b"250\r\n")
            .at(Rcpt, b"250\r\n")
            .at(Data, b"354\r\n")
            .at(Dot, b"250\r\n"),
        row("a recipient who has moved", "sent 250").at(Rcpt, b"251 will forward\r\n"),
        row("RCPT answered 252", "interrupted 252").at(Rcpt, b"252 who knows\r\n"),
        row("MAIL answered 220", "interrupted 220").at(Mail, b"220 hello\r\n"),
        // swiftmailer/swiftmailer#1300.
        row("DATA answered 250", "interrupted 250 Accepted").at(Data, b"250 Accepted\r\n"),
        row("DATA answered 220", "interrupted 220").at(Data, b"220 ok\r\n"),
        row("a reply before the body", "interrupted 250 early")
            .whole()
            .at(Data, b"354 go on\r\n250 early\r\n"),
        row("a refusal before the body", "refused 552 5.3.4 too big")
            .whole()
            .at(Data, b"354 go on\r\n552 5.3.4 too big\r\n"),
        row("one reply too many at MAIL", "interrupted").once(Mail, b"250 ok\r\n250 ok\r\n"),
        row("571 at RCPT", "refused 571 5.7 blocked").at(Rcpt, b"571 5.7 blocked\r\n"),
        row("a Latin-1 refusal", "refused 550 5.1.1 Empf\\xe4nger")
            .at(Rcpt, b"550 5.1.1 Empf\xe4nger\r\n"),
        row("a refusal with NUL and escapes", "refused 550 a\\x00b\\x1b[31m")
            .at(Rcpt, b"550 a\x00b\x1b[31m\r\n"),
        row("a refusal in two codes", "refused 554 5.1.1 no 5.1.1 user")
            .at(Rcpt, b"550-5.1.1 no\r\n554 5.1.1 user\r\n"),
        row("yes and no in one reply", "interrupted").at(Rcpt, b"250-ok\r\n550 no\r\n"),
        row("greylisting", "deferred 450").at(Rcpt, b"450 4.2.0 greylisted\r\n"),
        row("a code that there is not", "interrupted").at(Rcpt, b"650 ok\r\n"),
        row("an answer that is no reply", "interrupted").at(Rcpt, b"OK\r\n"),
        row("silence at RCPT", "interrupted (RCPT: no answer within 2s)").say(Rcpt, Say::Nothing),
        row("the end at RCPT", "interrupted (RCPT: the server closed the connection)")
            .say(Rcpt, Say::Hangup),
        row("550 and the end", "refused 550 5.1.1 no").say(Rcpt, Say::Last(b"550 5.1.1 no\r\n")),
        // swiftmailer/swiftmailer#1240: DATA's 503 follows from RCPT's 553.
        row("503 after a refused recipient", "refused 553 no")
            .at(Rcpt, b"553 no\r\n")
            .at(Data, b"503 no valid recipients\r\n"),
        row("354 after a refused recipient", "refused 550").at(Rcpt, b"550 5.1.1 no\r\n"),
        row("RSET is refused", "refused 550")
            .at(Rcpt, b"550 5.1.1 no\r\n")
            .at(Data, b"554 no\r\n")
            .at(Rset, b"502 no\r\n"),
        row("commands one by one", "sent 250").set("SMTP_PIPELINING", "false"),
    ]
}

fn ends() -> Vec<Row> {
    vec![
        row("the dot answered 354", "unknown 354 go on").at(Dot, b"354 go on\r\n"),
        row("the dot answered 334", "unknown 334").at(Dot, b"334 \r\n"),
        row("the dot answered 251", "sent 251 queued elsewhere")
            .at(Dot, b"251 queued elsewhere\r\n"),
        row("the dot answered in Latin-1", "sent 250 angenommen: gr\\xfc\\xdfe")
            .at(Dot, b"250 angenommen: gr\xfc\xdfe\r\n"),
        row("a reply of 2 000 bytes", "sent 250 xxxx").whole().at(Dot, LONG),
        row("the dot answered 571", "refused 571 no").at(Dot, b"571 no\r\n"),
        row("the dot answered with four digits", "unknown (.: not an SMTP reply: 2500 ok)")
            .at(Dot, b"2500 ok\r\n"),
        row("the dot answered yes and no", "unknown").at(Dot, b"250-ok\r\n550 no\r\n"),
        row("the dot answered in two ways of yes", "unknown").at(Dot, b"250-ok\r\n251 ok\r\n"),
        row("two replies to the dot", "sent 250 first").at(Dot, b"250 first\r\n554 second\r\n"),
        row("a reply that never ends its line", "unknown (no reply within 2s)").at(Dot, b"250 ok"),
        row("a reply that ends with LF", "unknown (no reply within 2s)").at(Dot, b"250 ok\n"),
        row(
            "half a reply and the end",
            "unknown (.: the server closed the connection in the middle of a reply: 250 o)",
        )
        .say(Dot, Say::Last(b"250 o")),
        row("the last line is missing", "unknown (no reply within 2s)").at(Dot, b"250-ok\r\n"),
        row("the end after the dot", "unknown (.: the server closed the connection)")
            .say(Dot, Say::Hangup),
        row("silence after the dot", "unknown (no reply within 2s)").say(Dot, Say::Nothing),
        row("452 after the dot", "deferred 452 4.2.2 full").at(Dot, b"452 4.2.2 full\r\n"),
        row("421 after the dot", "deferred 421").say(Dot, Say::Last(b"421 4.3.0 closing\r\n")),
        row("250 and the end", "sent 250 ok").say(Dot, Say::Last(b"250 ok\r\n")),
        row("junk behind the reply to the dot", "sent 250 ok")
            .whole()
            .at(Dot, b"250 ok\r\n\xff\xfe\x00"),
    ]
}

/// A connection that was used before.
fn sessions() -> Vec<Row> {
    vec![
        row("452 4.4.5 from the second mail on", "sent 250")
            .second()
            .once(Mail, b"452 4.4.5 too many messages\r\n"),
        row("530 from the second mail on", "sent 250")
            .second()
            .once(Mail, b"530 5.7.0 log in again\r\n"),
        // chatmail/filtermail#143.
        row("421 at the second mail", "sent 250").second().once(Mail, b"421 4.4.2 timeout\r\n"),
        // nithril/smtp-connection-pool#20.
        row("451 at the second mail", "sent 250")
            .second()
            .once(Mail, b"451 4.4.2 Timeout waiting for data from client\r\n"),
        // lettre/lettre#743.
        row("221 at the second mail", "sent 250").second().once(Mail, b"221 idle timeout\r\n"),
        // letsencrypt/boulder#4036.
        row("503 nested MAIL", "sent 250")
            .second()
            .once(Mail, b"503 5.5.1 nested MAIL command\r\n"),
        row("451 at the second DATA", "sent 250").second().once(Data, b"451 4.3.0 later\r\n"),
        row("closed at the second mail", "sent 250")
            .second()
            .say(Mail, Say::Hangup)
            .say(Mail, Say::Usual),
        row("junk at the second mail", "sent 250")
            .second()
            .at(Dot, b"250 ok\r\njunk\r\n")
            .at(Dot, b"250 ok\r\n"),
        row("421 while idle", "sent 250").say(Idle, Say::Last(b"421 4.4.2 idle timeout\r\n")),
        row("a word while idle", "sent 250").at(Idle, b"250 still here\r\n"),
        row("one mail a connection", "sent 250")
            .set("SMTP_MAILS_PER_CONNECTION", "1")
            .hears("QUIT"),
        row("the second recipient is refused", "refused 550")
            .second()
            .at(Rcpt, b"550 5.1.1 no\r\n")
            .at(Data, b"554 no\r\n"),
        row("greylisting on an old connection", "deferred 450")
            .second()
            .at(Rcpt, b"450 4.2.0 greylisted\r\n"),
    ]
}

fn blame() -> Vec<Row> {
    let at_rcpt = |name, reply, records| row(name, records).at(Rcpt, reply);
    vec![
        at_rcpt(
            "530 at RCPT",
            b"530 5.7.0 log in\r\n",
            "unavailable uncounted 530 5.7.0 log in (530 5.7.0 log in (RCPT; look at the login",
        ),
        at_rcpt("5.1.8 at RCPT", b"550 5.1.8 bad sender\r\n", "unavailable uncounted 550"),
        at_rcpt(
            "not owned by user",
            b"553 5.7.1 not owned by user\r\n",
            "unavailable uncounted 553",
        ),
        // BytemarkHosting/docker-smtp#5.
        at_rcpt(
            "a bare host name",
            b"504 5.5.2 need fully-qualified hostname\r\n",
            "unavailable uncounted 504 5.5.2 need fully-qualified hostname (504 5.5.2 need fully-qualified hostname (RCPT; look at the name that usher gives (SMTP_EHLO_NAME)",
        ),
        at_rcpt(
            "relaying denied",
            b"554 5.7.1 <a@b>: Relay access denied\r\n",
            "unavailable uncounted 554",
        ),
        at_rcpt("plain 5.7.1 to one", b"550 5.7.1 not wanted\r\n", "refused 550"),
        row("5.1.7 at MAIL", "unavailable uncounted 501")
            .at(Mail, b"501 5.1.7 invalid address\r\n"),
        row("5.7.57 at MAIL", "unavailable uncounted 530")
            .at(Mail, b"530 5.7.57 Client not authenticated to send mail\r\n"),
        row("SendAsDenied after the dot", "unavailable uncounted 554")
            .at(Dot, b"554 5.2.252 SendAsDenied; x not allowed to send as y\r\n"),
        row("basic authentication after the dot", "unavailable uncounted 550")
            .at(Dot, b"550 5.7.30 Basic authentication is not supported\r\n"),
        row("421 to a new connection at MAIL", "unavailable uncounted 421")
            .at(Mail, b"421 4.3.2 shutting down\r\n"),
        row("452 to a new connection at MAIL", "deferred 452").at(Mail, b"452 4.3.1 no space\r\n"),
        row("too large at MAIL", "refused 552").at(Mail, b"552 5.3.4 too large\r\n"),
        // simonrob/email-oauth2-proxy#193.
        row("SMTP AUTH disabled for the tenant", "waits: AUTH: 535 5.7.139")
            .login()
            .at(Auth, b"535 5.7.139 SmtpClientAuthentication is disabled for the Tenant\r\n"),
    ]
}

/// What a mail needs of a server.
fn needs() -> Vec<Row> {
    vec![
        row("SIZE is said", "sent 250").offering(&["SIZE 1000000"]),
        row("a SIZE that is too small", "invalid_message").offering(&["SIZE 100"]),
        row("a SIZE without limit", "sent 250").offering(&["SIZE 0"]),
        row("an international recipient without SMTPUTF8", "unreachable_recipient")
            .to("ñandú@example.com"),
        row("an international recipient with SMTPUTF8", "sent 250")
            .to("ñandú@example.com")
            .offering(&["SMTPUTF8", "8BITMIME"]),
        row(
            "EMAIL_REPLY_TO beyond ASCII without SMTPUTF8",
            "unavailable uncounted (the address for answers (EMAIL_REPLY_TO) needs SMTPUTF8",
        )
        .set("EMAIL_REPLY_TO", "ayuda-ñ@example.org"),
    ]
}

/// `250 ` and 2 000 letters.
const LONG: &[u8] = &{
    let mut line = [b'x'; 2006];
    line[0] = b'2';
    line[1] = b'5';
    line[2] = b'0';
    line[3] = b' ';
    line[2004] = b'\r';
    line[2005] = b'\n';
    line
};
