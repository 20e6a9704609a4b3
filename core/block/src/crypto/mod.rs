//! Encryption of disks: ciphers by the sector, and the LUKS header.
//!
//! Reference: IEEE 1619 (XTS), NIST SP 800-38A (CBC, CTR), and the LUKS on-disk format
//! specification 1.2.3 for names and initialisation vectors.

pub mod luks;

use crate::{BlockError, Result};
use aes::{Aes128, Aes192, Aes256};
use cipher::array::Array;
use cipher::{BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit};
use serde::{Deserialize, Serialize};
use sha2::Digest;
use std::sync::Arc;

/// Bytes that an initialisation vector counts.
pub(crate) const SECTOR: usize = 512;

/// A block cipher with its key.
trait Blocks: Send + Sync {
    fn block(&self) -> usize;
    fn encrypt(&self, data: &mut [u8]);
    fn decrypt(&self, data: &mut [u8]);
}

impl<C> Blocks for C
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + BlockSizeUser + Send + Sync,
{
    fn block(&self) -> usize {
        C::block_size()
    }

    fn encrypt(&self, data: &mut [u8]) {
        let (blocks, _) = Array::<u8, C::BlockSize>::slice_as_chunks_mut(data);
        self.encrypt_blocks(blocks);
    }

    fn decrypt(&self, data: &mut [u8]) {
        let (blocks, _) = Array::<u8, C::BlockSize>::slice_as_chunks_mut(data);
        self.decrypt_blocks(blocks);
    }
}

/// Block ciphers, named as options name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CipherAlg {
    /// AES with a key of 128 bits.
    #[serde(rename = "aes-128")]
    Aes128,
    /// AES, 192 bits.
    #[serde(rename = "aes-192")]
    Aes192,
    /// AES, 256 bits.
    #[serde(rename = "aes-256")]
    Aes256,
    /// CAST-128.
    #[serde(rename = "cast5-128")]
    Cast5,
    /// Serpent, 128 bits.
    #[serde(rename = "serpent-128")]
    Serpent128,
    /// Serpent, 192 bits.
    #[serde(rename = "serpent-192")]
    Serpent192,
    /// Serpent, 256 bits.
    #[serde(rename = "serpent-256")]
    Serpent256,
    /// Twofish, 128 bits.
    #[serde(rename = "twofish-128")]
    Twofish128,
    /// Twofish, 192 bits.
    #[serde(rename = "twofish-192")]
    Twofish192,
    /// Twofish, 256 bits.
    #[serde(rename = "twofish-256")]
    Twofish256,
}

impl CipherAlg {
    /// Bytes of a key.
    pub fn key_len(self) -> usize {
        match self {
            Self::Aes128 | Self::Cast5 | Self::Serpent128 | Self::Twofish128 => 16,
            Self::Aes192 | Self::Serpent192 | Self::Twofish192 => 24,
            Self::Aes256 | Self::Serpent256 | Self::Twofish256 => 32,
        }
    }

    /// Bytes of a block.
    fn block_len(self) -> usize {
        if self == Self::Cast5 { 8 } else { 16 }
    }

    /// The name in a LUKS header, which leaves the key's length to another field.
    fn luks_name(self) -> &'static str {
        match self {
            Self::Aes128 | Self::Aes192 | Self::Aes256 => "aes",
            Self::Cast5 => "cast5",
            Self::Serpent128 | Self::Serpent192 | Self::Serpent256 => "serpent",
            Self::Twofish128 | Self::Twofish192 | Self::Twofish256 => "twofish",
        }
    }

    fn from_luks(name: &str, key_len: usize) -> Option<Self> {
        Some(match (name, key_len) {
            ("aes", 16) => Self::Aes128,
            ("aes", 24) => Self::Aes192,
            ("aes", 32) => Self::Aes256,
            ("cast5", 16) => Self::Cast5,
            ("serpent", 16) => Self::Serpent128,
            ("serpent", 24) => Self::Serpent192,
            ("serpent", 32) => Self::Serpent256,
            ("twofish", 16) => Self::Twofish128,
            ("twofish", 24) => Self::Twofish192,
            ("twofish", 32) => Self::Twofish256,
            _ => return None,
        })
    }

    fn with_key(self, key: &[u8]) -> Result<Box<dyn Blocks>> {
        fn make<C: KeyInit + Blocks + 'static>(
            key: &[u8],
        ) -> Result<Box<dyn Blocks>, cipher::InvalidLength> {
            C::new_from_slice(key).map(|c| Box::new(c) as Box<dyn Blocks>)
        }
        let made = match self {
            Self::Aes128 => make::<Aes128>(key),
            Self::Aes192 => make::<Aes192>(key),
            Self::Aes256 => make::<Aes256>(key),
            Self::Cast5 => make::<cast5::Cast5>(key),
            Self::Serpent128 | Self::Serpent192 | Self::Serpent256 => make::<serpent::Serpent>(key),
            Self::Twofish128 | Self::Twofish192 | Self::Twofish256 => make::<twofish::Twofish>(key),
        };
        made.map_err(|_| BlockError::invalid("the key has the wrong length for its cipher"))
    }
}

