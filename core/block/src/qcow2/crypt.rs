//! Encrypted data clusters: old AES, and LUKS.

use super::header::Header;
use crate::crypto::{SECTOR, SectorCipher};
use crate::formats::OpenArgs;
use crate::formats::luks::{LuksInfo, read_header, unlock};
use crate::graph::Node;
use crate::{BlockError, IoBuf, Result};

/// The cipher of an image, and what its encryption header says. Without the secret only facts
/// can be had.
pub(super) async fn open(
    file: &Node,
    header: &Header,
    args: &OpenArgs,
) -> Result<(Option<SectorCipher>, Option<LuksInfo>)> {
    match header.crypt_method {
        0 => Ok((None, None)),
        1 if args.no_io => Ok((None, None)),
        1 => Ok((Some(SectorCipher::legacy(args.secret("AES")?)?), None)),
        _ => {
            let place = header
                .crypto
                .ok_or_else(|| BlockError::corrupt("Missing CRYPTO header for crypt method 2"))?;
            let luks = read_header(file, place.offset).await?;
            let info = LuksInfo::new(&luks);
            if args.no_io {
                return Ok((None, Some(info)));
            }
            let key = unlock(file, place.offset, &luks, args.secret("LUKS")?).await?;
            Ok((Some(SectorCipher::new(&luks.suite, &key)?), Some(info)))
        }
    }
}

impl super::Qcow2 {
    /// The first sector's number for the vectors of a piece of a data cluster: the guest's place
    /// with AES, the file's with LUKS.
    fn vector(&self, guest: u64, host: u64) -> u64 {
        (if self.header.crypt_method == 1 { guest } else { host }) / SECTOR as u64
    }

    /// Fills `buf[at..at + len]` with the clear content of a data cluster.
    pub(super) async fn read_clear(
        &self,
        cipher: &SectorCipher,
        guest: u64,
        host: u64,
        mut buf: IoBuf,
        at: usize,
        len: usize,
    ) -> Result<IoBuf> {
        let lead = (guest % SECTOR as u64) as usize;
        let whole = (lead + len).next_multiple_of(SECTOR);
        let (guest, host) = (guest - lead as u64, host - lead as u64);
        let mut bytes = self.data()?.read(host, IoBuf::zeroed(whole)).await?;
        cipher.decrypt(self.vector(guest, host), &mut bytes);
        buf[at..at + len].copy_from_slice(&bytes[lead..lead + len]);
        Ok(buf)
    }

    /// Stores `bytes` at a data cluster, encrypted. The caller keeps others off the sectors.
    pub(super) async fn write_secret(
        &self,
        cipher: &SectorCipher,
        guest: u64,
        host: u64,
        bytes: &[u8],
    ) -> Result<()> {
        let lead = (guest % SECTOR as u64) as usize;
        let whole = (lead + bytes.len()).next_multiple_of(SECTOR);
        let (guest, host) = (guest - lead as u64, host - lead as u64);
        let node = self.data()?;
        let mut padded = IoBuf::zeroed(whole);
        if whole != bytes.len() {
            padded = node.read(host, padded).await?;
            cipher.decrypt(self.vector(guest, host), &mut padded);
        }
        padded[lead..lead + bytes.len()].copy_from_slice(bytes);
        cipher.encrypt(self.vector(guest, host), &mut padded);
        node.write(host, padded).await.map(drop)
    }

    /// True when data can be neither read nor written for want of the secret.
    pub(super) fn locked(&self) -> bool {
        self.header.crypt_method != 0 && self.cipher.is_none()
    }
}
