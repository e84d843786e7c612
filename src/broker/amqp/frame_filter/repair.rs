//! Makes methods and content headers such that lapin can read them.

use crate::event::Fault;

/// Content headers above this lose their table: RabbitMQ adds to headers until they exceed the
/// negotiated frame size, and lapin ends the connection then.
const HEADER_BYTES: usize = 100 * 1024;
/// Deepest table or array of a header.
const DEPTH: usize = 16;

/// Methods of class `basic` that a content follows.
const BASIC: u16 = 60;
const RETURN: u16 = 50;
const DELIVER: u16 = 60;
const GET_OK: u16 = 71;

/// For a method with content: the delivery tag, if it has one, and the repaired method if a name was not
/// UTF-8.
pub(super) fn method_with_content(payload: &[u8]) -> Option<(Option<u64>, Option<Vec<u8>>)> {
    let mut from = Reader(payload);
    let (class, method) = (from.u16()?, from.u16()?);
    if class != BASIC || !matches!(method, RETURN | DELIVER | GET_OK) {
        return None;
    }
    let mut to = payload[..4].to_vec();
    let mut changed = false;
    let mut tag = None;
    if method == RETURN {
        to.extend_from_slice(from.take(2)?);
    }
    if method != GET_OK {
        // The consumer's tag, or the reason of the return.
        changed |= copy_short(&mut from, &mut to)?;
    }
    if method != RETURN {
        let delivery = from.take(9)?;
        tag = Reader(delivery).u64();
        to.extend_from_slice(delivery);
    }
    changed |= copy_short(&mut from, &mut to)?;
    changed |= copy_short(&mut from, &mut to)?;
    to.extend_from_slice(from.0);
    Some((tag, changed.then_some(to)))
}

/// The properties in their order (class `basic`, 1.8.2), with their types.
const PROPERTIES: [(&str, Kind); 14] = [
    ("content-type", Kind::Short),
    ("content-encoding", Kind::Short),
    ("headers", Kind::Table),
    ("delivery-mode", Kind::Bytes(1)),
    ("priority", Kind::Bytes(1)),
    ("correlation-id", Kind::Short),
    ("reply-to", Kind::Short),
    ("expiration", Kind::Short),
    ("message-id", Kind::Short),
    ("timestamp", Kind::Bytes(8)),
    ("type", Kind::Short),
    ("user-id", Kind::Short),
    ("app-id", Kind::Short),
    ("cluster-id", Kind::Short),
];

#[derive(Clone, Copy)]
enum Kind {
    Short,
    Table,
    Bytes(usize),
}

/// A content header that lapin can read, and the fault of the original.
pub(super) fn repaired(payload: &[u8]) -> (Vec<u8>, Option<Fault>) {
    let mut faults = Vec::new();
    let payload = match properties(payload, &mut faults) {
        Some(repaired) => repaired,
        None => {
            faults = vec!["its properties can't be read".to_owned()];
            // Without properties.
            let mut bare = payload.get(..12).unwrap_or_default().to_vec();
            bare.resize(14, 0);
            bare
        }
    };
    let fault = (!faults.is_empty()).then(|| Fault::Unreadable(faults.join("; ")));
    (payload, fault)
}

fn properties(payload: &[u8], faults: &mut Vec<String>) -> Option<Vec<u8>> {
    let mut from = Reader(payload);
    let mut to = Vec::with_capacity(payload.len());
    to.extend_from_slice(from.take(12)?);
    let flags = from.u16()?;
    // The last two bits stand for no property; the last one means that more flags follow.
    if flags & 0b11 != 0 {
        return None;
    }
    to.extend_from_slice(&flags.to_be_bytes());
    for (index, (name, kind)) in PROPERTIES.into_iter().enumerate() {
        if flags & (1 << (15 - index)) == 0 {
            continue;
        }
        match kind {
            Kind::Bytes(count) => to.extend_from_slice(from.take(count)?),
            Kind::Short => {
                if copy_short(&mut from, &mut to)? {
                    faults.push(format!("the property {name} is not UTF-8"));
                }
            }
            Kind::Table => {
                let table = from.long()?;
                let begin = to.len();
                let mut changed = false;
                let unreadable = if payload.len() > HEADER_BYTES {
                    Some(format!("its headers have {} bytes, too many to be read", table.len()))
                } else {
                    let copied = copy_table(table, &mut to, DEPTH, &mut changed);
                    copied.is_none().then(|| "its headers can't be read".to_owned())
                };
                if let Some(reason) = unreadable {
                    to.truncate(begin);
                    to.extend_from_slice(&[0; 4]);
                    faults.push(reason);
                } else if changed {
                    faults.push("the name of a header is not UTF-8".to_owned());
                }
            }
        }
    }
    from.0.is_empty().then_some(to)
}

/// Checks the entries of a table; `None` if they can't be read.
fn copy_table(table: &[u8], to: &mut Vec<u8>, depth: usize, changed: &mut bool) -> Option<()> {
    with_length(to, |to| {
        let mut from = Reader(table);
        while !from.0.is_empty() {
            *changed |= copy_short(&mut from, to)?;
            copy_value(&mut from, to, depth, changed)?;
        }
        Some(())
    })
}

