//! Tables of one cluster in memory, written back when their turn comes.

use rustc_hash::FxHashMap;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// One table. Its bytes are shared with a write-back in progress and copied when changed
/// meanwhile.
pub(crate) struct Table {
    data: Arc<Vec<u8>>,
    dirty: Range<usize>,
    /// Nothing on disk refers to it yet: it may be written before what it refers to is stable.
    pub(crate) fresh: bool,
    used: bool,
    writing: bool,
}

/// Something to be written.
pub(crate) struct Dirty {
    pub(crate) offset: u64,
    pub(crate) data: Arc<Vec<u8>>,
    pub(crate) range: Range<usize>,
    pub(crate) fresh: bool,
}

/// Tables by their offset in the file, evicted when clean and not used lately.
pub(crate) struct Cache {
    tables: FxHashMap<u64, Table>,
    order: VecDeque<u64>,
    dirty: Vec<u64>,
    limit: usize,
}

/// Most tables that are looked at to make room for one.
const TURNS: usize = 32;
/// What a disk writes in one go.
const SECTOR: usize = 512;

impl Cache {
    /// Room for `bytes` in tables of `table` bytes, and for four at least.
    pub(crate) fn new(bytes: u64, table: u64) -> Self {
        Self {
            tables: FxHashMap::default(),
            order: VecDeque::new(),
            dirty: Vec::new(),
            limit: (bytes / table).clamp(4, 1 << 20) as usize,
        }
    }

    /// Looks a table up.
    pub(crate) fn get(&mut self, offset: u64) -> Option<&[u8]> {
        let table = self.tables.get_mut(&offset)?;
        table.used = true;
        Some(&table.data)
    }

    pub(crate) fn contains(&self, offset: u64) -> bool {
        self.tables.contains_key(&offset)
    }

    /// Changes bytes of a table that is here.
    pub(crate) fn modify<T>(
        &mut self,
        offset: u64,
        bytes: Range<usize>,
        change: impl FnOnce(&mut [u8]) -> T,
    ) -> Option<T> {
        let table = self.tables.get_mut(&offset)?;
        table.used = true;
        if table.dirty.is_empty() {
            table.dirty = bytes;
            self.dirty.push(offset);
        } else {
            table.dirty = table.dirty.start.min(bytes.start)..table.dirty.end.max(bytes.end);
        }
        let data: &mut Vec<u8> = Arc::make_mut(&mut table.data);
        Some(change(data))
    }

    /// Adds a table read from disk.
    pub(crate) fn insert_clean(&mut self, offset: u64, data: Vec<u8>) {
        self.insert(offset, data, false);
    }

    /// Adds a table that is not on disk yet.
    pub(crate) fn insert_fresh(&mut self, offset: u64, data: Vec<u8>) {
        let len = data.len();
        self.insert(offset, data, true);
        self.modify(offset, 0..len, |_| ()).expect("just inserted");
    }

    fn insert(&mut self, offset: u64, data: Vec<u8>, fresh: bool) {
        self.make_room();
        let table = Table { data: Arc::new(data), dirty: 0..0, fresh, used: true, writing: false };
        if self.tables.insert(offset, table).is_none() {
            self.order.push_back(offset);
        } else {
            self.dirty.retain(|dirty| *dirty != offset);
        }
    }

    fn make_room(&mut self) {
        // A few turns of the clock at most, so that adding a table costs the same however many
        // are here; dirty tables stay, the owner writes them back.
        let mut turns = (self.order.len() * 2).min(TURNS);
        while self.tables.len() >= self.limit && turns > 0 {
            turns -= 1;
            let Some(offset) = self.order.pop_front() else { return };
            let Some(table) = self.tables.get_mut(&offset) else { continue };
            if table.used || table.writing || !table.dirty.is_empty() {
                table.used = false;
                self.order.push_back(offset);
            } else {
                self.tables.remove(&offset);
            }
        }
    }

    /// Forgets a table, changes and all.
    pub(crate) fn remove(&mut self, offset: u64) {
        if self.tables.remove(&offset).is_some() {
            self.order.retain(|o| *o != offset);
            self.dirty.retain(|o| *o != offset);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.tables.clear();
        self.order.clear();
        self.dirty.clear();
    }

    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// True when changes take most of the room, so that they should be written.
    pub(crate) fn crowded(&self) -> bool {
        self.dirty.len() * 2 > self.limit
    }

    /// Takes the list of changes; [`Cache::written`] must follow for each.
    pub(crate) fn take_dirty(&mut self) -> Vec<Dirty> {
        let mut list = std::mem::take(&mut self.dirty);
        list.sort_unstable();
        list.into_iter()
            .filter_map(|offset| {
                let table = self.tables.get_mut(&offset)?;
                let range = std::mem::replace(&mut table.dirty, 0..0);
                let end = range.end.next_multiple_of(SECTOR).min(table.data.len());
                let range = range.start / SECTOR * SECTOR..end;
                table.writing = true;
                let fresh = std::mem::replace(&mut table.fresh, false);
                Some(Dirty { offset, data: table.data.clone(), range, fresh })
            })
            .collect()
    }

    /// A change is on its way to the disk, or must be tried again.
    pub(crate) fn written(&mut self, item: &Dirty, ok: bool) {
        let Some(table) = self.tables.get_mut(&item.offset) else { return };
        table.writing = false;
        if !ok {
            table.fresh |= item.fresh;
            let range = item.range.clone();
            self.modify(item.offset, range, |_| ());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_tables_stay_and_clean_ones_make_room() {
        let mut cache = Cache::new(4 * 512, 512);
        for i in 0..10 {
            cache.insert_clean(i * 512, vec![i as u8; 512]);
            if i == 0 {
                cache.modify(0, 8..16, |bytes| bytes[8] = 9);
            }
        }
        assert!(cache.contains(0) && cache.contains(9 * 512) && !cache.contains(512));
        let dirty = cache.take_dirty();
        assert_eq!(dirty.len(), 1);
        assert_eq!((dirty[0].range.clone(), dirty[0].data[8]), (0..512, 9));
        cache.modify(0, 8..16, |bytes| bytes[8] = 10);
        assert_eq!(dirty[0].data[8], 9, "a write-back in progress keeps its view");
        cache.written(&dirty[0], true);
        assert!(cache.is_dirty(), "the change made meanwhile waits for the next one");
    }
}