/// How blocks are chained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CipherMode {
    /// Each block by itself.
    Ecb,
    /// Chained.
    Cbc,
    /// Tweaked by place.
    Xts,
    /// A key stream.
    Ctr,
}

/// How a sector's number becomes an initialisation vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IvGen {
    /// Its low 32 bits.
    Plain,
    /// All of it.
    Plain64,
    /// Encrypted with a hash of the key.
    Essiv,
}

/// Hash functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HashAlg {
    /// SHA-1.
    Sha1,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
    /// RIPEMD-160.
    Ripemd160,
}

macro_rules! with_hash {
    ($alg:expr, $h:ident => $body:expr) => {
        match $alg {
            HashAlg::Sha1 => {
                type $h = sha1::Sha1;
                $body
            }
            HashAlg::Sha224 => {
                type $h = sha2::Sha224;
                $body
            }
            HashAlg::Sha256 => {
                type $h = sha2::Sha256;
                $body
            }
            HashAlg::Sha384 => {
                type $h = sha2::Sha384;
                $body
            }
            HashAlg::Sha512 => {
                type $h = sha2::Sha512;
                $body
            }
            HashAlg::Ripemd160 => {
                type $h = ripemd::Ripemd160;
                $body
            }
        }
    };
}

impl HashAlg {
    /// Its name in headers and options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
            Self::Ripemd160 => "ripemd160",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Sha1, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512, Self::Ripemd160]
            .into_iter()
            .find(|alg| alg.name() == name)
    }

    pub(crate) fn digest(self, parts: &[&[u8]]) -> Vec<u8> {
        with_hash!(self, H => {
            let mut hash = H::new();
            parts.iter().for_each(|part| hash.update(part));
            hash.finalize().to_vec()
        })
    }

    /// PBKDF2 with HMAC over this hash.
    pub fn pbkdf2(self, password: &[u8], salt: &[u8], rounds: u32, out: &mut [u8]) {
        with_hash!(self, H => pbkdf2::pbkdf2_hmac::<H>(password, salt, rounds, out));
    }
}

/// A cipher, its mode and its vectors: what encrypts the sectors of a disk.
#[derive(Clone)]
pub(crate) struct SectorCipher(Arc<Inner>);

struct Inner {
    data: Box<dyn Blocks>,
    /// XTS: the second key. ESSIV: the hashed one.
    other: Option<Box<dyn Blocks>>,
    mode: CipherMode,
    iv: IvGen,
}

/// What a disk is encrypted with, but for the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suite {
    pub(crate) cipher: CipherAlg,
    pub(crate) mode: CipherMode,
    pub(crate) iv: IvGen,
    /// The hash of ESSIV.
    pub(crate) iv_hash: Option<HashAlg>,
}

impl Suite {
    /// Bytes of the key that the suite takes.
    pub(crate) fn key_len(&self) -> usize {
        self.cipher.key_len() * if self.mode == CipherMode::Xts { 2 } else { 1 }
    }
}

impl SectorCipher {
    pub(crate) fn new(suite: &Suite, key: &[u8]) -> Result<Self> {
        if key.len() != suite.key_len() {
            return Err(BlockError::invalid("the key has the wrong length for its cipher"));
        }
        let one = suite.cipher.key_len();
        let data = suite.cipher.with_key(&key[..one])?;
        if suite.mode == CipherMode::Xts && suite.cipher.block_len() != 16 {
            return Err(BlockError::unsupported("XTS needs a cipher with blocks of 16 bytes"));
        }
        let other = match (suite.mode, suite.iv) {
            (CipherMode::Xts, _) => Some(suite.cipher.with_key(&key[one..])?),
            (_, IvGen::Essiv) => {
                let hash = suite.iv_hash.unwrap_or(HashAlg::Sha256);
                let hashed = hash.digest(&[key]);
                // The vector's cipher is the same one, with a key as long as the hash.
                let alg = CipherAlg::from_luks(suite.cipher.luks_name(), hashed.len())
                    .ok_or_else(|| BlockError::unsupported("ESSIV hash does not fit its cipher"))?;
                Some(alg.with_key(&hashed)?)
            }
            _ => None,
        };
        Ok(Self(Arc::new(Inner { data, other, mode: suite.mode, iv: suite.iv })))
    }

    /// AES-128-CBC with the password as key: what `qcow` and old `qcow2` images use.
    pub(crate) fn legacy(password: &[u8]) -> Result<Self> {
        let mut key = [0; 16];
        let n = password.len().min(16);
        key[..n].copy_from_slice(&password[..n]);
        let suite = Suite {
            cipher: CipherAlg::Aes128,
            mode: CipherMode::Cbc,
            iv: IvGen::Plain64,
            iv_hash: None,
        };
        Self::new(&suite, &key)
    }

