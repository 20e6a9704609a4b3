//! The `luks` format: a raw disk behind a LUKS header.

use super::flat::Flat;
use super::{Change, Facts, Image, KeyAction, KeyChange, OpenArgs, Specific, read_exactly};
use crate::crypto::luks::{HEADER, Header, LuksOptions, SLOTS};
use crate::crypto::{CipherMode, SECTOR, SectorCipher};
use crate::driver::{BlockStatus, Driver};
use crate::graph::{Edge, Node};
use crate::{BlockError, IoBuf, Op, Result};
use serde::Serialize;
use std::sync::Arc;

/// The driver.
pub(crate) struct Luks {
    flat: Flat,
    header: Header,
    payload: u64,
    /// Opened without its secret, for facts only.
    locked: bool,
    secret: Option<Arc<[u8]>>,
}

/// What a LUKS header says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LuksInfo {
    /// Vectors.
    pub ivgen_alg: String,
    /// The hash of ESSIV.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ivgen_hash_alg: Option<String>,
    /// The header is not in the same file.
    pub detached_header: bool,
    /// The hash of the key derivation.
    pub hash_alg: String,
    /// Block cipher.
    pub cipher_alg: String,
    /// Identity.
    pub uuid: String,
    /// Chaining.
    pub cipher_mode: String,
    /// Key slots.
    pub slots: Vec<SlotInfo>,
    /// Where the disk begins.
    pub payload_offset: u64,
    /// Rounds of the check of the master key.
    pub master_key_iters: u32,
}

/// One key slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SlotInfo {
    /// In use.
    pub active: bool,
    /// Rounds of its key derivation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iters: Option<u32>,
    /// Where its key material is.
    pub key_offset: u64,
    /// Stripes of its key material.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stripes: Option<u32>,
}

/// The name that serialisation gives a value.
fn name_of(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}

impl LuksInfo {
    pub(crate) fn new(header: &Header) -> Self {
        let slots = header.slots.iter().map(|slot| SlotInfo {
            active: slot.active,
            iters: slot.active.then_some(slot.rounds),
            stripes: slot.active.then_some(slot.stripes),
            key_offset: header.material(slot).0,
        });
        Self {
            ivgen_alg: name_of(&header.suite.iv),
            ivgen_hash_alg: header.suite.iv_hash.map(|hash| hash.name().to_owned()),
            hash_alg: header.hash.name().into(),
            cipher_alg: name_of(&header.suite.cipher),
            uuid: header.uuid.clone(),
            cipher_mode: name_of(&header.suite.mode),
            slots: slots.collect(),
            payload_offset: u64::from(header.payload) * SECTOR as u64,
            master_key_iters: header.digest_rounds,
            detached_header: header.payload == 0,
        }
    }
}

/// Reads the header at `base` of a file.
pub(crate) async fn read_header(file: &Node, base: u64) -> Result<Header> {
    Header::parse(&read_exactly(file, "LUKS header", base, HEADER as u64).await?)
}

/// Finds the master key with a password.
pub(crate) async fn unlock(
    file: &Node,
    base: u64,
    header: &Header,
    password: &[u8],
) -> Result<Vec<u8>> {
    for slot in header.slots.iter().filter(|slot| slot.active) {
        let (at, len) = header.material(slot);
        let material = read_exactly(file, "key material", base + at, len as u64).await?;
        if let Some(master) = header.open_slot(slot, password, material)? {
            return Ok(master);
        }
    }
    Err(BlockError::invalid("Invalid password, cannot unlock any keyslot"))
}

