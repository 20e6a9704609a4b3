//! ACPI tables as firmware gets them: a blob of tables, the root pointer, and a script that says
//! where pointers and checksums go once firmware knows the addresses.

/// Name of the file with the tables.
pub(crate) const TABLES_FILE: &str = "etc/acpi/tables";
/// Name of the file with the root pointer.
pub(crate) const RSDP_FILE: &str = "etc/acpi/rsdp";
/// Name of the file with the script.
pub(crate) const LOADER_FILE: &str = "etc/table-loader";

const OEM: &[u8; 6] = b"ORRERY";
const OEM_TABLE: &[u8; 8] = b"ORRERYPC";
const CREATOR: &[u8; 4] = b"ORRY";
/// Bytes of a table's header.
const HEADER: usize = 36;

/// A table under construction, after its header.
pub(crate) struct Table {
    bytes: Vec<u8>,
}

impl Table {
    /// Begins a table.
    pub(crate) fn new(signature: [u8; 4], revision: u8) -> Self {
        let mut bytes = signature.to_vec();
        bytes.extend([0; 4]);
        bytes.extend([revision, 0]);
        bytes.extend(OEM);
        bytes.extend(OEM_TABLE);
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(CREATOR);
        bytes.extend(1_u32.to_le_bytes());
        debug_assert_eq!(bytes.len(), HEADER);
        Self { bytes }
    }

    /// Appends a byte.
    pub(crate) fn u8(&mut self, v: u8) -> &mut Self {
        self.raw(&[v])
    }

    /// Appends a 16-bit value.
    pub(crate) fn u16(&mut self, v: u16) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }

    /// Appends a 32-bit value.
    pub(crate) fn u32(&mut self, v: u32) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }

    /// Appends a 64-bit value.
    pub(crate) fn u64(&mut self, v: u64) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }

    /// Appends bytes.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    /// Appends a generic address: space (1 I/O, 0 memory), width in bits, access size, address.
    pub(crate) fn address(&mut self, space: u8, bits: u8, access: u8, address: u64) -> &mut Self {
        self.raw(&[space, bits, 0, access]).u64(address)
    }

    /// Bytes so far, header included.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }
}

/// The three files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    /// The tables.
    pub(crate) tables: Vec<u8>,
    /// The root pointer.
    pub(crate) rsdp: Vec<u8>,
    /// The script.
    pub(crate) loader: Vec<u8>,
}

/// Collects tables into [`Files`].
pub(crate) struct Builder {
    tables: Vec<u8>,
    loader: Vec<u8>,
    roots: Vec<usize>,
}

fn file(name: &str) -> [u8; 56] {
    let mut out = [0; 56];
    out[..name.len()].copy_from_slice(name.as_bytes());
    out
}

impl Builder {
    /// Begins.
    pub(crate) fn new() -> Self {
        let mut b = Self { tables: Vec::new(), loader: Vec::new(), roots: Vec::new() };
        // Allocate: alignment, and the zone: 1 anywhere below 4 GiB, 2 the F segment.
        b.command(1, &[&file(TABLES_FILE), &64_u32.to_le_bytes(), &[1]]);
        b.command(1, &[&file(RSDP_FILE), &16_u32.to_le_bytes(), &[2]]);
        b
    }

    fn command(&mut self, command: u32, fields: &[&[u8]]) {
        let at = self.loader.len();
        self.loader.extend(command.to_le_bytes());
        fields.iter().for_each(|f| self.loader.extend_from_slice(f));
        self.loader.resize(at + 128, 0);
    }

    /// Adds what is no table (the FACS), aligned to 64 bytes; gives its offset.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> usize {
        self.tables.resize(self.tables.len().next_multiple_of(64), 0);
        let at = self.tables.len();
        self.tables.extend_from_slice(bytes);
        at
    }

    /// Adds a table whose 32-bit pointers are at `pointers`: (offset in the table, offset of the
    /// target). Gives its offset.
    pub(crate) fn table(&mut self, mut table: Table, pointers: &[(usize, usize)]) -> usize {
        let len = table.len() as u32;
        table.bytes[4..8].copy_from_slice(&len.to_le_bytes());
        self.tables.resize(self.tables.len().next_multiple_of(8), 0);
        let at = self.tables.len();
        self.tables.extend_from_slice(&table.bytes);
        for &(offset, target) in pointers {
            let where_ = at + offset;
            self.tables[where_..where_ + 4].copy_from_slice(&(target as u32).to_le_bytes());
            self.pointer(TABLES_FILE, where_);
        }
        self.checksum(TABLES_FILE, at + 9, at, len as usize);
        at
    }

    /// Adds a table that the root table names.
    pub(crate) fn root(&mut self, table: Table, pointers: &[(usize, usize)]) {
        let at = self.table(table, pointers);
        self.roots.push(at);
    }

    /// The 4 bytes at `offset` of `dest` hold an offset into the tables: firmware adds where they
    /// are.
    fn pointer(&mut self, dest: &str, offset: usize) {
        let offset = (offset as u32).to_le_bytes();
        self.command(2, &[&file(dest), &file(TABLES_FILE), &offset, &[4]]);
    }

    fn checksum(&mut self, name: &str, offset: usize, start: usize, len: usize) {
        let n = |v: usize| (v as u32).to_le_bytes();
        self.command(3, &[&file(name), &n(offset), &n(start), &n(len)]);
    }

    /// Makes the root table and the root pointer.
    pub(crate) fn finish(mut self) -> Files {
        let mut rsdt = Table::new(*b"RSDT", 1);
        let roots = std::mem::take(&mut self.roots);
        let pointers: Vec<_> =
            roots.iter().enumerate().map(|(i, &r)| (HEADER + 4 * i, r)).collect();
        roots.iter().for_each(|_| {
            rsdt.u32(0);
        });
        let rsdt = self.table(rsdt, &pointers);
        let mut rsdp = b"RSD PTR \0".to_vec();
        rsdp.extend(OEM);
        rsdp.push(0);
        rsdp.extend((rsdt as u32).to_le_bytes());
        self.pointer(RSDP_FILE, 16);
        self.checksum(RSDP_FILE, 8, 0, 20);
        Files { tables: self.tables, rsdp, loader: self.loader }
    }
}

/// Carries out a script as firmware does, with the tables at `base`; for tests.
#[cfg(test)]
pub(crate) fn link(files: &Files, base: u32) -> (Vec<u8>, Vec<u8>) {
    let (mut tables, mut rsdp) = (files.tables.clone(), files.rsdp.clone());
    for c in files.loader.as_chunks::<128>().0 {
        let n = |at: usize| u32::from_le_bytes(c[at..at + 4].try_into().unwrap()) as usize;
        let dest = if c[4..].starts_with(b"etc/acpi/tables\0") { &mut tables } else { &mut rsdp };
        match n(0) {
            2 => {
                let at = n(116);
                let v = u32::from_le_bytes(dest[at..at + 4].try_into().unwrap()) + base;
                dest[at..at + 4].copy_from_slice(&v.to_le_bytes());
            }
            3 => {
                let sum = dest[n(64)..n(64) + n(68)].iter().fold(0_u8, |s, b| s.wrapping_add(*b));
                dest[n(60)] = dest[n(60)].wrapping_sub(sum);
            }
            _ => {}
        }
    }
    (tables, rsdp)
}
