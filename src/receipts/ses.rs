//! Notifications of Amazon SES: feedback by identity
//! (<https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html>) or events of a configuration set
//! (<https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html>).

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Ignored, Reported,
    classify::{classify, codes},
    report::{Report, cut},
};
use crate::audit::{BounceKind, Evidence, ReceiptStatus};

/// # Errors
/// The notification reports nothing that counts.
pub(super) fn read(message: &str) -> Result<Reported, Ignored> {
    let event: Value = serde_json::from_str(message).map_err(|_| Ignored::NotAReport)?;
    let kind = text(&event, "/notificationType").or(text(&event, "/eventType")).unwrap_or_default();
    let report = match kind {
        "Bounce" => bounce(&event["bounce"])?,
        "Complaint" => complaint(&event["complaint"])?,
        "Delivery" => delivery(&event["delivery"]),
        "Reject" => rejected(&event["reject"]),
        "DeliveryDelay" => return Err(Ignored::Delayed),
        _ => return Err(Ignored::NotAReport),
    };
    let mail = &event["mail"];
    // SES writes a Message-ID of its own, and shows the one that it got.
    let headers = mail["headers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_message_id = |header: &&Value| {
        text(header, "/name").is_some_and(|name| name.eq_ignore_ascii_case("Message-ID"))
    };
    let headers = headers.iter().filter(is_message_id).filter_map(|one| text(one, "/value"));
    let message_ids = headers.chain(text(mail, "/commonHeaders/messageId"));
    let recipients = mail["destination"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(Reported {
        message_ids: message_ids.map(bracketed).collect(),
        relay_id: text(mail, "/messageId").map(ToOwned::to_owned),
        recipients: recipients.iter().filter_map(Value::as_str).map(ToOwned::to_owned).collect(),
        sent_at: text(mail, "/timestamp").and_then(|at| at.parse::<Timestamp>().ok()),
        report,
    })
}

fn text<'v>(value: &'v Value, path: &str) -> Option<&'v str> {
    value.pointer(path).and_then(Value::as_str).filter(|text| !text.is_empty())
}

fn bracketed(message_id: &str) -> String {
    format!("<{}>", message_id.trim().trim_matches(['<', '>']))
}

fn evidence(reporter: Option<&str>) -> Evidence {
    let reporter = reporter.map(|text| text.split_once(';').map_or(text, |(_, name)| name).trim());
    Evidence { source: "ses".to_owned(), reporting_mta: reporter.map(cut), ..Evidence::default() }
}

fn report(status: ReceiptStatus, bounce: Option<BounceKind>, evidence: Evidence) -> Report {
    Report { status, bounce, evidence, written_at: None }
}

fn bounce(bounce: &Value) -> Result<Report, Ignored> {
    let recipient = &bounce["bouncedRecipients"][0];
    let diagnostic = text(recipient, "/diagnosticCode");
    let words = diagnostic.map(|text| text.split_once(';').map_or(text, |(_, words)| words).trim());
    let (code, of_words) = codes(words.unwrap_or_default());
    let stated = text(recipient, "/status").map(ToOwned::to_owned);
    let enhanced = stated.filter(|status| !status.ends_with(".0.0")).or(of_words);
    let said = classify(enhanced.as_deref(), code, words.unwrap_or_default());
    let kinds = (text(bounce, "/bounceType"), text(bounce, "/bounceSubType"));
    let kind = match kinds {
        // A vacation note is reported like this, without any word of a server.
        (Some("Transient"), Some("General")) if diagnostic.is_none() => {
            return Err(Ignored::AutoReply);
        }
        (_, Some("MessageTooLarge" | "ContentRejected" | "AttachmentRejected")) => {
            BounceKind::Blocked
        }
        // SES did not try: the address is on its list, or the recipient unsubscribed there.
        (Some("Permanent"), Some("Suppressed" | "OnAccountSuppressionList" | "NoEmail")) => {
            BounceKind::Hard
        }
        (Some("Permanent"), _) if said != BounceKind::Blocked => BounceKind::Hard,
        // SES calls some refusals of unknown users transient.
        _ => said,
    };
    let evidence = Evidence {
        code,
        enhanced,
        diagnostic: words.map(cut),
        ..evidence(text(bounce, "/reportingMTA"))
    };
    Ok(report(ReceiptStatus::Bounced, Some(kind), evidence))
}

fn complaint(complaint: &Value) -> Result<Report, Ignored> {
    let kind = text(complaint, "/complaintFeedbackType");
    // With a sub-type SES did not send the mail, because of an earlier complaint.
    if matches!(kind, Some("not-spam" | "auth-failure" | "virus"))
        || text(complaint, "/complaintSubType").is_some()
    {
        return Err(Ignored::NoComplaint);
    }
    let evidence =
        Evidence { feedback_type: kind.map(cut), ..evidence(text(complaint, "/userAgent")) };
    Ok(report(ReceiptStatus::Complained, None, evidence))
}

fn delivery(delivery: &Value) -> Report {
    let evidence = Evidence {
        diagnostic: text(delivery, "/smtpResponse").map(cut),
        ..evidence(text(delivery, "/reportingMTA"))
    };
    report(ReceiptStatus::Delivered, None, evidence)
}

