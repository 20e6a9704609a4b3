//! Pictures as files.

use orrery_system::display::Surface;

/// The surface as a PNG file, 8 bits a colour.
pub fn png(surface: &Surface) -> Vec<u8> {
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, surface.width.max(1), surface.height.max(1));
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut bytes: Vec<u8> =
        surface.pixels.iter().flat_map(|p| [(p >> 16) as u8, (p >> 8) as u8, *p as u8]).collect();
    if bytes.is_empty() {
        bytes = vec![0; 3];
    }
    let mut writer = encoder.write_header().expect("a vector takes every write");
    writer.write_image_data(&bytes).expect("a vector takes every write");
    writer.finish().expect("a vector takes every write");
    out
}

/// The surface as a binary portable pixmap, as `screendump` without a format writes.
pub fn ppm(surface: &Surface) -> Vec<u8> {
    let mut out = format!("P6\n{} {}\n255\n", surface.width, surface.height).into_bytes();
    out.extend(surface.pixels.iter().flat_map(|p| [(p >> 16) as u8, (p >> 8) as u8, *p as u8]));
    out
}
