//! The LUKS header, version 1: key slots around a master key.
//!
//! Reference: LUKS On-Disk Format Specification 1.2.3.

use super::{CipherAlg, CipherMode, HashAlg, IvGen, SECTOR, SectorCipher, Suite};
use crate::{BlockError, Result};
use serde::{Deserialize, Serialize};

pub(crate) const MAGIC: &[u8; 6] = b"LUKS\xba\xbe";
/// Bytes of the header without key material.
pub(crate) const HEADER: usize = 592;
/// Key slots.
pub const SLOTS: usize = 8;
const DIGEST: usize = 20;
const SALT: usize = 32;
const ENABLED: u32 = 0x00ac_71f3;
const DISABLED: u32 = 0x0000_dead;
const STRIPES: u32 = 4000;
/// Key material starts at multiples of this many sectors.
const SLOT_ALIGN: usize = 8;

/// One key slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) active: bool,
    pub(crate) rounds: u32,
    salt: [u8; SALT],
    /// Sector at which its key material starts.
    pub(crate) sector: u32,
    pub(crate) stripes: u32,
}

/// The header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) suite: Suite,
    pub(crate) hash: HashAlg,
    cipher_name: String,
    mode_name: String,
    /// Sector at which the disk starts.
    pub(crate) payload: u32,
    pub(crate) key_len: u32,
    digest: [u8; DIGEST],
    digest_salt: [u8; SALT],
    pub(crate) digest_rounds: u32,
    pub(crate) uuid: String,
    pub(crate) slots: Vec<Slot>,
}

/// What to encrypt a new disk with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
pub struct LuksOptions {
    /// Block cipher.
    pub cipher_alg: CipherAlg,
    /// Its mode.
    pub cipher_mode: CipherMode,
    /// How sectors get their vectors.
    pub ivgen_alg: Option<IvGen>,
    /// The hash of ESSIV.
    pub ivgen_hash_alg: Option<HashAlg>,
    /// The hash of the key derivation.
    pub hash_alg: HashAlg,
    /// Rounds of the key derivation.
    pub rounds: u32,
}

impl Default for LuksOptions {
    fn default() -> Self {
        Self {
            cipher_alg: CipherAlg::Aes256,
            cipher_mode: CipherMode::Xts,
            ivgen_alg: None,
            ivgen_hash_alg: None,
            hash_alg: HashAlg::Sha256,
            rounds: 100_000,
        }
    }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn text(bytes: &[u8]) -> Result<String> {
    let end = bytes.iter().position(|b| *b == 0).ok_or_else(|| bad("a name is not terminated"))?;
    String::from_utf8(bytes[..end].to_vec()).map_err(|_| bad("a name is not text"))
}

fn bad(what: &str) -> BlockError {
    BlockError::corrupt(format!("LUKS header: {what}"))
}

impl Header {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() < HEADER || &bytes[..6] != MAGIC {
            return Err(BlockError::invalid("Volume is not in LUKS format"));
        }
        let version = u16::from_be_bytes([bytes[6], bytes[7]]);
        if version != 1 {
            return Err(BlockError::unsupported(format!(
                "LUKS version {version} is not supported"
            )));
        }
        let (cipher_name, mode_name) = (text(&bytes[8..40])?, text(&bytes[40..72])?);
        let hash_name = text(&bytes[72..104])?;
        let key_len = be32(bytes, 108);
        let hash = HashAlg::from_name(&hash_name).ok_or_else(|| {
            BlockError::unsupported(format!("hash '{hash_name}' is not supported"))
        })?;
        let suite = parse_suite(&cipher_name, &mode_name, key_len)?;
        let slots = (0..SLOTS)
            .map(|i| {
                let at = 208 + i * 48;
                let active = match be32(bytes, at) {
                    ENABLED => true,
                    DISABLED => false,
                    _ => return Err(bad("a key slot is neither active nor inactive")),
                };
                let slot = Slot {
                    active,
                    rounds: be32(bytes, at + 4),
                    salt: bytes[at + 8..at + 40].try_into().expect("thirty-two bytes"),
                    sector: be32(bytes, at + 40),
                    stripes: be32(bytes, at + 44),
                };
                Ok(slot)
            })
            .collect::<Result<Vec<_>>>()?;
        let header = Self {
            suite,
            hash,
            cipher_name,
            mode_name,
            payload: be32(bytes, 104),
            key_len,
            digest: bytes[112..132].try_into().expect("twenty bytes"),
            digest_salt: bytes[132..164].try_into().expect("thirty-two bytes"),
            digest_rounds: be32(bytes, 164),
            uuid: text(&bytes[168..208])?,
            slots,
        };
        header.check()?;
        Ok(header)
    }