/// Changes who can open a disk whose header is at `base`; `password` opens it now.
pub(crate) async fn change_keys(
    file: &Node,
    base: u64,
    password: &[u8],
    change: &KeyChange,
) -> Result<()> {
    let mut header = read_header(file, base).await?;
    let mut random = |buf: &mut [u8]| (change.random.0)(buf);
    if let Some(slot) = change.slot.filter(|slot| *slot >= SLOTS) {
        return Err(BlockError::invalid(format!(
            "Invalid keyslot {slot} specified. Must be between 0 and {}",
            SLOTS - 1
        )));
    }
    let active = header.slots.iter().filter(|slot| slot.active).count();
    let gone = match &change.what {
        KeyAction::Add { password: new, rounds } => {
            let free = header.slots.iter().position(|slot| !slot.active);
            let slot = change.slot.or(free).ok_or_else(|| {
                BlockError::invalid("Can't add a keyslot - all keyslots are in use")
            })?;
            if header.slots[slot].active && !change.force {
                return Err(BlockError::invalid(format!(
                    "Refusing to overwrite active keyslot {slot} - please erase it first"
                )));
            }
            let master = unlock(file, base, &header, password).await?;
            let material = header.fill_slot(slot, new, &master, *rounds, &mut random)?;
            let (at, _) = header.material(&header.slots[slot]);
            file.write(base + at, material.into()).await?;
            file.flush().await?;
            Vec::new()
        }
        KeyAction::Erase(None) => {
            let slot = change.slot.ok_or_else(|| {
                BlockError::invalid("A key slot or an old secret is needed for erase operation")
            })?;
            if !header.slots[slot].active && !change.force {
                return Err(BlockError::invalid(format!(
                    "Given keyslot {slot} is already erased (inactive) "
                )));
            }
            if active == 1 && header.slots[slot].active && !change.force {
                return Err(BlockError::invalid(format!(
                    "Attempt to erase the only active keyslot {slot} which will erase all the data in \
                     the image irreversibly - refusing operation"
                )));
            }
            vec![slot]
        }
        KeyAction::Erase(Some(old)) => {
            let mut found = Vec::new();
            for (i, slot) in header.slots.iter().enumerate().filter(|(_, slot)| slot.active) {
                let (at, len) = header.material(slot);
                let material = read_exactly(file, "key material", base + at, len as u64).await?;
                if header.open_slot(slot, old, material)?.is_some() {
                    found.push(i);
                }
            }
            if found.is_empty() {
                return Err(BlockError::invalid(
                    "No keyslots match given (old) password for erase operation",
                ));
            }
            if found.len() == active && !change.force {
                return Err(BlockError::invalid(
                    "All the active keyslots match the (old) password that was given and erasing them \
                     will erase all the data in the image irreversibly - refusing operation",
                ));
            }
            found
        }
    };
    gone.iter().for_each(|slot| header.slots[*slot].active = false);
    file.write(base, header.to_bytes().into()).await?;
    file.flush().await?;
    for slot in gone {
        // What could open the disk must not be found on the host's storage.
        let (at, len) = header.material(&header.slots[slot]);
        for _ in 0..4 {
            let mut noise = vec![0; len];
            random(&mut noise);
            file.write(base + at, noise.into()).await?;
            file.flush().await?;
        }
    }
    Ok(())
}

/// Opens an image.
pub(crate) async fn open(file: &Arc<Node>, args: &OpenArgs) -> Result<Luks> {
    let header = read_header(file, 0).await?;
    let payload = u64::from(header.payload) * SECTOR as u64;
    let cipher = if args.no_io {
        None
    } else {
        let master = unlock(file, 0, &header, args.secret("LUKS")?).await?;
        Some(SectorCipher::new(&header.suite, &master)?)
    };
    let len = file.len().checked_sub(payload);
    let len = len.ok_or_else(|| BlockError::corrupt("the disk is beyond the end of the file"))?;
    let read_only = args.read_only || file.read_only() || args.no_io;
    let flat = Flat::new(file, payload, len, read_only, cipher)?;
    Ok(Luks { flat, header, payload, locked: args.no_io, secret: args.secret.clone() })
}

/// Writes a new header for a disk, at `base` of the file. Gives the offset behind it and the
/// cipher.
pub(crate) async fn format(
    file: &Node,
    base: u64,
    options: &LuksOptions,
    password: &[u8],
    random: &mut (dyn FnMut(&mut [u8]) + Send),
) -> Result<u64> {
    if options.cipher_mode == CipherMode::Xts && options.cipher_alg.key_len() > 32 {
        return Err(BlockError::invalid("XTS needs a cipher with a shorter key"));
    }
    let (header, material, _master) = Header::create(options, password, random)?;
    let (at, _) = header.material(&header.slots[0]);
    file.write(base + at, material.into()).await?;
    file.write(base, header.to_bytes().into()).await?;
    Ok(u64::from(header.payload) * SECTOR as u64)
}

/// Writes an encrypted disk of `size` bytes.
pub(crate) async fn create(
    file: &Node,
    size: u64,
    options: &LuksOptions,
    password: &[u8],
    random: &mut (dyn FnMut(&mut [u8]) + Send),
) -> Result<()> {
    file.truncate(0).await?;
    let payload = format(file, 0, options, password, random).await?;
    let end = payload.checked_add(size).ok_or(BlockError::NoSpace)?;
    file.truncate(end).await?;
    file.flush().await
}

