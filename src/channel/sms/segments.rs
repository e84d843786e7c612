//! How many segments a text takes: what is paid for (3GPP TS 23.038 and 23.040).

/// The alphabet of GSM, one septet each.
const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";
/// What takes an escape before it, so two.
const EXTENDED: &str = "\u{c}^{}\\[~]|€";

/// Segments of a text: of 160 septets, or of 70 UTF-16 units where a character is not GSM's; 153 and 67 where
/// there are several, for a header joins them.
pub(super) fn count(text: &str) -> usize {
    let septets = |c| match c {
        _ if BASIC.contains(c) => Some(1),
        _ if EXTENDED.contains(c) => Some(2),
        _ => None,
    };
    // A character is never cut in two.
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
