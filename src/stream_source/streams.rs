//! The streams as Redis keeps them: one group of usher's, what it has been given and not
//! acknowledged, and what nobody needs any more.

use std::{collections::HashMap, time::Duration};

use redis::{Cmd, FromRedisValue, RedisError, Value, aio::ConnectionManager, cmd};

use super::entry::{Entry, Fields};
use crate::{clients::redis::connect, config::Stream, duration::millis, tls::Renewed};

/// The group, and the one consumer in it that all instances are: what one of them leaves is known by
/// the time it has been left for, and no names of instances that are gone stay behind.
const USHER: &str = "usher";

/// How long Redis may wait for new entries before it answers.
const WAIT: Duration = Duration::from_secs(1);
/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(10);

/// An entry as Redis gives it; without fields where it was deleted meanwhile.
type Given = Option<(String, Option<Fields>)>;

/// A group as `XINFO GROUPS` tells it.
type Group = HashMap<String, Value>;

pub(super) struct Streams {
    keys: Vec<String>,
    /// A connection of its own, for whoever waits for entries keeps all others waiting.
    waiting: Renewed<ConnectionManager>,
    asking: Renewed<ConnectionManager>,
}

impl Streams {
    pub(super) fn new(stream: &Stream) -> Result<Self, String> {
        Ok(Self {
            keys: stream.keys.clone(),
            waiting: connect("stream", &stream.server, WAIT + ANSWER)?,
            asking: connect("stream", &stream.server, ANSWER)?,
        })
    }

    pub(super) fn keys(&self) -> &[String] {
        &self.keys
    }