/// SES found a virus, and sent nothing.
fn rejected(reject: &Value) -> Report {
    let evidence = Evidence { diagnostic: text(reject, "/reason").map(cut), ..evidence(None) };
    report(ReceiptStatus::Bounced, Some(BounceKind::Blocked), evidence)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bounced(kind: &str, sub: &str, status: &str, diagnostic: &str) -> Result<String, Ignored> {
        let event = json!({
            "notificationType": "Bounce",
            "bounce": {
                "bounceType": kind, "bounceSubType": sub,
                "bouncedRecipients": [{"emailAddress": "a@example.com", "status": status, "diagnosticCode": diagnostic}],
            },
            "mail": {"messageId": "0100-1"},
        });
        let bounce = read(&event.to_string())?.report.bounce;
        Ok(bounce.map(BounceKind::as_str).unwrap_or_default().to_owned())
    }

    #[test]
    fn ses_s_kinds_of_bounce_are_hard_soft_blocked_or_none() {
        for (kind, sub, status, diagnostic, expected) in [
            ("Permanent", "General", "5.1.1", "smtp; 550 5.1.1 user unknown", "hard"),
            ("Permanent", "General", "5.0.0", "smtp; 554 no", "hard"),
            ("Permanent", "General", "5.7.1", "smtp; 550 5.7.1 blocked: spam", "blocked"),
            ("Permanent", "NoEmail", "", "", "hard"),
            (
                "Permanent",
                "Suppressed",
                "5.1.1",
                "Amazon SES has suppressed sending to this address",
                "hard",
            ),
            (
                "Permanent",
                "OnAccountSuppressionList",
                "5.1.1",
                "smtp; 550 5.1.1 on the list",
                "hard",
            ),
            ("Transient", "MailboxFull", "5.2.2", "smtp; 552 5.2.2 full", "soft"),
            ("Transient", "General", "4.4.7", "smtp; 554 4.4.7 expired", "soft"),
            ("Transient", "General", "5.1.1", "smtp; 550 5.1.1 user unknown", "hard"),
            ("Transient", "General", "5.3.0", "smtp; 550 denied", "soft"),
            ("Transient", "MessageTooLarge", "", "", "blocked"),
            ("Transient", "ContentRejected", "", "", "blocked"),
            ("Undetermined", "Undetermined", "", "", "soft"),
        ] {
            assert_eq!(
                bounced(kind, sub, status, diagnostic).as_deref(),
                Ok(expected),
                "{kind} {sub} {diagnostic}"
            );
        }
        assert_eq!(bounced("Transient", "General", "", ""), Err(Ignored::AutoReply));
    }

    #[test]
    fn events_of_a_configuration_set_are_read_as_well() {
        let mail = json!({
            "timestamp": "2016-10-19T23:20:52.240Z", "messageId": "EXAMPLE7c191be45",
            "destination": ["recipient@example.com"],
            "headers": [{"name": "From", "value": "a"}, {"name": "Message-ID", "value": "<one@usher>"}],
            "commonHeaders": {"messageId": "two@usher"},
        });
        let of = |event: Value| {
            let mut event = event;
            event["mail"] = mail.clone();
            read(&event.to_string())
        };
        let delivered = of(json!({
            "eventType": "Delivery",
            "delivery": {"smtpResponse": "250 2.6.0 Message received", "reportingMTA": "mta.example.com"},
        }))
        .unwrap();
        assert_eq!(delivered.report.status, ReceiptStatus::Delivered);
        assert_eq!(delivered.report.evidence.reporting_mta.as_deref(), Some("mta.example.com"));
        assert_eq!(delivered.message_ids, ["<one@usher>", "<two@usher>"]);
        assert_eq!(delivered.relay_id.as_deref(), Some("EXAMPLE7c191be45"));
        assert_eq!(delivered.recipients, ["recipient@example.com"]);
        let complained =
            |complaint: Value| of(json!({"eventType": "Complaint", "complaint": complaint}));
        let abuse = complained(json!({"complaintFeedbackType": "abuse"})).unwrap().report;
        assert_eq!(
            (abuse.status, abuse.evidence.feedback_type.as_deref()),
            (ReceiptStatus::Complained, Some("abuse"))
        );
        assert!(complained(json!({})).is_ok(), "some providers say no type");
        for no_complaint in [
            json!({"complaintFeedbackType": "not-spam"}),
            json!({"complaintSubType": "OnAccountSuppressionList"}),
        ] {
            assert_eq!(complained(no_complaint).unwrap_err(), Ignored::NoComplaint);
        }
        for (event, ignored) in [
            (json!({"eventType": "DeliveryDelay"}), Ignored::Delayed),
            (json!({"eventType": "Open"}), Ignored::NotAReport),
        ] {
            assert_eq!(of(event).unwrap_err(), ignored);
        }
        let greeting = "Successfully validated SNS topic for Amazon SES event publishing.";
        assert_eq!(read(greeting).unwrap_err(), Ignored::NotAReport);
    }
}
