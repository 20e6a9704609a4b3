//! Hot code as WebAssembly: modules of many regions, compiled by JavaScript while the interpreter runs on.
//!
//! Regions wait in a queue until a slice of execution ends; one module is then made of all of
//! them. The engine hears of finished ones when it asks, and puts their slots of the function table
//! to use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use js_sys::WebAssembly::{Instance, Module, Table, instantiate_buffer, validate};
use js_sys::{Object, Reflect, Uint8Array};
use orrery_cpu::jit::abi::{Code, Shims};
use orrery_cpu::jit::wasm::{self, IMPORTS, Slots};
use orrery_cpu::jit::{Compiler, Done, Job};
use orrery_cpu::region::flow;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, spawn_local};

use crate::host::report;

/// Slots that the table grows by. Every module there is hears of it.
const GROW: u32 = 1024;
/// Most modules being compiled at a time.
const MAX_FLYING: usize = 4;
/// Guest instructions from which on a module is not made larger: making one takes the machine's
/// thread, some microseconds an instruction.
const BATCH: u32 = 1500;

/// The compiler, as the session holds it.
#[derive(Clone)]
pub(crate) struct Jit(Arc<Mutex<State>>);

struct State {
    shims: Slots,
    /// Regions are compiled as they are submitted.
    wait: bool,
    queue: Vec<Job>,
    done: Vec<Done>,
    /// Modules and regions being compiled.
    flying: usize,
    pending: usize,
    /// Slots of finished regions.
    live: BTreeMap<u64, u32>,
    /// Regions not wanted any more that are being compiled.
    cancelled: BTreeSet<u64>,
    /// Gates of regions that were not made, still to be released.
    unmade: BTreeSet<u64>,
    free: Vec<u32>,
    /// Slots to be emptied.
    stale: Vec<u32>,
}

/// Regions of a module: the number of the job and the slots that its first block and its gates go to.
type Placed = Vec<(u64, Vec<u32>)>;

/// What is handed to the engine.
struct Lent(Jit);

fn table() -> Table {
    wasm_bindgen::function_table().unchecked_into()
}

impl Jit {
    /// A compiler, if this JavaScript engine knows what it emits.
    pub(crate) fn new(shims: &Shims, wait: bool) -> Option<(Self, Box<dyn Compiler>)> {
        let knows = |tail_calls| {
            let probe = Uint8Array::from(wasm::probe(tail_calls).as_slice());
            validate(&probe).unwrap_or(false)
        };
        if !knows(false) || table().grow(0).is_err() {
            return None;
        }
        let state = State {
            shims: Slots { tail_calls: knows(true), ..Slots::from(shims) },
            wait,
            queue: Vec::new(),
            done: Vec::new(),
            flying: 0,
            pending: 0,
            live: BTreeMap::new(),
            cancelled: BTreeSet::new(),
            unmade: BTreeSet::new(),
            free: Vec::new(),
            stale: Vec::new(),
        };
        let jit = Self(Arc::new(Mutex::new(state)));
        Some((jit.clone(), Box::new(Lent(jit))))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Between slices: empties slots, and has what was queued compiled.
    pub(crate) fn flush(&self) {
        let mut s = self.state();
        s.sweep();
        if s.queue.is_empty() || s.flying >= MAX_FLYING {
            return;
        }
        let Some((bytes, slots)) = s.module() else { return };
        s.flying += 1;
        drop(s);
        let jit = self.clone();
        spawn_local(async move {
            let size = bytes.len();
            let made = match imports() {
                Ok(imports) => JsFuture::from(instantiate_buffer(&bytes, &imports)).await.map(drop),
                Err(e) => Err(e),
            };
            let mut s = jit.state();
            s.flying -= 1;
            s.finish(slots, size, made);
        });
    }
}

/// The emulator's memory and table, as generated modules import them.
fn imports() -> Result<Object, JsValue> {
    let (all, ours) = (Object::new(), Object::new());
    Reflect::set(&ours, &"m".into(), &wasm_bindgen::memory())?;
    Reflect::set(&ours, &"t".into(), &wasm_bindgen::function_table())?;
    Reflect::set(&all, &IMPORTS.into(), &ours)?;
    Ok(all)
}

impl State {
    /// Empties the slots of code that is not used any more.
    fn sweep(&mut self) {
        if self.stale.is_empty() {
            return;
        }
        let table = table();
        for slot in self.stale.drain(..) {
            if table.set_raw(slot, &JsValue::NULL).is_ok() {
                self.free.push(slot);
            }
        }
    }

