//! Comparing screens.
//!
//! A golden picture is a small one: the guest's screen under another emulator, scaled down. Ours
//! is scaled down to the same size, so that a clock or a cursor does not matter and everything
//! larger does.

use anyhow::{Context as _, Result, bail};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;

/// Largest mean difference of a channel.
const MEAN: f64 = 6.0;
/// Largest share of pixels that may differ by more than [`FAR`].
const SHARE: f64 = 0.02;
/// A difference seen at a glance.
const FAR: u8 = 48;

struct Picture {
    width: usize,
    height: usize,
    rgb: Vec<u8>,
}

impl Picture {
    fn read(path: &Path) -> Result<Self> {
        let name = || format!("{}", path.display());
        let mut decoder = png::Decoder::new(BufReader::new(File::open(path).with_context(name)?));
        decoder.set_transformations(png::Transformations::normalize_to_color8());
        let mut reader = decoder.read_info().with_context(name)?;
        let mut bytes = vec![0; reader.output_buffer_size().context("too large")?];
        let info = reader.next_frame(&mut bytes).with_context(name)?;
        let n = info.color_type.samples();
        if n < 3 {
            bail!("{}: not a colour picture", path.display());
        }
        let (width, height) = (info.width as usize, info.height as usize);
        let rgb =
            bytes.chunks_exact(n).take(width * height).flat_map(|p| [p[0], p[1], p[2]]).collect();
        Ok(Self { width, height, rgb })
    }

    /// Means over the boxes of a `width` by `height` grid.
    fn scaled(&self, width: usize, height: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(width * height * 3);
        for y in 0..height {
            let rows = y * self.height / height..((y + 1) * self.height / height).max(1);
            for x in 0..width {
                let columns = x * self.width / width..((x + 1) * self.width / width).max(1);
                for channel in 0..3 {
                    let (mut sum, mut n) = (0usize, 0usize);
                    for v in rows.clone() {
                        for u in columns.clone() {
                            sum += usize::from(self.rgb[(v * self.width + u) * 3 + channel]);
                            n += 1;
                        }
                    }
                    out.push((sum / n.max(1)) as u8);
                }
            }
        }
        out
    }
}

/// Whether `ours` shows what the small picture `golden` shows.
pub(crate) fn compare(ours: &Path, golden: &Path) -> Result<()> {
    let golden = Picture::read(golden)?;
    let ours = Picture::read(ours)?.scaled(golden.width, golden.height);
    let apart: Vec<u8> = ours.iter().zip(&golden.rgb).map(|(a, b)| a.abs_diff(*b)).collect();
    let mean = apart.iter().map(|&d| f64::from(d)).sum::<f64>() / apart.len() as f64;
    let far = apart.as_chunks::<3>().0.iter().filter(|p| p.iter().any(|&d| d > FAR)).count();
    let share = far as f64 / (golden.width * golden.height) as f64;
    if mean > MEAN || share > SHARE {
        bail!(
            "the screen is another: mean difference {mean:.1} (at most {MEAN}), {:.1}% of it far off",
            share * 100.0
        );
    }
    Ok(())
}
