//! CPU models and their ID registers.

/// What a CPU can do beyond Armv8.0-A.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// AES, PMULL, SHA-1 and SHA-256.
    pub crypto: bool,
    /// CRC32 instructions.
    pub crc32: bool,
    /// Large system extensions: atomic operations (Armv8.1).
    pub lse: bool,
}

/// A CPU model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Model {
    /// Its name.
    pub name: &'static str,
    /// `MIDR_EL1`.
    pub midr: u64,
    /// The binding's name of it in a device tree.
    pub compatible: &'static str,
    /// What it can do.
    pub features: Features,
    /// `CCSIDR_EL1` of the first data cache, first instruction cache and second cache.
    pub caches: [u64; 3],
}

const V8: Features = Features { crypto: true, crc32: true, lse: false };

/// The models by name.
pub const MODELS: &[Model] = &[
    Model {
        name: "cortex-a53",
        midr: 0x410f_d034,
        compatible: "arm,cortex-a53",
        features: V8,
        caches: [0x700f_e01a, 0x201f_e00a, 0x707f_e07a],
    },
    Model {
        name: "cortex-a57",
        midr: 0x411f_d070,
        compatible: "arm,cortex-a57",
        features: V8,
        caches: [0x701f_e00a, 0x201f_e012, 0x70ff_e07a],
    },
    Model {
        name: "cortex-a72",
        midr: 0x410f_d083,
        compatible: "arm,cortex-a72",
        features: V8,
        caches: [0x701f_e00a, 0x201f_e012, 0x707f_e07a],
    },
    Model {
        name: "max",
        midr: 0x000f_0510,
        compatible: "arm,armv8",
        features: Features { lse: true, ..V8 },
        caches: [0x701f_e00a, 0x201f_e012, 0x70ff_e07a],
    },
];

impl Default for Model {
    fn default() -> Self {
        MODELS[1]
    }
}

impl Model {
    /// The model of this name.
    pub fn named(name: &str) -> Option<Self> {
        MODELS.iter().find(|m| m.name == name).copied()
    }

    /// `ID_AA64ISAR0_EL1`.
    pub const fn isar0(&self) -> u64 {
        let f = self.features;
        let crypto = if f.crypto { 2 << 4 | 1 << 8 | 1 << 12 } else { 0 };
        let crc = if f.crc32 { 1 << 16 } else { 0 };
        let lse = if f.lse { 2 << 20 } else { 0 };
        crypto | crc | lse
    }
}

/// Models are kept in snapshots by their names.
impl serde::Serialize for Model {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name)
    }
}

impl<'de> serde::Deserialize<'de> for Model {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| serde::de::Error::custom("no such CPU model"))
    }
}
