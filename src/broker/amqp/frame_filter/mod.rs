//! Checks the frames that the broker sends before lapin reads them.
//!
//! One message must not keep others from being consumed. lapin ends the connection at a short string
//! that is not UTF-8 (`parse_short_string` of `amq-protocol-types`). Its parser recurses into nested
//! headers without a limit, and it assembles a body in memory whatever its size. So the frames pass
//! through this filter first. It repairs names, leaves out headers that can't be read, and reduces a body
//! that is too large to its size and hash. Each change is reported as the message's [`Fault`], and the
//! message ends in poison.
//!
//! Frames: AMQP 0-9-1, sections 4.2.3 (frames), 4.2.5 (fields) and 4.2.6 (content).

mod repair;

use std::collections::HashMap;

use ring::digest;

use self::repair::{method_with_content, repaired};
use crate::event::Fault;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xce;
/// Type, channel and size.
const FRAME_HEAD: usize = 7;
/// Larger methods and content headers are not kept whole; RabbitMQ's frames have 128 KiB.
const WHOLE_FRAME: usize = 1024 * 1024;
/// What a header costs in memory for each byte on the wire, roughly.
const HEADER_WEIGHT: usize = 8;

/// One connection's frames on their way to lapin.
pub(super) struct FrameFilter {
    max_body: u64,
    /// The beginning of a frame that is not checked yet.
    input: Vec<u8>,
    output: Vec<u8>,
    /// How the next bytes are handled.
    rest: Rest,
    contents: HashMap<u16, Content>,
    discarded: Vec<Arrived>,
    /// The content header that waits for memory, and its channel.
    waiting: Option<(u16, Vec<u8>)>,
}

/// The rest of a frame whose beginning was checked.
enum Rest {
    None,
    Pass(usize),
    Discard {
        channel: u16,
        payload: usize,
    },
    FrameEnd(u16),
    /// Not AMQP frames; lapin reports that.
    Raw,
}

/// A message that is being received on a channel.
#[derive(Default)]
struct Content {
    tag: Option<u64>,
    /// Bytes of the body that are still to come.
    missing: u64,
    /// For a body that is too large: its header, the hash so far, and its size.
    discarded: Option<(Vec<u8>, digest::Context, u64)>,
}

/// A message whose content header went on to lapin.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arrived {
    pub(super) channel: u16,
    pub(super) tag: u64,
    pub(super) fault: Option<Fault>,
}

impl FrameFilter {
    pub(super) fn new(max_body: usize) -> Self {
        Self {
            max_body: max_body as u64,
            input: Vec::new(),
            output: Vec::new(),
            rest: Rest::None,
            contents: HashMap::new(),
            discarded: Vec::new(),
            waiting: None,
        }
    }

