//! The ledger's script: its inputs as arguments, its answers as replies.

use std::sync::Arc;

use redis::{Cmd, ErrorKind, RedisResult, ServerErrorKind};

use super::{Windows, failed, flag};
use crate::{
    clients::redis::Connection,
    duration::millis,
    ledger::{Input, LedgerError, MAX_CLAIMS, NextStep, Reply, SUSPECT_CLAIMS, State},
    routing::DeliveryId,
};

pub(super) const SCRIPT: &str =
    concat!(include_str!("../server.lua"), include_str!("../ledger.lua"));

/// An input, and what it depends on.
pub(super) struct Submitted {
    pub(super) delivery: DeliveryId,
    pub(super) input: Input,
    /// The server whose claims are open stands there.
    pub(super) open: Arc<str>,
    /// The server that the instance had met.
    pub(super) met: Arc<str>,
}

/// The script call that applies these inputs in turn.
pub(super) fn call(script: &str, inputs: &[Submitted], windows: Windows) -> Cmd {
    let mut call = redis::cmd("EVALSHA");
    call.arg(script).arg(inputs.len());
    for submitted in inputs {
        call.arg(key(&submitted.delivery));
    }
    // The same for all.
    call.arg(inputs.first().map_or("", |submitted| &submitted.open));
    for Submitted { input, met, .. } in inputs {
        encode_input(&mut call, input, met, windows);
    }
    call
}

/// Encodes an input for the script.
fn encode_input(call: &mut Cmd, input: &Input, met: &str, windows: Windows) {
    let kept = [millis(windows.dedup), millis(windows.dedup_derived)];
    match input {
        Input::Claim(claim) => {
            call.arg("claim").arg(met).arg(&claim.owner.instance).arg(claim.owner.token);
            call.arg(&claim.event).arg(claim.attempt);
            call.arg(flag(claim.fresh)).arg(flag(claim.audit_is_silent)).arg(claim.tried);
            call.arg(flag(claim.derived));
            call.arg(flag(claim.alone)).arg(SUSPECT_CLAIMS).arg(MAX_CLAIMS);
            call.arg(millis(windows.gone_after));
        }
        Input::Latch { owner, fence, relay } => {
            call.arg("latch").arg(met).arg(&owner.instance).arg(owner.token).arg(fence);
            call.arg(relay.as_deref().unwrap_or_default());
        }
        Input::Reclaim(claim) => {
            let state = if claim.state == State::Unknown { "unknown" } else { "sending" };
            call.arg("reclaim").arg(met).arg(&claim.owner.instance).arg(claim.owner.token);
            call.arg(&claim.event).arg(claim.attempt).arg(claim.fence).arg(state);
            call.arg(claim.relay.as_deref().unwrap_or_default()).arg(flag(claim.derived));
        }
        Input::Decide { owner, fence, next, record } => {
            let (name, attempt) = encode_next_step(*next);
            call.arg("decide").arg(&owner.instance).arg(owner.token).arg(fence);
            call.arg(name).arg(attempt).arg(record);
        }
        Input::Republished { attempt, next } => {
            let (name, to_come) = encode_next_step(*next);
            call.arg("handed").arg(attempt).arg(name).arg(to_come).arg(&kept);
        }
        Input::Suppress { owner, fence, record } => {
            call.arg("suppress").arg(&owner.instance).arg(owner.token).arg(fence);
            call.arg(record).arg(&kept);
        }
        Input::Sent { event, attempt, record, derived } => {
            call.arg("sent").arg(event).arg(attempt).arg(record).arg(flag(*derived)).arg(&kept);
        }
    }
}

/// Calls the script; loads it first if Redis doesn't have it.
pub(super) async fn apply_all(
    mut connection: Connection,
    call: Cmd,
    count: usize,
) -> Vec<RedisResult<String>> {
    let unknown = ErrorKind::Server(ServerErrorKind::NoScript);
    let mut answers: RedisResult<Vec<String>> = call.query_async(&mut connection).await;
    if answers.as_ref().is_err_and(|error| error.kind() == unknown) {
        let mut load = redis::pipe();
        load.cmd("SCRIPT").arg("LOAD").arg(SCRIPT).ignore().add_command(call);
        answers = load.query_async(&mut connection).await.map(|(answers,)| answers);
    }
    match answers {
        Ok(answers) => answers.into_iter().map(Ok).collect(),
        Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
    }
}

pub(super) fn key(delivery: &DeliveryId) -> String {
    format!("usher:ledger:{delivery}")
}

fn encode_next_step(next: NextStep) -> (&'static str, u32) {
    match next {
        NextStep::Retry(attempt) => ("retry", attempt),
        NextStep::Dead => ("dead", 0),
        NextStep::Park => ("park", 0),
        NextStep::Poison => ("poison", 0),
    }
}

pub(super) fn decode_reply(answer: &str) -> Result<Reply, LedgerError> {
    let parts: Vec<&str> = answer.split('\n').collect();
    let text = |index: usize| match parts.get(index) {
        Some(part) => Ok(*part),
        None => Err(LedgerError(anyhow::anyhow!("the script's answer is too short"))),
    };
    let number =
        |index: usize| -> Result<u64, LedgerError> { text(index)?.parse().map_err(failed) };
    let small = |index: usize| -> Result<u32, LedgerError> { text(index)?.parse().map_err(failed) };
    let record = |index: usize| -> Result<Option<String>, LedgerError> {
        Ok(Some(text(index)?.to_owned()).filter(|record| !record.is_empty()))
    };
    Ok(match text(0)? {
        "granted" => Reply::Granted { fence: number(1)?, attempt: small(2)? },
        "crash_loop" => Reply::CrashLoop { fence: number(1)?, claims: small(2)? },
        "unresolved" => {
            Reply::Unresolved { fence: number(1)?, attempt: small(2)?, relay: record(3)? }
        }
        "busy" => Reply::Busy,
        "suspect" => Reply::Suspect,
        "recovering" => Reply::Recovering,
        "ask_audit" => Reply::AskAudit,
        "lost" => Reply::Lost,
        "absent" => Reply::Absent,
        "done" => Reply::Done { record: record(1)? },
        "duplicate" => Reply::Duplicate { record: record(1)? },
        "hand_off" => {
            let next = match text(1)? {
                "retry" => NextStep::Retry(small(2)?),
                "dead" => NextStep::Dead,
                "park" => NextStep::Park,
                _ => NextStep::Poison,
            };
            Reply::Republish { next, attempt: small(3)?, record: text(4)?.to_owned() }
        }
        "error" => return Err(LedgerError(anyhow::Error::msg(text(1)?.to_owned()))),
        other => return Err(LedgerError(anyhow::anyhow!("the script answered {other:?}"))),
    })
}
