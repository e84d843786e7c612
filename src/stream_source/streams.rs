//! The Redis commands: one consumer group, its pending entries, and trimming.

use std::{collections::HashMap, time::Duration};

use redis::{Cmd, FromRedisValue, RedisError, Value, aio::ConnectionManager, cmd};

use super::entry::{Entry, Fields};
use crate::{clients::redis::connect, config::Stream, duration::millis, tls::Renewed};

/// The consumer group, and the single consumer that all instances share. What one of them leaves
/// behind is recognised by its idle time, and no consumer names of dead instances pile up.
const GROUP: &str = "usher";

/// How long Redis may block for new entries.
const WAIT: Duration = Duration::from_secs(1);
/// How long Redis may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// An entry as Redis returns it; without fields if it was deleted meanwhile.
type RawEntry = Option<(String, Option<Fields>)>;

/// A group as `XINFO GROUPS` returns it.
type Group = HashMap<String, Value>;

pub(super) struct Streams {
    keys: Vec<String>,
    /// A connection of its own, since a blocking read blocks its connection.
    blocking_reads: Renewed<ConnectionManager>,
    commands: Renewed<ConnectionManager>,
}

impl Streams {
    pub(super) fn new(stream: &Stream) -> Result<Self, String> {
        Ok(Self {
            keys: stream.keys.clone(),
            blocking_reads: connect("stream", &stream.server, WAIT + ANSWER)?,
            commands: connect("stream", &stream.server, ANSWER)?,
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

    /// Blocks for new entries for a short time, and takes at most `limit` of each stream.
    pub(super) async fn wait(&self, limit: usize) -> Result<Vec<Entry>, RedisError> {
        let mut read = read_group(limit);
        read.arg("BLOCK").arg(millis(WAIT)).arg("STREAMS").arg(&self.keys);
        self.keys.iter().for_each(|_| {
            read.arg(">");
        });
        let raw: Option<Vec<(String, Vec<RawEntry>)>> = query(&self.blocking_reads, &read).await?;
        let streams = raw.into_iter().flatten();
        Ok(streams.flat_map(|(key, raw)| entries(&key, raw)).collect())
    }

    /// Takes at most `limit` new entries without blocking.
    pub(super) async fn take(&self, limit: usize) -> Result<Vec<Entry>, RedisError> {
        let mut taken = Vec::new();
        for key in &self.keys {
            let still = limit.saturating_sub(taken.len());
            if still == 0 {
                break;
            }
            let mut read = read_group(still);
            read.arg("STREAMS").arg(key).arg(">");
            let raw: Option<Vec<(String, Vec<RawEntry>)>> = self.query(&mut read).await?;
            let streams = raw.into_iter().flatten();
            taken.extend(streams.flat_map(|(key, raw)| entries(&key, raw)));
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
            let mut cursor = "0-0".to_owned();
            while taken.len() < limit {
                let mut claim = cmd("XAUTOCLAIM");
                claim.arg(key).arg(GROUP).arg(GROUP).arg(millis(idle_after)).arg(&cursor);
                claim.arg("COUNT").arg(limit - taken.len());
                // Redis 7 adds the ids of deleted entries.
                let answer: Vec<Value> = self.query(&mut claim).await?;
                let mut answer = answer.into_iter();
                let next = answer.next().map(redis::from_redis_value).transpose()?;
                let raw = answer.next().map(redis::from_redis_value).transpose()?;
                taken.extend(entries(key, raw.unwrap_or_default()));
                cursor = next.unwrap_or_else(|| "0-0".to_owned());
                if cursor == "0-0" {
                    break;
                }
            }
        }
        Ok(taken)
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
        query(&self.commands, command).await
    }
}

async fn query<T: FromRedisValue>(
    connection: &Renewed<ConnectionManager>,
    command: &Cmd,
) -> Result<T, RedisError> {
    let answer = command.query_async(&mut connection.current()).await;
    if answer.as_ref().is_err_and(RedisError::is_timeout) {
        // The client does not give up a connection that accepts commands and never answers.
        connection.rebuild();
    }
    answer
}

fn is_ours(group: &Group) -> bool {
    group.get("name").is_some_and(|name| *name == Value::BulkString(GROUP.into()))
}

fn read_group(limit: usize) -> Cmd {
    let mut read = cmd("XREADGROUP");
    read.arg("GROUP").arg(GROUP).arg(GROUP).arg("COUNT").arg(limit);
    read
}

fn entries(key: &str, raw: Vec<RawEntry>) -> Vec<Entry> {
    let entry = |(id, fields): (String, Option<Fields>)| {
        Some(Entry { key: key.to_owned(), id, fields: fields? })
    };
    raw.into_iter().flatten().filter_map(entry).collect()
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
