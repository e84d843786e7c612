//! `usher audit export`: a stream, so that any number of records fits.

use std::{
    io::{BufWriter, ErrorKind, Write},
    process::ExitCode,
};

use futures_util::TryStreamExt;

use super::{AuditCli, csv};
use crate::{
    cli::args::{ExportArgs, ExportShape},
    failure::Failure,
};

impl AuditCli {
    pub(super) async fn export(&self, args: &ExportArgs) -> Result<ExitCode, Failure> {
        let records =
            self.audit.records(&self.filter(&args.filter)).await.map_err(Failure::unavailable)?;
        let mut records = std::pin::pin!(records);
        let mut out = BufWriter::new(std::io::stdout());
        if args.format == ExportShape::Csv && !wrote(writeln!(out, "{}", csv::HEADER))? {
            return Ok(ExitCode::SUCCESS);
        }
        while let Some(record) = records.try_next().await.map_err(Failure::unavailable)? {
            let line = match args.format {
                ExportShape::Ndjson => serde_json::to_string(&record)?,
                ExportShape::Csv => csv::line(&record),
            };
            if !wrote(writeln!(out, "{line}"))? {
                return Ok(ExitCode::SUCCESS);
            }
        }
        wrote(out.flush())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// A reader that has had enough is no failure; a full disk is.
fn wrote(written: std::io::Result<()>) -> Result<bool, Failure> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error.into()),
    }
}