    /// Checks these bytes, up to a message that waits for memory.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.waiting.is_some() || !self.input.is_empty() {
            self.input.extend_from_slice(bytes);
            let input = std::mem::take(&mut self.input);
            let used = self.check(&input);
            self.input = input;
            self.input.drain(..used);
        } else {
            let used = self.check(bytes);
            self.input.extend_from_slice(&bytes[used..]);
        }
    }

    /// Bytes for lapin.
    pub(super) fn output(&self) -> &[u8] {
        &self.output
    }

    pub(super) fn consume(&mut self, bytes: usize) {
        self.output.drain(..bytes);
    }

    /// Memory in bytes that the waiting message needs. 0 while a body on another channel is incomplete,
    /// because the rest of that body comes after this message.
    pub(super) fn needs(&self) -> Option<usize> {
        let (channel, payload) = self.waiting.as_ref()?;
        let incomplete =
            |(other, content): (&u16, &Content)| other != channel && content.missing > 0;
        if self.contents.iter().any(incomplete) {
            return Some(0);
        }
        Some(body_size(payload) as usize + payload.len() * HEADER_WEIGHT)
    }

    /// Adds a heartbeat (AMQP 0-9-1, 4.2.7). To be called only while a message waits, between frames.
    pub(super) fn add_heartbeat(&mut self) {
        emit(&mut self.output, HEARTBEAT, 0, &[]);
    }

    /// Passes the waiting message on.
    pub(super) fn admit(&mut self) -> Option<Arrived> {
        let (channel, payload) = self.waiting.take()?;
        let (payload, fault) = repaired(&payload);
        let arrived = self.finish_header(channel, &payload, fault);
        self.push(&[]);
        arrived
    }

    /// Messages that were passed on without their body since the last call.
    pub(super) fn discarded(&mut self) -> Vec<Arrived> {
        std::mem::take(&mut self.discarded)
    }

    /// Returns the number of bytes used.
    fn check(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() && self.waiting.is_none() {
            let left = &bytes[at..];
            let used = match self.rest {
                Rest::Raw => {
                    self.output.extend_from_slice(left);
                    left.len()
                }
                Rest::Pass(count) => {
                    let now = count.min(left.len());
                    self.output.extend_from_slice(&left[..now]);
                    self.rest = if now == count { Rest::None } else { Rest::Pass(count - now) };
                    now
                }
                Rest::Discard { channel, payload } => {
                    let now = payload.min(left.len());
                    self.discard(channel, &left[..now]);
                    self.rest = match payload - now {
                        0 => Rest::FrameEnd(channel),
                        payload => Rest::Discard { channel, payload },
                    };
                    now
                }
                Rest::FrameEnd(channel) => {
                    self.rest = Rest::None;
                    self.end_discarded(channel);
                    1
                }
                Rest::None => match self.begin(left) {
                    0 => break,
                    used => used,
                },
            };
            at += used;
        }
        at
    }

    /// Checks a frame from its first byte on; returns 0 if more bytes are needed.
    fn begin(&mut self, bytes: &[u8]) -> usize {
        if !matches!(bytes[0], METHOD | HEADER | BODY | HEARTBEAT) {
            self.rest = Rest::Raw;
            return self.pass_raw(bytes);
        }
        let Some(head) = bytes.get(..FRAME_HEAD) else { return 0 };
        let channel = u16::from_be_bytes([head[1], head[2]]);
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let discards = self.contents.get(&channel).is_some_and(|one| one.discarded.is_some());
        if head[0] == BODY {
            if discards {
                self.rest = match size {
                    0 => Rest::FrameEnd(channel),
                    payload => Rest::Discard { channel, payload },
                };
                return FRAME_HEAD;
            }
            if let Some(content) = self.contents.get_mut(&channel) {
                content.missing = content.missing.saturating_sub(size as u64);
            }
        }
        if !matches!(head[0], METHOD | HEADER) || size > WHOLE_FRAME {
            self.rest = Rest::Pass(FRAME_HEAD + size + 1);
            return self.pass(bytes);
        }
        let Some(frame) = bytes.get(..FRAME_HEAD + size + 1) else { return 0 };
        let payload = &frame[FRAME_HEAD..FRAME_HEAD + size];
        match head[0] {
            METHOD => self.method(channel, payload),
            _ => self.header(channel, payload),
        }
        frame.len()
    }

    fn pass_raw(&mut self, bytes: &[u8]) -> usize {
        self.output.extend_from_slice(bytes);
        bytes.len()
    }

    fn pass(&mut self, bytes: &[u8]) -> usize {
        let Rest::Pass(count) = self.rest else { return 0 };
        let now = count.min(bytes.len());
        self.output.extend_from_slice(&bytes[..now]);
        self.rest = if now == count { Rest::None } else { Rest::Pass(count - now) };
        now
    }

    fn method(&mut self, channel: u16, payload: &[u8]) {
        let mut repaired = None;
        if let Some((tag, names)) = method_with_content(payload) {
            self.contents.insert(channel, Content { tag, ..Content::default() });
            repaired = names;
        }
        emit(&mut self.output, METHOD, channel, repaired.as_deref().unwrap_or(payload));
    }

    fn header(&mut self, channel: u16, payload: &[u8]) {
        let size = body_size(payload);
        if size > self.max_body {
            let header = payload.to_vec();
            let content = self.contents.entry(channel).or_default();
            content.discarded = Some((header, digest::Context::new(&digest::SHA256), size));
            content.missing = size;
            return;
        }
        self.waiting = Some((channel, payload.to_vec()));
    }

    fn discard(&mut self, channel: u16, bytes: &[u8]) {
        let Some(content) = self.contents.get_mut(&channel) else { return };
        content.missing = content.missing.saturating_sub(bytes.len() as u64);
        if let Some((_, hash, _)) = &mut content.discarded {
            hash.update(bytes);
        }
    }

    /// Passes the message on without its body once the whole body was read.
    fn end_discarded(&mut self, channel: u16) {
        let Some(content) = self.contents.get_mut(&channel) else { return };
        if content.missing > 0 {
            return;
        }
        let Some((payload, hash, bytes)) = content.discarded.take() else { return };
        let (mut payload, _) = repaired(&payload);
        payload[4..12].fill(0);
        let hash = format!("sha256:{}", hex::encode(hash.finish()));
        let fault = Some(Fault::TooLarge { bytes, hash });
        let arrived = self.finish_header(channel, &payload, fault);
        self.discarded.extend(arrived);
    }

    fn finish_header(
        &mut self,
        channel: u16,
        payload: &[u8],
        fault: Option<Fault>,
    ) -> Option<Arrived> {
        emit(&mut self.output, HEADER, channel, payload);
        let content = self.contents.entry(channel).or_default();
        content.missing = body_size(payload);
        content.tag.map(|tag| Arrived { channel, tag, fault })
    }
}