    /// Makes streams and groups that are not there. A group begins with what the stream has, for a
    /// stream that lost its group may have been written to since.
    pub(super) async fn create_groups(&self) -> Result<(), RedisError> {
        for key in &self.keys {
            let mut create = cmd("XGROUP");
            create.arg("CREATE").arg(key).arg(USHER).arg("0").arg("MKSTREAM");
            match self.ask::<Value>(&mut create).await {
                Ok(_) => tracing::info!(stream = key, group = USHER, "a group was made"),
                Err(error) if error.code() == Some("BUSYGROUP") => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits for new entries, not for long, and takes at most so many of each stream.
    pub(super) async fn wait(&self, most: usize) -> Result<Vec<Entry>, RedisError> {
        let mut read = read_group(most);
        read.arg("BLOCK").arg(millis(WAIT)).arg("STREAMS").arg(&self.keys);
        self.keys.iter().for_each(|_| {
            read.arg(">");
        });
        let given: Option<Vec<(String, Vec<Given>)>> = ask(&self.waiting, &read).await?;
        let streams = given.into_iter().flatten();
        Ok(streams.flat_map(|(key, given)| entries(&key, given)).collect())
    }

    /// Takes new entries that are there, at most so many.
    pub(super) async fn take(&self, most: usize) -> Result<Vec<Entry>, RedisError> {
        let mut taken = Vec::new();
        for key in &self.keys {
            let still = most.saturating_sub(taken.len());
            if still == 0 {
                break;
            }
            let mut read = read_group(still);
            read.arg("STREAMS").arg(key).arg(">");
            let given: Option<Vec<(String, Vec<Given>)>> = self.ask(&mut read).await?;
            let streams = given.into_iter().flatten();
            taken.extend(streams.flat_map(|(key, given)| entries(&key, given)));
        }
        Ok(taken)
    }

    /// Takes over what was taken and not acknowledged for so long, at most so many.
    pub(super) async fn take_over(
        &self,
        left_for: Duration,
        most: usize,
    ) -> Result<Vec<Entry>, RedisError> {
        let mut taken = Vec::new();
        for key in &self.keys {
            let mut cursor = "0-0".to_owned();
            while taken.len() < most {
                let mut claim = cmd("XAUTOCLAIM");
                claim.arg(key).arg(USHER).arg(USHER).arg(millis(left_for)).arg(&cursor);
                claim.arg("COUNT").arg(most - taken.len());
                // Redis 7 adds the ids of entries that are gone.
                let answer: Vec<Value> = self.ask(&mut claim).await?;
                let mut answer = answer.into_iter();
                let next = answer.next().map(redis::from_redis_value).transpose()?;
                let given = answer.next().map(redis::from_redis_value).transpose()?;
                taken.extend(entries(key, given.unwrap_or_default()));
                cursor = next.unwrap_or_else(|| "0-0".to_owned());
                if cursor == "0-0" {
                    break;
                }
            }
        }
        Ok(taken)
    }

    /// These are done with.
    pub(super) async fn acknowledge(&self, key: &str, ids: &[&str]) -> Result<(), RedisError> {
        self.ask::<u64>(cmd("XACK").arg(key).arg(USHER).arg(ids)).await.map(drop)
    }

    /// Removes what every group has read and acknowledged, and nothing else.
    pub(super) async fn trim(&self, key: &str) -> Result<(), RedisError> {
        let groups = self.groups(key).await?;
        if !groups.iter().any(is_ours) {
            // Lost right now: what the others need says nothing of what we do.
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
                let summary: Vec<Value> = self.ask(cmd("XPENDING").arg(key).arg(name)).await?;
                let first = summary.into_iter().nth(1).unwrap_or(Value::Nil);
                // Acknowledged in between: the next look finds less.
                let first: Option<String> = redis::from_redis_value(first)?;
                first.as_deref().and_then(parse)
            };
            let Some(needed) = needed else { return Ok(()) };
            first_needed = first_needed.map_or(Some(needed), |first| Some(needed.min(first)));
        }
        let Some((ms, number)) = first_needed else { return Ok(()) };
        let mut trim = cmd("XTRIM");
        trim.arg(key).arg("MINID").arg(format!("{ms}-{number}"));
        self.ask::<u64>(&mut trim).await.map(drop)
    }

    /// Whether usher has read this stream before. There has to be one.
    pub(super) async fn has_group(&self, key: &str) -> Result<bool, RedisError> {
        Ok(self.groups(key).await?.iter().any(is_ours))
    }

    async fn groups(&self, key: &str) -> Result<Vec<Group>, RedisError> {
        self.ask(cmd("XINFO").arg("GROUPS").arg(key)).await
    }

    /// How many entries each stream has.
    pub(super) async fn lengths(&self) -> Result<Vec<(String, u64)>, RedisError> {
        let mut lengths = Vec::new();
        for key in &self.keys {
            lengths.push((key.clone(), self.ask(cmd("XLEN").arg(key)).await?));
        }
        Ok(lengths)
    }

    async fn ask<T: FromRedisValue>(&self, command: &mut Cmd) -> Result<T, RedisError> {
        ask(&self.asking, command).await
    }
}

async fn ask<T: FromRedisValue>(
    connection: &Renewed<ConnectionManager>,
    command: &Cmd,
) -> Result<T, RedisError> {
    let answer = command.query_async(&mut connection.current()).await;
    if answer.as_ref().is_err_and(RedisError::is_timeout) {
        // Something that takes commands and never answers is not given up by itself.
        connection.rebuild();
    }
    answer
}

fn is_ours(group: &Group) -> bool {
    group.get("name").is_some_and(|name| *name == Value::BulkString(USHER.into()))
}

fn read_group(most: usize) -> Cmd {
    let mut read = cmd("XREADGROUP");
    read.arg("GROUP").arg(USHER).arg(USHER).arg("COUNT").arg(most);
    read
}

fn entries(key: &str, given: Vec<Given>) -> Vec<Entry> {
    let entry = |(id, fields): (String, Option<Fields>)| {
        Some(Entry { key: key.to_owned(), id, fields: fields? })
    };
    given.into_iter().flatten().filter_map(entry).collect()
}

fn parse(id: &str) -> Option<(u64, u64)> {
    let (ms, number) = id.split_once('-')?;
    Some((ms.parse().ok()?, number.parse().ok()?))
}

/// The first id that may follow.
fn after(id: &str) -> Option<(u64, u64)> {
    let (ms, number) = parse(id)?;
    number.checked_add(1).map(|number| (ms, number)).or(Some((ms.checked_add(1)?, 0)))
}