    fn slot(&mut self) -> Option<u32> {
        if self.free.is_empty() {
            let first = table().grow(GROW).ok()?;
            self.free.extend((first..first + GROW).rev());
        }
        self.free.pop()
    }

    /// A module of the first regions queued, and the slots its functions go to.
    fn module(&mut self) -> Option<(Vec<u8>, Placed)> {
        let mut insns = 0;
        let fit = |job: &Job| {
            insns += job.region.insns();
            insns >= BATCH
        };
        let n = self.queue.iter().position(fit).map_or(self.queue.len(), |last| last + 1);
        let jobs: Vec<Job> = self.queue.drain(..n).collect();
        let mut slots: Placed = Vec::with_capacity(jobs.len());
        for job in &jobs {
            let ways = 0..=job.region.gates.len();
            slots.push((job.id, ways.map(|_| self.slot()).collect::<Option<_>>()?));
        }
        let regions: Vec<_> =
            jobs.iter().zip(&slots).map(|(job, (_, slots))| (&job.region, &**slots)).collect();
        Some((wasm::module(&regions, &self.shims), slots))
    }

    fn finish(&mut self, slots: Placed, bytes: usize, made: Result<(), JsValue>) {
        if let Err(e) = &made {
            report(&format!("orrery: generated code: {e:?}"));
        }
        let bytes = bytes / slots.len().max(1);
        for (first, slots) in slots {
            self.pending -= 1;
            for (id, slot) in (first..).zip(slots) {
                if self.cancelled.remove(&id) || made.is_err() {
                    self.stale.push(slot);
                    continue;
                }
                self.live.insert(id, slot);
                self.done.push(Done {
                    id,
                    code: Some(Code::called(wasm::entry(slot))),
                    bytes: if id == first { bytes } else { 0 },
                    nanos: 0,
                });
            }
        }
    }
}

impl Compiler for Lent {
    fn submit(&mut self, mut job: Job) {
        flow::prune(&mut job.region);
        let mut s = self.0.state();
        s.queue.push(job);
        s.pending += 1;
        if !s.wait {
            return;
        }
        let Some((bytes, slots)) = s.module() else { return };
        let module = Module::new(&Uint8Array::from(bytes.as_slice()));
        let made = module.and_then(|m| Instance::new(&m, &imports()?)).map(drop);
        s.finish(slots, bytes.len(), made);
    }

    fn poll(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.0.state().done)
    }

    fn release(&mut self, id: u64) {
        let mut s = self.0.state();
        if let Some(slot) = s.live.remove(&id) {
            s.stale.push(slot);
        } else if let Some(at) = s.queue.iter().position(|job| job.id == id) {
            let job = s.queue.remove(at);
            s.pending -= 1;
            // Its gates go, too, and are named each.
            s.unmade.extend((id..).take(1 + job.region.gates.len()).skip(1));
        } else if !s.unmade.remove(&id) {
            s.cancelled.insert(id);
        }
    }

    fn pending(&self) -> usize {
        self.0.state().pending
    }

    fn release_all(&mut self) {
        let mut s = self.0.state();
        let slots: Vec<u32> = std::mem::take(&mut s.live).into_values().collect();
        s.stale.extend(slots);
        s.done.clear();
        s.pending -= s.queue.len();
        s.queue.clear();
        s.unmade.clear();
    }
}
