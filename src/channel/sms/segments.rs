//! Counts the billed segments of a text (3GPP TS 23.038 and 23.040).

/// The alphabet of GSM, one septet each.
const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";
/// Characters with an escape before them: two septets each.
const EXTENDED: &str = "\u{c}^{}\\[~]|€";

/// A segment has 160 septets, or 70 UTF-16 units if a character is not in the GSM alphabet. Where there are
/// several, each has 153 or 67, because of the header that joins them.
pub(super) fn count(text: &str) -> usize {
    let septets = |c| match c {
        _ if BASIC.contains(c) => Some(1),
        _ if EXTENDED.contains(c) => Some(2),
        _ => None,
    };
    // No character is split.
    let (sizes, alone, joined): (Vec<usize>, _, _) = match text.chars().map(septets).collect() {
        Some(sizes) => (sizes, 160, 153),
        None => (text.chars().map(char::len_utf16).collect(), 70, 67),
    };
    if sizes.iter().sum::<usize>() <= alone {
        return usize::from(!sizes.is_empty());
    }
    let (mut segments, mut left) = (1, joined);
    for size in sizes {
        if size > left {
            (segments, left) = (segments + 1, joined);
        }
        left -= size;
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn segments_are_counted_as_gateways_bill_them() {
        for (text, segments) in [
            (String::new(), 0),
            ("a".repeat(160), 1),
            ("a".repeat(161), 2),
            ("a".repeat(306), 2),
            ("a".repeat(307), 3),
            // Spanish has characters that GSM lacks: á, í, ó and ú.
            ("ñ¿¡éà".repeat(32), 1),
            ("á".repeat(70), 1),
            ("á".repeat(71), 2),
            ("€".repeat(80), 1),
            ("€".repeat(81), 2),
            // An escape and its character stay together: 76 of them in each of the first two.
            ("€".repeat(153), 3),
            ("🎬".repeat(35), 1),
            ("🎬".repeat(36), 2),
            ("🎬".repeat(66), 2),
            ("🎬".repeat(67), 3),
        ] {
            assert_eq!(
                count(&text),
                segments,
                "{} of {:?}",
                text.chars().count(),
                text.chars().next()
            );
        }
    }
}
