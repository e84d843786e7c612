//! Comma-separated values (RFC 4180).

use crate::audit::Record;

/// The names of the columns.
pub(super) const HEADER: &str = "at,delivery_id,attempt,status,final,event_id,event_type,source,route,channel,recipient,\
recipient_hash,subject,booking_id,template,locale,template_version,smtp_server,smtp_code,smtp_enhanced,smtp_reply,error_kind,\
error_message,message_id,queued_ms,claim_ms,render_ms,send_ms,worker,trace_id,erased_at";

/// One record, in the order of [`HEADER`].
pub(super) fn line(record: &Record) -> String {
    let template = record.template.as_ref();
    let smtp = record.smtp.as_ref();
    let error = record.error.as_ref();
    let some = |text: Option<&String>| text.cloned().unwrap_or_default();
    let timings = &record.timings;
    let cells = [
        record.at.to_string(),
        record.delivery_id.to_string(),
        record.attempt.to_string(),
        record.status.as_str().to_owned(),
        record.is_final.to_string(),
        record.event.id.clone(),
        record.event.kind.clone(),
        record.event.source.clone(),
        record.route.clone(),
        record.channel.map(|channel| channel.as_str().to_owned()).unwrap_or_default(),
        record.recipient.clone(),
        record.recipient_hash.clone(),
        record.subject.clone(),
        some(record.correlation.get("booking_id")),
        some(template.map(|template| &template.name)),
        some(template.map(|template| &template.locale)),
        some(template.map(|template| &template.version)),
        some(smtp.map(|smtp| &smtp.server)),
        smtp.map(|smtp| smtp.code.to_string()).unwrap_or_default(),
        some(smtp.and_then(|smtp| smtp.enhanced.as_ref())),
        some(smtp.map(|smtp| &smtp.reply)),
        some(error.map(|error| &error.kind)),
        some(error.map(|error| &error.message)),
        some(record.message_id.as_ref()),
        timings.queued_ms.map(|ms| ms.to_string()).unwrap_or_default(),
        timings.claim_ms.to_string(),
        timings.render_ms.to_string(),
        timings.send_ms.to_string(),
        record.worker.clone(),
        some(record.trace_id.as_ref()),
        record.erased_at.map(|at| at.to_string()).unwrap_or_default(),
    ];
    cells.map(|text| cell(&text)).join(",")
}

/// What a spreadsheet would take for a formula is marked as text: subjects and ids come from outside.
fn cell(text: &str) -> String {
    let is_number = text.parse::<f64>().is_ok();
    let text = match text.starts_with(['=', '+', '-', '@', '\t', '\r']) && !is_number {
        true => format!("'{text}"),
        false => text.to_owned(),
    };
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::cell;

    #[test]
    fn cells_are_quoted_where_they_must_be_and_are_never_formulas() {
        for (text, written) in [
            ("plain", "plain"),
            ("a, \"b\"", "\"a, \"\"b\"\"\""),
            ("two\nlines", "\"two\nlines\""),
            ("=1+1", "'=1+1"),
            ("@SUM(A1,A2)", "\"'@SUM(A1,A2)\""),
            ("-12", "-12"),
        ] {
            assert_eq!(cell(text), written);
        }
    }
}
