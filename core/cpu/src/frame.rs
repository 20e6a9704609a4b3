//! The flat file of guest variables and temporaries that IR works on.
//!
//! An integer variable is 64 bits; a narrower value is held zero-extended. Guest
//! variables (registers, lazy flags, segment bases) come first and are the only
//! part that is machine state; temporaries follow and are dead between
//! instructions.

/// Number of integer variables. Indices are `u8`, so every index is in range.
pub const INTS: usize = 256;
/// Number of vector variables.
pub const VECS: usize = 64;
/// First integer temporary; everything below is a guest variable.
pub const FIRST_TEMP: u8 = 64;
/// Temporaries from here on belong to the back ends.
pub const LAST_TEMP: u8 = 240;
/// First vector temporary; everything below is a guest variable.
pub const FIRST_VTEMP: u8 = 32;

/// An integer variable: an index into [`Frame::ints`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Var(pub u8);

impl Var {
    /// Whether this is an instruction-local temporary.
    pub const fn is_temp(self) -> bool {
        self.0 >= FIRST_TEMP
    }
}

/// A vector variable: an index into [`Frame::vecs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VecVar(pub u8);

impl VecVar {
    /// Whether this is an instruction-local temporary.
    pub const fn is_temp(self) -> bool {
        self.0 >= FIRST_VTEMP
    }
}

/// Guest variables and temporaries of one CPU. Compiled code knows its layout.
#[derive(Clone)]
#[repr(C)]
pub struct Frame {
    /// Integer variables.
    pub ints: [u64; INTS],
    /// Vector variables.
    pub vecs: [u128; VECS],
}

impl Frame {
    /// A frame with every variable zero.
    pub const fn new() -> Self {
        Self { ints: [0; INTS], vecs: [0; VECS] }
    }

    /// The value of an integer variable.
    #[inline(always)]
    pub const fn get(&self, v: Var) -> u64 {
        self.ints[v.0 as usize]
    }

    /// Sets an integer variable.
    #[inline(always)]
    pub const fn set(&mut self, v: Var, value: u64) {
        self.ints[v.0 as usize] = value;
    }

    /// The value of a vector variable.
    #[inline(always)]
    pub const fn vget(&self, v: VecVar) -> u128 {
        self.vecs[v.0 as usize % VECS]
    }

    /// Sets a vector variable.
    #[inline(always)]
    pub const fn vset(&mut self, v: VecVar, value: u128) {
        self.vecs[v.0 as usize % VECS] = value;
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

/// Equality of the guest part; temporaries are not state.
impl PartialEq for Frame {
    fn eq(&self, other: &Self) -> bool {
        let (i, v) = (FIRST_TEMP as usize, FIRST_VTEMP as usize);
        self.ints[..i] == other.ints[..i] && self.vecs[..v] == other.vecs[..v]
    }
}

impl core::fmt::Debug for Frame {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Frame")
            .field("ints", &&self.ints[..FIRST_TEMP as usize])
            .field("vecs", &&self.vecs[..FIRST_VTEMP as usize])
            .finish()
    }
}

impl serde::Serialize for Frame {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.ints[..FIRST_TEMP as usize], &self.vecs[..FIRST_VTEMP as usize])
            .serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Frame {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (ints, vecs) = <(Vec<u64>, Vec<u128>)>::deserialize(deserializer)?;
        let (i, v) = (FIRST_TEMP as usize, FIRST_VTEMP as usize);
        if ints.len() != i || vecs.len() != v {
            return Err(serde::de::Error::custom("frame of another size"));
        }
        let mut frame = Self::new();
        frame.ints[..i].copy_from_slice(&ints);
        frame.vecs[..v].copy_from_slice(&vecs);
        Ok(frame)
    }
}
