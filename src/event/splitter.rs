//! Splits input into the events that it holds.

/// Splits lines of text into events: JSON documents one after the other, each on one line or on several,
/// and the items of arrays. What is no JSON is an event as well, so that it is reported and not lost: it
/// ends with its line, or where a line begins another object.
#[derive(Default)]
pub(crate) struct EventSplitter {
    /// The beginning of an event that goes on.
    event: Vec<u8>,
    /// Open braces and brackets of the event.
    depth: usize,
    in_string: bool,
    is_escaped: bool,
    in_array: bool,
}

impl EventSplitter {
    /// Takes a line without its end, and returns the events that it completes.
    pub(crate) fn line(&mut self, line: &[u8]) -> Vec<Vec<u8>> {
        let mut events = Vec::new();
        let begins_object = line.trim_ascii_start().starts_with(b"{");
        // In JSON, nothing else comes before an object within another value.
        let may_go_on = matches!(self.event.trim_ascii_end().last(), Some(b':' | b',' | b'['));
        if begins_object && self.depth > 0 && !may_go_on {
            events.extend(self.take());
        }
        for &byte in line {
            if self.event.is_empty() {
                match byte {
                    b'[' if !self.in_array => self.in_array = true,
                    b']' if self.in_array => self.in_array = false,
                    b',' if self.in_array => {}
                    _ if byte.is_ascii_whitespace() => {}
                    _ => self.push(byte),
                }
            } else if self.depth == 0 && !self.in_string && self.in_array && b",]".contains(&byte) {
                events.extend(self.take());
                self.in_array = byte == b',';
            } else {
                self.push(byte);
            }
            if self.depth == 0 && matches!(self.event.last(), Some(b'}' | b']')) && !self.in_string
            {
                events.extend(self.take());
            }
        }
        // A string ends in its line, as does what is neither object nor array.
        match self.in_string || self.depth == 0 {
            true => events.extend(self.take()),
            false => self.event.push(b'\n'),
        }
        events
    }

    /// The event that the input breaks off in.
    pub(crate) fn end(mut self) -> Option<Vec<u8>> {
        self.take()
    }

    fn push(&mut self, byte: u8) {
        self.event.push(byte);
        match byte {
            _ if std::mem::take(&mut self.is_escaped) => {}
            b'\\' if self.in_string => self.is_escaped = true,
            b'"' => self.in_string = !self.in_string,
            b'{' | b'[' if !self.in_string => self.depth += 1,
            b'}' | b']' if !self.in_string => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    fn take(&mut self) -> Option<Vec<u8>> {
        let event = std::mem::take(&mut self.event).trim_ascii().to_vec();
        *self = Self { in_array: self.in_array, ..Self::default() };
        (!event.is_empty()).then_some(event)
    }
}

/// All events of a text.
pub(crate) fn split(text: &str) -> Vec<Vec<u8>> {
    let mut splitter = EventSplitter::default();
    let mut events: Vec<_> = text.lines().flat_map(|line| splitter.line(line.as_bytes())).collect();
    events.extend(splitter.end());
    events
}

#[cfg(test)]
mod tests {
    use super::split;

    fn texts(text: &str) -> Vec<String> {
        split(text).into_iter().map(|event| String::from_utf8(event).unwrap()).collect()
    }

    #[test]
    fn documents_on_one_line_or_several_and_items_of_arrays_are_events() {
        for (text, events) in [
            ("", vec![]),
            ("[]", vec![]),
            ("{\"a\":1}\n\n{\"b\":2}\n", vec!["{\"a\":1}", "{\"b\":2}"]),
            ("{\"a\":1}{\"b\":2}", vec!["{\"a\":1}", "{\"b\":2}"]),
            ("{\n  \"a\": [1,\n{\"b\": 2}]\n}\r\n", vec!["{\n  \"a\": [1,\n{\"b\": 2}]\n}"]),
            ("[{\"a\":1},\n {\"b\":[2]}]", vec!["{\"a\":1}", "{\"b\":[2]}"]),
            ("[{\"a\":1}]\n{\"b\":2}", vec!["{\"a\":1}", "{\"b\":2}"]),
            (r#"{"a":"}\"{["} {"b":2}"#, vec![r#"{"a":"}\"{["}"#, r#"{"b":2}"#]),
            ("[1, \"a,]\", [2], null]", vec!["1", "\"a,]\"", "[2]", "null"]),
        ] {
            assert_eq!(texts(text), events, "{text}");
        }
    }

    #[test]
    fn what_is_broken_is_one_event_and_spares_the_others() {
        for (text, events) in [
            ("no event, {}\n{\"b\":2}", vec!["no event, {}", "{\"b\":2}"]),
            ("{\"a\": 1\n{\"b\":2}", vec!["{\"a\": 1", "{\"b\":2}"]),
            ("{\"a\": \"x\n{\"b\":2}", vec!["{\"a\": \"x", "{\"b\":2}"]),
            ("{\"b\":2}\n{\"a\": [", vec!["{\"b\":2}", "{\"a\": ["]),
            ("}\n{\"b\":2}", vec!["}", "{\"b\":2}"]),
        ] {
            assert_eq!(texts(text), events, "{text}");
        }
    }
}