    /// Encrypts whole sectors, the first of which has this number.
    pub(crate) fn encrypt(&self, first: u64, data: &mut [u8]) {
        for (i, sector) in data.chunks_mut(SECTOR).enumerate() {
            self.0.sector(first.wrapping_add(i as u64), sector, true);
        }
    }

    /// Decrypts whole sectors.
    pub(crate) fn decrypt(&self, first: u64, data: &mut [u8]) {
        for (i, sector) in data.chunks_mut(SECTOR).enumerate() {
            self.0.sector(first.wrapping_add(i as u64), sector, false);
        }
    }
}

fn xor(to: &mut [u8], from: &[u8]) {
    to.iter_mut().zip(from).for_each(|(a, b)| *a ^= b);
}

impl Inner {
    fn vector(&self, number: u64) -> Vec<u8> {
        let mut iv = vec![0; self.data.block()];
        let number = if self.iv == IvGen::Plain { number & 0xffff_ffff } else { number };
        iv[..8].copy_from_slice(&number.to_le_bytes());
        if let (IvGen::Essiv, Some(other)) = (self.iv, &self.other)
            && self.mode != CipherMode::Xts
        {
            other.encrypt(&mut iv);
        }
        iv
    }

    fn sector(&self, number: u64, data: &mut [u8], encrypt: bool) {
        let block = self.data.block();
        match self.mode {
            CipherMode::Ecb if encrypt => self.data.encrypt(data),
            CipherMode::Ecb => self.data.decrypt(data),
            CipherMode::Cbc if encrypt => {
                let mut last = self.vector(number);
                for chunk in data.chunks_exact_mut(block) {
                    xor(chunk, &last);
                    self.data.encrypt(chunk);
                    last.copy_from_slice(chunk);
                }
            }
            CipherMode::Cbc => {
                let mut chain = self.vector(number);
                chain.extend_from_slice(&data[..data.len() - block]);
                self.data.decrypt(data);
                xor(data, &chain);
            }
            CipherMode::Xts => {
                let mut tweak = self.vector(number);
                if let Some(other) = &self.other {
                    other.encrypt(&mut tweak);
                }
                let mut t = u128::from_le_bytes(tweak.try_into().expect("sixteen bytes"));
                let mut tweaks = [0; SECTOR];
                for chunk in tweaks.as_chunks_mut::<16>().0 {
                    chunk.copy_from_slice(&t.to_le_bytes());
                    t = t << 1 ^ if t >> 127 != 0 { 0x87 } else { 0 };
                }
                xor(data, &tweaks);
                if encrypt {
                    self.data.encrypt(data);
                } else {
                    self.data.decrypt(data);
                }
                xor(data, &tweaks);
            }
            CipherMode::Ctr => {
                let mut counter = self.vector(number);
                for chunk in data.chunks_mut(block) {
                    let mut stream = counter.clone();
                    self.data.encrypt(&mut stream);
                    xor(chunk, &stream);
                    for byte in counter.iter_mut().rev() {
                        *byte = byte.wrapping_add(1);
                        if *byte != 0 {
                            break;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mode_comes_back_and_depends_on_the_sector() {
        for mode in [CipherMode::Ecb, CipherMode::Cbc, CipherMode::Xts, CipherMode::Ctr] {
            for cipher in [CipherAlg::Aes256, CipherAlg::Serpent256, CipherAlg::Twofish128] {
                let suite = Suite { cipher, mode, iv: IvGen::Plain64, iv_hash: None };
                let key: Vec<u8> = (0..suite.key_len() as u8).collect();
                let cipher = SectorCipher::new(&suite, &key).unwrap();
                let clear = vec![7; 1024];
                let mut data = clear.clone();
                cipher.encrypt(5, &mut data);
                assert_ne!(data, clear);
                assert_eq!(data[..512] == data[512..], mode == CipherMode::Ecb);
                cipher.decrypt(5, &mut data);
                assert_eq!(data, clear);
            }
        }
    }

    #[test]
    fn xts_gives_the_standards_vector() {
        // IEEE 1619 vector 2, extended to a sector: the first block.
        let suite = Suite {
            cipher: CipherAlg::Aes128,
            mode: CipherMode::Xts,
            iv: IvGen::Plain64,
            iv_hash: None,
        };
        let key = [[0x11; 16], [0x22; 16]].concat();
        let cipher = SectorCipher::new(&suite, &key).unwrap();
        let mut data = vec![0x44; 512];
        cipher.encrypt(0x33_3333_3333, &mut data);
        assert_eq!(
            data[..16],
            [
                0xc4, 0x54, 0x18, 0x5e, 0x6a, 0x16, 0x93, 0x6e, 0x39, 0x33, 0x40, 0x38, 0xac, 0xef,
                0x83, 0x8b
            ]
        );
    }
}
