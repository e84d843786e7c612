//! The Redis commands: one consumer group, its pending entries, and trimming.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use redis::{Cmd, FromRedisValue, RedisError, Script, Value, cmd};
use tokio::time::sleep;

use super::entry::{Entry, Fields};
use crate::{
    clients::redis::{Connection, connect},
    config::Stream,
    duration::millis,
    event::MAX_EVENT_BYTES,
    tls::Renewed,
};

/// The consumer group, and the single consumer that all instances share. What one of them leaves
/// behind is recognised by its idle time, and no consumer names of dead instances pile up.
const GROUP: &str = "usher";

/// How long one call waits for new entries.
const WAIT: Duration = Duration::from_secs(1);
/// How often it polls. A blocking read would return an entry of any size.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long Redis may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// Maximum size of a batch, in bytes.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// An entry as the script returns it: id, fields, size, and the hash of one that is too large.
type RawEntry = (String, Fields, u64, String);

/// A group as `XINFO GROUPS` returns it.
type Group = HashMap<String, Value>;

pub(super) struct Streams {
    keys: Vec<String>,
    connection: Renewed<Connection>,
    take: Script,
}

impl Streams {
    pub(super) fn new(stream: &Stream) -> Result<Self, String> {
        Ok(Self {
            keys: stream.keys.clone(),
            connection: connect("stream", &stream.server, ANSWER)?,
            take: Script::new(include_str!("take.lua")),
        })
    }

    pub(super) fn keys(&self) -> &[String] {
        &self.keys
    }

    /// Creates missing streams and groups. A group starts at the beginning of its stream: a stream
    /// that lost its group may have been written to since.
    pub(super) async fn create_groups(&self) -> Result<(), RedisError> {
        for key in &self.keys {
            let mut create = cmd("XGROUP");
            create.arg("CREATE").arg(key).arg(GROUP).arg("0").arg("MKSTREAM");
            match self.query::<Value>(&mut create).await {
                Ok(_) => {
                    tracing::info!(stream = key, group = GROUP, "a consumer group was created");
                }
                Err(error) if error.code() == Some("BUSYGROUP") => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for new entries for a short time, and takes at most `limit` of each stream.
    pub(super) async fn wait(&self, limit: usize) -> Result<Vec<Entry>, RedisError> {
        let began = Instant::now();
        loop {
            let mut taken = Vec::new();
            for key in &self.keys {
                taken.extend(self.take_from(key, None, limit).await?);
            }
            if !taken.is_empty() || began.elapsed() > WAIT {
                return Ok(taken);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Takes at most `limit` new entries without waiting.
    pub(super) async fn take(&self, limit: usize) -> Result<Vec<Entry>, RedisError> {
        let mut taken = Vec::new();
        for key in &self.keys {
            let still = limit.saturating_sub(taken.len());
            if still == 0 {
                break;
            }
            taken.extend(self.take_from(key, None, still).await?);
        }
        Ok(taken)
    }

    /// Takes over at most `limit` entries that were pending for `idle_after`.
    pub(super) async fn take_over(
        &self,
        idle_after: Duration,
        limit: usize,
    ) -> Result<Vec<Entry>, RedisError> {
        let mut taken = Vec::new();
        for key in &self.keys {
            let still = limit.saturating_sub(taken.len());
            if still == 0 {
                break;
            }
            taken.extend(self.take_from(key, Some(idle_after), still).await?);
        }
        Ok(taken)
    }

    /// Takes entries of one stream: new ones, or those that were pending for `idle_after`.
    async fn take_from(
        &self,
        key: &str,
        idle_after: Option<Duration>,
        limit: usize,
    ) -> Result<Vec<Entry>, RedisError> {
        let idle_after =
            idle_after.map_or_else(|| "new".to_owned(), |time| millis(time).to_string());
        let mut call = self.take.key(key);
        call.arg(GROUP).arg(idle_after).arg(limit).arg(BATCH_BYTES).arg(MAX_EVENT_BYTES);
        let mut connection = self.connection.current();
        let answer: Result<Vec<RawEntry>, _> = call.invoke_async(&mut connection).await;
        let entry = |(id, fields, bytes, hash): RawEntry| {
            let too_large = (!hash.is_empty()).then(|| (bytes, format!("sha1:{hash}")));
            Entry { key: key.to_owned(), id, fields, too_large }
        };
        Ok(answer?.into_iter().map(entry).collect())
    }

    /// Acknowledges entries.
    pub(super) async fn acknowledge(&self, key: &str, ids: &[&str]) -> Result<(), RedisError> {
        self.query::<u64>(cmd("XACK").arg(key).arg(GROUP).arg(ids)).await.map(drop)
    }

    /// Removes entries that every group has read and acknowledged.
    pub(super) async fn trim(&self, key: &str) -> Result<(), RedisError> {
        let groups = self.groups(key).await?;
        if !groups.iter().any(is_ours) {
            // usher's group is lost at the moment, so the other groups alone don't decide.
            return Ok(());
        }
        let mut first_needed = None;
        for group in groups {
            let field = |name: &str| group.get(name).cloned().unwrap_or(Value::Nil);
            let pending: u64 = redis::from_redis_value(field("pending"))?;
            let needed = if pending == 0 {
                let last: String = redis::from_redis_value(field("last-delivered-id"))?;
                after(&last)
            } else {
                let name: Vec<u8> = redis::from_redis_value(field("name"))?;
                let summary: Vec<Value> = self.query(cmd("XPENDING").arg(key).arg(name)).await?;
                let first = summary.into_iter().nth(1).unwrap_or(Value::Nil);
                // Acknowledged in between: the next call trims less.
                let first: Option<String> = redis::from_redis_value(first)?;
                first.as_deref().and_then(parse)
            };
            let Some(needed) = needed else { return Ok(()) };
            first_needed = first_needed.map_or(Some(needed), |first| Some(needed.min(first)));
        }
        let Some((ms, number)) = first_needed else { return Ok(()) };
        let mut trim = cmd("XTRIM");
        trim.arg(key).arg("MINID").arg(format!("{ms}-{number}"));
        self.query::<u64>(&mut trim).await.map(drop)
    }

    /// Whether usher has read this stream before. The stream has to exist.
    pub(super) async fn has_group(&self, key: &str) -> Result<bool, RedisError> {
        Ok(self.groups(key).await?.iter().any(is_ours))
    }

    async fn groups(&self, key: &str) -> Result<Vec<Group>, RedisError> {
        self.query(cmd("XINFO").arg("GROUPS").arg(key)).await
    }

    pub(super) async fn lengths(&self) -> Result<Vec<(String, u64)>, RedisError> {
        let mut lengths = Vec::new();
        for key in &self.keys {
            lengths.push((key.clone(), self.query(cmd("XLEN").arg(key)).await?));
        }
        Ok(lengths)
    }

    async fn query<T: FromRedisValue>(&self, command: &mut Cmd) -> Result<T, RedisError> {
        command.query_async(&mut self.connection.current()).await
    }
}

fn is_ours(group: &Group) -> bool {
    group.get("name").is_some_and(|name| *name == Value::BulkString(GROUP.into()))
}

fn parse(id: &str) -> Option<(u64, u64)> {
    let (ms, number) = id.split_once('-')?;
    Some((ms.parse().ok()?, number.parse().ok()?))
}

/// The smallest id that may follow.
fn after(id: &str) -> Option<(u64, u64)> {
    let (ms, number) = parse(id)?;
    number.checked_add(1).map(|number| (ms, number)).or(Some((ms.checked_add(1)?, 0)))
}
