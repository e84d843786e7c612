//! Records as comma-separated values (RFC 4180).

use std::io::Write;

use csv::{Terminator, Writer, WriterBuilder};

use crate::audit::Record;

const HEADER: &str = "at,delivery_id,attempt,status,final,event_id,event_type,source,route,channel,recipient,\
recipient_hash,subject,booking_id,template,locale,template_version,smtp_server,smtp_code,smtp_enhanced,smtp_reply,error_kind,\
error_message,message_id,queued_ms,claim_ms,render_ms,send_ms,worker,trace_id,erased_at,\
correlation,brand,time_zone,from_address,from_name,sha256,content_sha256";

pub(super) struct CsvWriter<W: Write>(Writer<W>);

impl<W: Write> CsvWriter<W> {
    /// Writes the names of the columns.
    pub(super) fn new(output: W) -> csv::Result<Self> {
        let mut writer =
            WriterBuilder::new().terminator(Terminator::Any(b'\n')).from_writer(output);
        writer.write_record(HEADER.split(','))?;
        Ok(Self(writer))
    }

    pub(super) fn write(&mut self, record: &Record) -> csv::Result<()> {
        self.0.write_record(cells(record).map(no_formula))
    }

    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// In the order of [`HEADER`]; the writer refuses another number of cells.
fn cells(record: &Record) -> [String; 38] {
    let template = record.template.as_ref();
    let smtp = record.smtp.as_ref();
    let error = record.error.as_ref();
    let message = record.message.clone().unwrap_or_default();
    let correlation = match record.correlation.is_empty() {
        true => String::new(),
        false => serde_json::json!(record.correlation).to_string(),
    };
    let text = |text: Option<&String>| text.cloned().unwrap_or_default();
    let timings = &record.timings;
    [
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
        text(record.correlation.get("booking_id")),
        text(template.map(|template| &template.name)),
        text(template.map(|template| &template.locale)),
        text(template.map(|template| &template.version)),
        text(smtp.map(|smtp| &smtp.server)),
        smtp.map(|smtp| smtp.code.to_string()).unwrap_or_default(),
        text(smtp.and_then(|smtp| smtp.enhanced.as_ref())),
        text(smtp.map(|smtp| &smtp.reply)),
        text(error.map(|error| &error.kind)),
        text(error.map(|error| &error.message)),
        text(record.message_id.as_ref()),
        timings.queued_ms.map(|ms| ms.to_string()).unwrap_or_default(),
        timings.claim_ms.to_string(),
        timings.render_ms.to_string(),
        timings.send_ms.to_string(),
        record.worker.clone(),
        text(record.trace_id.as_ref()),
        record.erased_at.map(|at| at.to_string()).unwrap_or_default(),
        correlation,
        message.brand.unwrap_or_default(),
        message.time_zone.unwrap_or_default(),
        message.from_address.unwrap_or_default(),
        message.from_name.unwrap_or_default(),
        message.sha256.unwrap_or_default(),
        message.content_sha256.unwrap_or_default(),
    ]
}

/// Subjects and ids come from outside: marks as text what a spreadsheet would run as a formula, by the
/// list of OWASP. Some skip blanks before it.
fn no_formula(text: String) -> String {
    let is_number =
        |rest: &str| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let signs = ['=', '+', '-', '@', '＝', '＋', '－', '＠'];
    let is_formula = text.starts_with(['\t', '\r', '\n']) || text.trim_start().starts_with(signs);
    match is_formula && !text.strip_prefix(['+', '-']).is_some_and(is_number) {
        true => format!("'{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::no_formula;

    #[test]
    fn no_cell_is_a_formula() {
        for (text, written) in [
            ("plain", "plain"),
            ("=1+1", "'=1+1"),
            ("@SUM(A1,A2)", "'@SUM(A1,A2)"),
            ("\t=1", "'\t=1"),
            ("\n=1", "'\n=1"),
            (" =1", "' =1"),
            ("＝1+1", "'＝1+1"),
            ("-infinity", "'-infinity"),
            ("+34600111222", "+34600111222"),
            ("-12", "-12"),
            ("+1.5", "+1.5"),
        ] {
            assert_eq!(no_formula(text.to_owned()), written);
        }
    }
}
