//! Pictures.

/// A picture: rows of 32-bit pixels, `0x00RRGGBB`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surface {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// `width * height` pixels, top row first.
    pub pixels: Vec<u32>,
    /// Rows `[first, end)` that changed since the surface was last rendered into.
    pub dirty: Option<(u32, u32)>,
}

impl Surface {
    /// Changes the size, to black, if it differs. Says whether it did; then every row is dirty.
    pub fn resize(&mut self, width: u32, height: u32) -> bool {
        if (self.width, self.height) == (width, height) {
            return false;
        }
        *self = Self { width, height, ..Self::default() };
        self.pixels = vec![0; width as usize * height as usize];
        self.dirty = Some((0, height));
        true
    }

    /// Adds rows `[first, end)` to the dirty ones.
    pub fn mark(&mut self, first: u32, end: u32) {
        self.dirty = Some(match self.dirty {
            Some((a, b)) => (a.min(first), b.max(end)),
            None => (first, end),
        });
    }

    /// One row.
    pub fn row_mut(&mut self, y: u32) -> &mut [u32] {
        let w = self.width as usize;
        &mut self.pixels[y as usize * w..][..w]
    }
}

/// A device that shows a picture.
pub trait Display {
    /// Brings `surface` up to date: resizes it to the mode and redraws what changed.
    /// `full` redraws everything (the surface is new).
    fn render(&mut self, surface: &mut Surface, full: bool);

    /// The characters on the screen while it is in a text mode, one string a row (code page 437
    /// as Unicode), for tests and terminals.
    fn text(&mut self) -> Option<Vec<String>> {
        None
    }
}