pub(super) fn emit(output: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    output.push(kind);
    output.extend_from_slice(&channel.to_be_bytes());
    // Fits into 32 bits: the size was read from 32 bits, and a repaired payload is hardly larger.
    output.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    output.extend_from_slice(payload);
    output.push(FRAME_END);
}

/// The body size of a content header; class and weight precede it.
fn body_size(payload: &[u8]) -> u64 {
    let bytes = payload.get(4..12).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        emit(&mut frame, kind, channel, payload);
        frame
    }

    pub(super) fn short(text: &[u8]) -> Vec<u8> {
        [&[text.len() as u8], text].concat()
    }

    fn deliver(channel: u16, tag: u64) -> Vec<u8> {
        let mut payload = [0, 60, 0, 60].to_vec();
        payload.extend(short(b"consumer"));
        payload.extend(tag.to_be_bytes());
        payload.push(0);
        payload.extend(short(b""));
        payload.extend(short(b"queue"));
        frame(METHOD, channel, &payload)
    }

    pub(super) fn header(size: u64, flags: u16, properties: &[u8]) -> Vec<u8> {
        let mut payload = [0, 60, 0, 0].to_vec();
        payload.extend(size.to_be_bytes());
        payload.extend(flags.to_be_bytes());
        payload.extend(properties);
        payload
    }

    pub(super) fn table(entries: &[u8]) -> Vec<u8> {
        [&(entries.len() as u32).to_be_bytes(), entries].concat()
    }

    /// The output and the messages, for input that comes in pieces.
    fn filtered_in_pieces(input: &[u8], piece: usize) -> (Vec<u8>, Vec<Arrived>) {
        let mut filter = FrameFilter::new(1000);
        let (mut output, mut arrived) = (Vec::new(), Vec::new());
        for piece in input.chunks(piece) {
            filter.push(piece);
            while filter.needs().is_some() {
                arrived.extend(filter.admit());
            }
            output.extend_from_slice(filter.output());
            filter.consume(filter.output().len());
            arrived.extend(filter.discarded());
        }
        arrived.sort_by_key(|one: &Arrived| (one.channel, one.tag));
        (output, arrived)
    }

    fn filtered(input: &[u8]) -> (Vec<u8>, Vec<Arrived>) {
        let whole = filtered_in_pieces(input, input.len());
        for piece in [1, 7, 13] {
            assert_eq!(filtered_in_pieces(input, piece), whole, "in pieces of {piece}");
        }
        whole
    }

    fn fault(input: &[u8]) -> Option<Fault> {
        let (_, arrived) = filtered(input);
        assert_eq!(arrived.len(), 1);
        arrived.into_iter().next().unwrap().fault
    }

    #[test]
    fn what_is_sound_passes_as_it_is() {
        let entries = [
            &short(b"ok")[..],
            b"S\x00\x00\x00\x02\xff\xfe",
            &short(b"n"),
            b"F",
            &table(&[&short(b"a")[..], b"A\x00\x00\x00\x02V\x56"].concat()),
        ];
        let properties = [&table(&entries.concat())[..], &short("ñ".as_bytes())].concat();
        let flags = 1 << 13 | 1 << 10;
        let input = [
            frame(8, 0, b""),
            deliver(1, 1),
            frame(HEADER, 1, &header(5, flags, &properties)),
            frame(BODY, 1, b"he"),
            frame(8, 0, b""),
            frame(BODY, 1, b"llo"),
            deliver(2, 1),
            frame(HEADER, 2, &header(0, 0, b"")),
            frame(METHOD, 1, &[0, 10, 0, 50]),
        ];
        let (output, arrived) = filtered(&input.concat());
        assert_eq!(output, input.concat());
        let arrived_are =
            [(1, 1), (2, 1)].map(|(channel, tag)| Arrived { channel, tag, fault: None });
        assert_eq!(arrived, arrived_are);
        let no_amqp = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        assert_eq!(filtered(no_amqp).0, no_amqp);
    }

    #[test]
    fn names_that_are_not_utf_8_are_repaired_and_told() {
        for (bit, name) in [
            (15, "content-type"),
            (10, "correlation-id"),
            (7, "message-id"),
            (5, "type"),
            (3, "app-id"),
        ] {
            let input = [
                deliver(1, 7),
                frame(HEADER, 1, &header(2, 1 << bit, &short(b"a\xffb"))),
                frame(BODY, 1, b"{}"),
            ];
            let repaired = [
                deliver(1, 7),
                frame(HEADER, 1, &header(2, 1 << bit, &short("a\u{fffd}b".as_bytes()))),
                frame(BODY, 1, b"{}"),
            ];
            let (output, arrived) = filtered(&input.concat());
            assert_eq!(output, repaired.concat(), "{name}");
            let fault = Some(Fault::Unreadable(format!("the property {name} is not UTF-8")));
            assert_eq!(arrived, [Arrived { channel: 1, tag: 7, fault }]);
        }
        let long = [deliver(1, 1), frame(HEADER, 1, &header(0, 1 << 10, &short(&[0xff; 255])))];
        let (output, _) = filtered(&long.concat());
        assert!(
            output.windows(256).any(|text| *text == short("\u{fffd}".repeat(85).as_bytes())[..])
        );
    }

    #[test]
    fn headers_that_can_not_be_read_are_left_out() {
        let nested = |depth: usize| {
            let mut inner = Vec::new();
            for _ in 0..depth {
                inner = [&short(b"n")[..], b"F", &table(&inner)].concat();
            }
            inner
        };
        let large = [&short(b"n")[..], b"S", &table(&[b'x'; 101 * 1024])].concat();
        for (entries, reason) in [
            ([&short(b"\xff")[..], b"V"].concat(), "the name of a header is not UTF-8"),
            (
                [&short(b"n")[..], b"F", &table(&[&short(b"\xff")[..], b"V"].concat())].concat(),
                "the name of a header is not UTF-8",
            ),
            ([&short(b"n")[..], b"?"].concat(), "its headers can't be read"),
            ([&short(b"n")[..], b"S\x00\x00\x00\x09x"].concat(), "its headers can't be read"),
            (nested(10_000), "its headers can't be read"),
            (large, "its headers have 103431 bytes, too many to be read"),
        ] {
            let input = [
                deliver(1, 1),
                frame(
                    HEADER,
                    1,
                    &header(0, 1 << 13 | 1 << 7, &[table(&entries), short(b"id")].concat()),
                ),
            ];
            assert_eq!(fault(&input.concat()), Some(Fault::Unreadable(reason.to_owned())));
        }
        let input = [deliver(1, 1), frame(HEADER, 1, &header(0, 1 << 13, &table(&nested(16))))];
        assert_eq!(fault(&input.concat()), None);
        let cut = [deliver(1, 1), frame(HEADER, 1, &header(3, 1 << 7, &short(b"id")[..2]))];
        let (output, arrived) = filtered(&cut.concat());
        assert_eq!(output, [deliver(1, 1), frame(HEADER, 1, &header(3, 0, b""))].concat());
        assert!(arrived[0].fault.is_some());
    }

    #[test]
    fn of_a_body_that_is_too_large_size_and_hash_go_on() {
        let body = vec![b'x'; 1500];
        let properties = short(b"id");
        let input = [
            deliver(1, 3),
            frame(HEADER, 1, &header(1500, 1 << 7, &properties)),
            frame(BODY, 1, &body[..1000]),
            deliver(2, 1),
            frame(HEADER, 2, &header(1, 0, b"")),
            frame(BODY, 2, b"y"),
            frame(BODY, 1, &body[1000..]),
            deliver(1, 4),
            frame(HEADER, 1, &header(1000, 0, b"")),
            frame(BODY, 1, &body[..1000]),
        ];
        let (output, arrived) = filtered(&input.concat());
        let expected = [
            deliver(1, 3),
            deliver(2, 1),
            frame(HEADER, 2, &header(1, 0, b"")),
            frame(BODY, 2, b"y"),
            frame(HEADER, 1, &header(0, 1 << 7, &properties)),
            deliver(1, 4),
            frame(HEADER, 1, &header(1000, 0, b"")),
            frame(BODY, 1, &body[..1000]),
        ];
        assert_eq!(output, expected.concat());
        let hash = hex::encode(digest::digest(&digest::SHA256, &body));
        let hash = format!("sha256:{hash}");
        assert_eq!(arrived[0].fault, Some(Fault::TooLarge { bytes: 1500, hash }));
        assert_eq!(arrived[1..].iter().filter_map(|one| one.fault.as_ref()).count(), 0);
        assert_eq!(arrived.len(), 3);
    }

    #[test]
    fn a_message_waits_for_memory_unless_another_is_incomplete() {
        let mut filter = FrameFilter::new(1000);
        let head = frame(HEADER, 1, &header(500, 0, b""));
        filter.push(&[deliver(1, 1), head.clone(), frame(BODY, 1, &[b'x'; 500])].concat());
        assert_eq!(filter.output(), deliver(1, 1));
        assert_eq!(filter.needs(), Some(500 + 14 * HEADER_WEIGHT));
        filter.admit();
        assert_eq!(filter.needs(), None);
        filter.push(
            &[deliver(1, 2), head.clone(), deliver(2, 1), frame(HEADER, 2, &header(9, 0, b""))]
                .concat(),
        );
        filter.admit();
        assert_eq!(filter.needs(), Some(0));
    }
}