    /// Slots lie between header and payload and do not overlap.
    fn check(&self) -> Result<()> {
        if self.digest_rounds == 0 {
            return Err(bad("it asks for no rounds of key derivation"));
        }
        let header = HEADER.div_ceil(SECTOR) as u64;
        let sectors = |slot: &Slot| {
            (u64::from(self.key_len) * u64::from(slot.stripes)).div_ceil(SECTOR as u64)
        };
        for (i, slot) in self.slots.iter().enumerate() {
            if slot.stripes != STRIPES {
                return Err(bad("a key slot has an unusual number of stripes"));
            }
            if slot.active && slot.rounds == 0 {
                return Err(bad("a key slot asks for no rounds of key derivation"));
            }
            let (start, end) = (u64::from(slot.sector), u64::from(slot.sector) + sectors(slot));
            if start < header || self.payload != 0 && end > u64::from(self.payload) {
                return Err(bad("a key slot lies over the header or the disk"));
            }
            for other in &self.slots[..i] {
                let theirs = u64::from(other.sector);
                if start < theirs + sectors(other) && theirs < end {
                    return Err(bad("key slots overlap"));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER);
        let field = |out: &mut Vec<u8>, text: &str, len: usize| {
            let end = out.len() + len;
            out.extend(text.as_bytes());
            out.resize(end, 0);
        };
        out.extend(MAGIC);
        out.extend(1u16.to_be_bytes());
        field(&mut out, &self.cipher_name, 32);
        field(&mut out, &self.mode_name, 32);
        field(&mut out, self.hash.name(), 32);
        out.extend(self.payload.to_be_bytes());
        out.extend(self.key_len.to_be_bytes());
        out.extend(self.digest);
        out.extend(self.digest_salt);
        out.extend(self.digest_rounds.to_be_bytes());
        field(&mut out, &self.uuid, 40);
        for slot in &self.slots {
            out.extend((if slot.active { ENABLED } else { DISABLED }).to_be_bytes());
            out.extend(slot.rounds.to_be_bytes());
            out.extend(slot.salt);
            out.extend(slot.sector.to_be_bytes());
            out.extend(slot.stripes.to_be_bytes());
        }
        out
    }

    /// Offset and length of a slot's key material.
    pub(crate) fn material(&self, slot: &Slot) -> (u64, usize) {
        (u64::from(slot.sector) * SECTOR as u64, (self.key_len * slot.stripes) as usize)
    }

    /// The master key, when `password` opens the slot whose key material is given.
    pub(crate) fn open_slot(
        &self,
        slot: &Slot,
        password: &[u8],
        mut material: Vec<u8>,
    ) -> Result<Option<Vec<u8>>> {
        let mut key = vec![0; self.key_len as usize];
        self.hash.pbkdf2(password, &slot.salt, slot.rounds, &mut key);
        let len = material.len();
        material.resize(len.next_multiple_of(SECTOR), 0);
        SectorCipher::new(&self.suite, &key)?.decrypt(0, &mut material);
        let master = merge(self.hash, &material[..len], self.key_len as usize);
        let mut digest = [0; DIGEST];
        self.hash.pbkdf2(&master, &self.digest_salt, self.digest_rounds, &mut digest);
        Ok((digest == self.digest).then_some(master))
    }

    /// Puts the master key into a slot under a password: the new slot and its key material.
    pub(crate) fn fill_slot(
        &mut self,
        index: usize,
        password: &[u8],
        master: &[u8],
        rounds: u32,
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Result<Vec<u8>> {
        let (hash, suite, key_len) = (self.hash, self.suite, self.key_len as usize);
        let slot = &mut self.slots[index];
        random(&mut slot.salt);
        slot.rounds = rounds.max(1000);
        slot.active = true;
        let mut key = vec![0; key_len];
        hash.pbkdf2(password, &slot.salt, slot.rounds, &mut key);
        let mut material = split(hash, master, slot.stripes as usize, random);
        material.resize(material.len().next_multiple_of(SECTOR), 0);
        SectorCipher::new(&suite, &key)?.encrypt(0, &mut material);
        material.truncate(key_len * STRIPES as usize);
        Ok(material)
    }

    /// A header for a new disk, with one slot in use: the header, the slot's key material and the
    /// master key. `random` must be unpredictable.
    pub(crate) fn create(
        options: &LuksOptions,
        password: &[u8],
        random: &mut dyn FnMut(&mut [u8]),
    ) -> Result<(Self, Vec<u8>, Vec<u8>)> {
        let iv = options.ivgen_alg.unwrap_or(IvGen::Plain64);
        let iv_hash = match iv {
            IvGen::Essiv => Some(options.ivgen_hash_alg.unwrap_or(HashAlg::Sha256)),
            _ => None,
        };
        let suite = Suite { cipher: options.cipher_alg, mode: options.cipher_mode, iv, iv_hash };
        let key_len = suite.key_len();
        let mut master = vec![0; key_len];
        random(&mut master);
        let mut id = [0; 16];
        random(&mut id);
        id[6] = id[6] & 0x0f | 0x40;
        id[8] = id[8] & 0x3f | 0x80;
        let hex: String = id.iter().map(|b| format!("{b:02x}")).collect();
        let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
        let mode = match suite.mode {
            CipherMode::Ecb => "ecb",
            CipherMode::Cbc => "cbc",
            CipherMode::Xts => "xts",
            CipherMode::Ctr => "ctr",
        };
        let mode_name = match (iv, iv_hash) {
            (IvGen::Plain, _) => format!("{mode}-plain"),
            (IvGen::Plain64, _) => format!("{mode}-plain64"),
            (IvGen::Essiv, hash) => {
                format!("{mode}-essiv:{}", hash.unwrap_or(HashAlg::Sha256).name())
            }
        };
        // Key material, then the disk, all on multiples of 4 KiB.
        let material = (key_len * STRIPES as usize).div_ceil(SECTOR).next_multiple_of(SLOT_ALIGN);
        let sector = |i: usize| (SLOT_ALIGN + i * material) as u32;
        let slots = (0..SLOTS)
            .map(|i| Slot {
                active: false,
                rounds: 0,
                salt: [0; SALT],
                sector: sector(i),
                stripes: STRIPES,
            })
            .collect();
        let mut header = Self {
            suite,
            hash: options.hash_alg,
            cipher_name: suite.cipher.luks_name().into(),
            mode_name,
            payload: sector(SLOTS),
            key_len: key_len as u32,
            digest: [0; DIGEST],
            digest_salt: [0; SALT],
            digest_rounds: (options.rounds / 8).max(1000),
            uuid,
            slots,
        };
        random(&mut header.digest_salt);
        header.hash.pbkdf2(&master, &header.digest_salt, header.digest_rounds, &mut header.digest);
        let material = header.fill_slot(0, password, &master, options.rounds, random)?;
        Ok((header, material, master))
    }
}

fn parse_suite(cipher: &str, mode: &str, key_len: u32) -> Result<Suite> {
    let unknown =
        || BlockError::unsupported(format!("cipher '{cipher}-{mode}' with {key_len} bytes of key"));
    let (chain, iv) = mode.split_once('-').ok_or_else(unknown)?;
    let mode = match chain {
        "ecb" => CipherMode::Ecb,
        "cbc" => CipherMode::Cbc,
        "xts" => CipherMode::Xts,
        "ctr" => CipherMode::Ctr,
        _ => return Err(unknown()),
    };
    let (iv, iv_hash) = match iv.split_once(':') {
        None if iv == "plain" => (IvGen::Plain, None),
        None if iv == "plain64" => (IvGen::Plain64, None),
        Some(("essiv", hash)) => {
            (IvGen::Essiv, Some(HashAlg::from_name(hash).ok_or_else(unknown)?))
        }
        _ => return Err(unknown()),
    };
    let len = if mode == CipherMode::Xts {
        if !key_len.is_multiple_of(2) {
            return Err(unknown());
        }
        key_len / 2
    } else {
        key_len
    };
    let cipher = CipherAlg::from_luks(cipher, len as usize).ok_or_else(unknown)?;
    Ok(Suite { cipher, mode, iv, iv_hash })
}

/// Spreads every bit over the whole block.
fn diffuse(hash: HashAlg, block: &mut [u8]) {
    let size = hash.digest(&[]).len();
    for (i, chunk) in block.chunks_mut(size).enumerate() {
        let digest = hash.digest(&[&(i as u32).to_be_bytes(), chunk]);
        let n = chunk.len();
        chunk.copy_from_slice(&digest[..n]);
    }
}

fn merge(hash: HashAlg, material: &[u8], key_len: usize) -> Vec<u8> {
    let mut block = vec![0; key_len];
    let stripes = material.len() / key_len;
    for (i, stripe) in material.chunks_exact(key_len).enumerate() {
        super::xor(&mut block, stripe);
        if i + 1 < stripes {
            diffuse(hash, &mut block);
        }
    }
    block
}

fn split(hash: HashAlg, key: &[u8], stripes: usize, random: &mut dyn FnMut(&mut [u8])) -> Vec<u8> {
    let mut out = vec![0; key.len() * (stripes - 1)];
    random(&mut out);
    let mut block = vec![0; key.len()];
    for stripe in out.chunks_exact(key.len()) {
        super::xor(&mut block, stripe);
        diffuse(hash, &mut block);
    }
    super::xor(&mut block, key);
    out.extend(block);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_opens_with_its_password_and_with_no_other() {
        let mut seed = 1u8;
        let mut random = |buf: &mut [u8]| {
            for b in buf {
                seed = seed.wrapping_mul(31).wrapping_add(7);
                *b = seed;
            }
        };
        let options = LuksOptions { rounds: 1000, ..LuksOptions::default() };
        let (header, material, master) = Header::create(&options, b"pw", &mut random).unwrap();
        let again = Header::parse(&header.to_bytes()).unwrap();
        assert_eq!(again, header);
        let slot = &again.slots[0];
        assert_eq!(again.open_slot(slot, b"pw", material.clone()).unwrap(), Some(master));
        assert_eq!(again.open_slot(slot, b"px", material).unwrap(), None);
    }

    #[test]
    fn headers_with_changed_bytes_never_panic() {
        let options = LuksOptions { rounds: 1000, ..LuksOptions::default() };
        let (header, _, _) = Header::create(&options, b"pw", &mut |b| b.fill(1)).unwrap();
        let bytes = header.to_bytes();
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                if let Ok(header) = Header::parse(&bytes) {
                    for slot in &header.slots {
                        assert!(header.material(slot).1 < 1 << 20);
                    }
                }
            }
        }
    }
}