fn copy_value(
    from: &mut Reader<'_>,
    to: &mut Vec<u8>,
    depth: usize,
    changed: &mut bool,
) -> Option<()> {
    let kind = from.take(1)?;
    to.extend_from_slice(kind);
    let count = match kind[0] {
        b't' | b'b' | b'B' => 1,
        b's' | b'U' | b'u' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'l' | b'L' | b'd' | b'T' => 8,
        b'V' => 0,
        b'S' | b'x' => {
            let text = from.long()?;
            return with_length(to, |to| {
                to.extend_from_slice(text);
                Some(())
            });
        }
        b'F' => return copy_table(from.long()?, to, depth.checked_sub(1)?, changed),
        b'A' => {
            let depth = depth.checked_sub(1)?;
            let mut items = Reader(from.long()?);
            return with_length(to, |to| {
                while !items.0.is_empty() {
                    copy_value(&mut items, to, depth, changed)?;
                }
                Some(())
            });
        }
        _ => return None,
    };
    to.extend_from_slice(from.take(count)?);
    Some(())
}

/// Writes the length of the following bytes in front of them.
fn with_length(to: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Option<()> {
    let begin = to.len();
    to.extend_from_slice(&[0; 4]);
    write(to)?;
    let length = u32::try_from(to.len() - begin - 4).ok()?;
    to[begin..begin + 4].copy_from_slice(&length.to_be_bytes());
    Some(())
}

/// A short string with replacement characters for what is not UTF-8, and whether there were any.
fn copy_short(from: &mut Reader<'_>, to: &mut Vec<u8>) -> Option<bool> {
    let length = from.take(1)?[0];
    let text = from.take(length.into())?;
    if str::from_utf8(text).is_ok() {
        to.push(length);
        to.extend_from_slice(text);
        return Some(false);
    }
    let lossy = String::from_utf8_lossy(text);
    let mut end = lossy.len().min(255);
    while !lossy.is_char_boundary(end) {
        end -= 1;
    }
    // At most 255.
    to.push(end as u8);
    to.extend_from_slice(&lossy.as_bytes()[..end]);
    Some(true)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    /// Bytes behind a length of four bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_be_bytes(self.take(4)?.try_into().ok()?);
        self.take(usize::try_from(length).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        collection::vec,
        prelude::*,
        sample::{Index, select},
    };

    use super::{
        super::tests::{header, short, table},
        *,
    };

    #[test]
    fn names_of_exchanges_and_keys_are_repaired() {
        let mut payload = [0, 60, 0, 71].to_vec();
        payload.extend(9_u64.to_be_bytes());
        payload.push(1);
        payload.extend(short(b"\xfe"));
        payload.extend(short(b"key"));
        payload.extend(4_u32.to_be_bytes());
        let (tag, repaired) = method_with_content(&payload).unwrap();
        assert_eq!(tag, Some(9));
        let mut expected = payload[..13].to_vec();
        expected.extend(short("\u{fffd}".as_bytes()));
        expected.extend(short(b"key"));
        expected.extend(4_u32.to_be_bytes());
        assert_eq!(repaired, Some(expected));
    }

    fn value() -> impl Strategy<Value = Vec<u8>> {
        let sized = [(b't', 1), (b'b', 1), (b'B', 1), (b's', 2), (b'u', 2), (b'I', 4), (b'i', 4)];
        let larger = [(b'l', 8), (b'L', 8), (b'f', 4), (b'd', 8), (b'T', 8), (b'D', 5), (b'V', 0)];
        let plain = (select([sized, larger].concat()), any::<[u8; 8]>())
            .prop_map(|((kind, size), bytes)| [&[kind][..], &bytes[..size]].concat());
        let text = (select(vec![b'S', b'x']), vec(any::<u8>(), 0..8))
            .prop_map(|(kind, bytes)| [vec![kind], table(&bytes)].concat());
        prop_oneof![plain, text].prop_recursive(6, 40, 5, |inner| {
            let array = vec(inner.clone(), 0..5)
                .prop_map(|values| [&b"A"[..], &table(&values.concat())].concat());
            prop_oneof![array, entries(inner).prop_map(|all| [&b"F"[..], &table(&all)].concat())]
        })
    }

    fn name() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![4 => "[a-z]{0,8}".prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..8)]
            .prop_map(|name| short(&name))
    }

    fn entries(values: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
        vec((name(), values).prop_map(|(name, value)| [name, value].concat()), 0..5)
            .prop_map(|entries| entries.concat())
    }

    proptest! {
        /// lapin ends its connection when it can't read the properties of a message.
        #[test]
        fn what_leaves_the_filter_lapin_can_read(
            flags in any::<u16>(),
            names in vec(name(), 14),
            headers in entries(value()),
            slip in proptest::option::of((any::<Index>(), any::<u8>())),
        ) {
            let flags = flags & !0b11;
            let mut bytes = Vec::new();
            for (index, (_, kind)) in PROPERTIES.into_iter().enumerate() {
                if flags & (1 << (15 - index)) == 0 {
                    continue;
                }
                match kind {
                    Kind::Bytes(count) => bytes.extend(std::iter::repeat_n(7, count)),
                    Kind::Short => bytes.extend(&names[index]),
                    Kind::Table => bytes.extend(table(&headers)),
                }
            }
            let mut payload = header(3, flags, &bytes);
            if let Some((index, byte)) = slip {
                let place = 12 + index.index(payload.len() - 12);
                payload[place] = byte;
            }
            let (repaired, fault) = repaired(&payload);
            let read = lapin::protocol::basic::parse_properties(&repaired[12..]);
            prop_assert!(matches!(read, Ok((&[], _))), "{payload:?} became {repaired:?}");
            prop_assert!(fault.is_some() || repaired == payload);
        }
    }
}
