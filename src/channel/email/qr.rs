//! Draws QR codes (ISO/IEC 18004) as PNG images.

use fast_qr::{ECL, QRBuilder};

/// Light modules around the code, which scanners need to find it (ISO/IEC 18004, 9.1).
const QUIET_ZONE: usize = 4;

/// Pixels of a module's side: sharp on screens with two pixels to a point, and on paper. Eight of
/// one bit each are a byte.
const MODULE: usize = 8;

/// The text as a QR code of medium error correction; nothing where it is too long for one (from
/// 2332 bytes on).
pub fn qr_png(text: &str) -> Option<Vec<u8>> {
    let code = QRBuilder::new(text).ecl(ECL::M).build().ok()?;
    let side = code.size + 2 * QUIET_ZONE;
    // A bit for a pixel, 1 for white (PNG 7.2).
    let mut pixels = vec![0xff_u8; side * side * MODULE];
    for (index, lines) in pixels.chunks_exact_mut(side * MODULE).enumerate() {
        let row = index.checked_sub(QUIET_ZONE).filter(|row| *row < code.size);
        let Some(row) = row.map(|row| &code[row]) else { continue };
        for line in lines.chunks_exact_mut(side) {
            for (byte, module) in line[QUIET_ZONE..].iter_mut().zip(row) {
                *byte = if module.value() { 0 } else { 0xff };
            }
        }
    }
    let mut file = Vec::new();
    let side = u32::try_from(side * MODULE).ok()?;
    let mut encoder = png::Encoder::new(&mut file, side, side);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::One);
    encoder.write_header().ok()?.write_image_data(&pixels).ok()?;
    Some(file)
}

#[cfg(test)]
mod tests {
    use super::qr_png;

    /// What a scanner reads, and how many pixels a side has.
    fn scan(file: &[u8]) -> (String, usize) {
        let mut decoder = png::Decoder::new(std::io::Cursor::new(file));
        decoder.set_transformations(png::Transformations::EXPAND);
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let side = reader.next_frame(&mut pixels).unwrap().width as usize;
        let mut image =
            rqrr::PreparedImage::prepare_from_greyscale(side, side, |x, y| pixels[y * side + x]);
        let (meta, text) = image.detect_grids()[0].decode().unwrap();
        assert_eq!(meta.ecc_level, 0, "medium is written as 00");
        (text, side)
    }

    #[test]
    fn a_scanner_reads_what_was_drawn() {
        for (text, modules) in [
            ("7", 21),
            ("TRANS123", 21),
            ("TKT-4417-F7F8F9", 21),
            ("https://example.com/t/ñandú?a=1&b=2", 29),
        ] {
            assert_eq!(
                scan(&qr_png(text).unwrap()),
                (text.to_owned(), (modules + 8) * 8),
                "{text}"
            );
        }
    }

    #[test]
    fn a_text_that_is_too_long_gives_none() {
        assert!(qr_png(&"x".repeat(2331)).is_some());
        assert!(qr_png(&"x".repeat(2332)).is_none());
        assert!(qr_png(&"9".repeat(4_000_000)).is_none());
    }
}