impl Driver for Luks {
    fn name(&self) -> &'static str {
        "luks"
    }

    fn len(&self) -> u64 {
        self.flat.len()
    }

    fn read_only(&self) -> bool {
        self.flat.read_only()
    }

    fn children(&self) -> Vec<Arc<Edge>> {
        vec![self.flat.edge().clone()]
    }

    fn image(self: Arc<Self>) -> Option<Arc<dyn Image>> {
        Some(self)
    }

    fn read(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        if self.locked {
            return Op::err(BlockError::Encrypted("LUKS"));
        }
        Op::pending(async move { self.flat.read(offset, buf).await })
    }

    fn write(self: Arc<Self>, offset: u64, buf: IoBuf) -> Op<IoBuf> {
        Op::pending(async move { self.flat.write(offset, buf).await })
    }

    fn write_zeroes(self: Arc<Self>, offset: u64, len: u64, unmap: bool) -> Op<()> {
        Op::pending(async move { self.flat.write_zeroes(offset, len, unmap).await })
    }

    fn discard(self: Arc<Self>, offset: u64, len: u64) -> Op<()> {
        self.flat.discard(offset, len)
    }

    fn flush(self: Arc<Self>) -> Op<()> {
        self.flat.flush()
    }

    fn truncate(self: Arc<Self>, len: u64) -> Op<()> {
        Op::pending(async move {
            let end = self.payload.checked_add(len).ok_or(BlockError::NoSpace)?;
            self.flat.node()?.truncate(end).await?;
            self.flat.set_len(len);
            Ok(())
        })
    }

    fn status(self: Arc<Self>, offset: u64, len: u64) -> Op<BlockStatus> {
        Op::pending(async move { self.flat.status(offset, len).await })
    }
}

impl Image for Luks {
    fn facts(&self) -> Facts {
        Facts {
            encrypted: true,
            specific: Some(Specific::Luks(LuksInfo::new(&self.header))),
            ..Facts::default()
        }
    }

    fn change(self: Arc<Self>, change: Change) -> Op<()> {
        let Change::Amend(amend) = change else {
            return Op::err(BlockError::Errno(crate::errno::ENOTSUP));
        };
        Op::pending(async move {
            let Some(change) = &amend.key else { return Ok(()) };
            let password = self.secret.as_deref().ok_or(BlockError::Encrypted("LUKS"))?;
            change_keys(&*self.flat.node()?, 0, password, change).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::{KeyAction, KeyChange, Random};
    use crate::graph::BlockGraph;
    use crate::host::MemFile;

    #[test]
    fn passwords_come_and_go_and_the_last_one_stays() {
        let graph = BlockGraph::new();
        let file = graph.open_file(Some("f"), "", Arc::new(MemFile::with_len(0))).unwrap();
        let mut seed = 1u8;
        let mut noise = move |buf: &mut [u8]| {
            buf.iter_mut().for_each(|byte| {
                seed = seed.wrapping_mul(5).wrapping_add(3);
                *byte = seed;
            });
        };
        let options = LuksOptions { rounds: 1000, ..LuksOptions::default() };
        let made = create(&file, 4096, &options, b"one", &mut noise);
        graph.executor().run_in_place(made).unwrap().unwrap();
        let change = |with: &[u8], slot, force, what| {
            let random = Random(Arc::new(|buf: &mut [u8]| buf.fill(0x5a)));
            let change = KeyChange { slot, force, random, what };
            graph.executor().run_in_place(change_keys(&file, 0, with, &change)).unwrap()
        };
        let add = |password: &[u8]| KeyAction::Add { password: password.into(), rounds: 1000 };
        let opens = |password: &[u8]| {
            let open = async {
                let header = read_header(&file, 0).await?;
                unlock(&file, 0, &header, password).await
            };
            graph.executor().run_in_place(open).unwrap().ok()
        };
        let master = opens(b"one").unwrap();
        assert!(change(b"two", None, false, add(b"two")).is_err(), "a wrong password adds nothing");
        change(b"one", Some(4), false, add(b"two")).unwrap();
        assert_eq!(opens(b"two").as_ref(), Some(&master));
        assert!(change(b"one", Some(4), false, add(b"three")).is_err(), "the slot is in use");
        change(b"two", None, false, KeyAction::Erase(Some(b"one"[..].into()))).unwrap();
        assert!(opens(b"one").is_none() && opens(b"two").is_some());
        for what in [KeyAction::Erase(None), KeyAction::Erase(Some(b"two"[..].into()))] {
            assert!(change(b"two", Some(4), false, what).is_err(), "the last one stays");
        }
        change(b"two", Some(4), true, KeyAction::Erase(None)).unwrap();
        assert!(opens(b"two").is_none());
    }
}
