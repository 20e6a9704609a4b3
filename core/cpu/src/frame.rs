//! Guest variables and temporaries of one processor, in one flat file.

/// The variables of one processor: guest registers first, temporaries after.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Integer variables; values narrower than 64 bits are zero-extended.
    pub ints: [u64; 256],
    /// Vector variables.
    pub vecs: [u128; 64],
}

impl Default for Frame {
    fn default() -> Self {
        Self { ints: [0; 256], vecs: [0; 64] }
    }
}
