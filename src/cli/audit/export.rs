//! `usher audit export`: a stream, so that memory stays small however many records there are.

use std::{
    io::{BufWriter, ErrorKind, Write},
    process::ExitCode,
};

use clap::{Args, ValueEnum};
use futures_util::TryStreamExt;

use super::{AuditCli, AuditFilter, ShownStatus, csv::CsvWriter};
use crate::{audit::Record, cli::output::stdout, failure::Failure};

#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    #[command(flatten)]
    filter: AuditFilter,
    /// Output format.
    #[arg(long, value_enum, default_value_t = ExportFormat::Ndjson)]
    format: ExportFormat,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ExportFormat {
    /// One JSON object per line.
    Ndjson,
    /// Comma-separated values, one record per line, below the names of the columns.
    Csv,
}

enum Output<W: Write> {
    Ndjson(W),
    Csv(Box<CsvWriter<W>>),
}

impl AuditCli {
    pub(super) async fn export(&self, args: &ExportArgs) -> Result<ExitCode, Failure> {
        if args.filter.status.contains(&ShownStatus::Waiting) {
            return Err(Failure::data("what waits has no record yet; use audit find"));
        }
        let records = self.audit.records(&self.filter(&args.filter).await?).await;
        let mut records = std::pin::pin!(records.map_err(Failure::unavailable)?);
        let stdout = BufWriter::new(stdout());
        let mut output = match args.format {
            ExportFormat::Ndjson => Output::Ndjson(stdout),
            ExportFormat::Csv => Output::Csv(Box::new(CsvWriter::new(stdout).map_err(io_error)?)),
        };
        while let Some(record) = records.try_next().await.map_err(Failure::unavailable)? {
            if !is_read(output.write(&record))? {
                return Ok(ExitCode::SUCCESS);
            }
        }
        is_read(output.flush())?;
        Ok(ExitCode::SUCCESS)
    }
}

impl<W: Write> Output<W> {
    fn write(&mut self, record: &Record) -> std::io::Result<()> {
        match self {
            Self::Ndjson(output) => writeln!(output, "{}", serde_json::to_string(record)?),
            Self::Csv(output) => output.write(record).map_err(io_error),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Ndjson(output) => output.flush(),
            Self::Csv(output) => output.flush(),
        }
    }
}

/// A reader that has left is no failure; a full disk is.
fn is_read(written: std::io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Keeps the kind of the error inside, which `csv` hides.
fn io_error(error: csv::Error) -> std::io::Error {
    error.into()
}
