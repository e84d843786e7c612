//! Any text about a person who is erased: what is cut out of it does not stand in it any more, whichever way it
//! was written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use usher::redaction::AddressMatcher;

fuzz_target!(|input: (&str, bool, u64)| {
    let (text, is_number, digits) = input;
    let person = match is_number {
        true => format!("+{digits}"),
        false => "ana@example.com".to_owned(),
    };
    let matcher = AddressMatcher::new(&person);
    assert!(!matcher.is_in(&matcher.cut_from(text)), "{person} in {text:?}");
    let spaced: String = person.chars().flat_map(|c| [c, ' ']).collect();
    for written in [&person, &spaced].into_iter().take(1 + usize::from(is_number)) {
        let about = format!("{text}\n<{written}>\n{text}");
        assert!(matcher.is_in(&about), "{written} in {about:?}");
        assert!(!matcher.is_in(&matcher.cut_from(&about)), "{written} in {about:?}");
    }
});
