//! For the fuzz target `properties`: from the frames of a message to those of its copy.

use lapin::protocol::basic;

use super::{
    frame_filter::{FrameFilter, emit},
    headers::{event_properties, upstream_properties},
};
use crate::event::Properties;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// Type, channel and size; class, weight and body size.
const BEFORE_PROPERTIES: usize = 7 + 12;

/// What usher reads from these flags and properties of a message, as they are in its content header.
///
/// # Panics
/// lapin can't read what the filter gives it, the filter depends on how the frames are cut, or the copy
/// differs from what was read.
pub fn read(flags_and_properties: &[u8]) -> Properties {
    let mut deliver = [0, 60, 0, 60, 1, b'c'].to_vec();
    deliver.extend(7_u64.to_be_bytes());
    deliver.extend([0, 0, 1, b'q']);
    let header = [&[0, 60, 0, 0][..], &0_u64.to_be_bytes(), flags_and_properties].concat();
    let mut frames = Vec::new();
    emit(&mut frames, METHOD, 1, &deliver);
    let before = frames.len();
    emit(&mut frames, HEADER, 1, &header);
    let filtered = filter(&frames, frames.len());
    assert_eq!(filter(&frames, 5), filtered, "in pieces");
    let end = filtered.len() - 1;
    let (rest, properties) = basic::parse_properties(&filtered[before + BEFORE_PROPERTIES..end])
        .expect("lapin reads what the filter gives it");
    assert!(rest.is_empty(), "{rest:?} is left");
    let read = upstream_properties(&properties);
    // A byte array becomes a text if it can; from then on nothing changes.
    let copy = upstream_properties(&event_properties(&read));
    let names =
        |of: &Properties| of.headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&copy), names(&read), "the copy's headers");
    assert_eq!(upstream_properties(&event_properties(&copy)), copy, "the copy's copy");
    read
}

fn filter(frames: &[u8], piece: usize) -> Vec<u8> {
    let mut filter = FrameFilter::new(1024);
    let mut output = Vec::new();
    for piece in frames.chunks(piece) {
        filter.push(piece);
        while filter.needs().is_some() {
            filter.admit();
        }
        output.extend_from_slice(filter.output());
        filter.consume(filter.output().len());
    }
    output
}
