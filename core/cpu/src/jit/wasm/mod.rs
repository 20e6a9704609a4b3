//! WebAssembly for regions.
//!
//! [`module`] makes one module of many regions. It imports the emulator's own memory and function
//! table; each region is a function of the type [`Entry`](super::abi::Entry) that an element segment puts
//! into a slot of that table when the module is instantiated, so that a slot is a function
//! pointer for Rust. What regions call are [`Shims`](super::abi::Shims), whose function pointers are slots of
//! the same table.
//!
//! Guest variables are locals while a region runs: of 32 bits where the mode says that no more of them
//! are used, of 64 otherwise, of 128 for vectors. All of them are read at the start; ways out that are seldom taken
//! share one place that writes all of them back.

mod float;
mod func;
mod graph;
mod int;
mod memory;
mod simd;
mod vector;

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests;

use std::borrow::Cow;

use wasm_encoder::{
    BranchHints, CodeSection, ConstExpr, ElementSection, Elements, EntityType, FunctionSection,
    ImportSection, MemoryType, Module, NameMap, NameSection, RefType, TableType, TypeSection,
    ValType,
};

use crate::region::Region;

/// Slots of the function table that hold the shims ([`Shims`](super::abi::Shims)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as the shims are")]
pub struct Slots {
    pub load: u32,
    pub store: u32,
    pub probe: u32,
    pub vload: u32,
    pub vstore: u32,
    pub vec_op: u32,
    pub pure: u32,
    pub call: u32,
    pub trap: u32,
    pub resume: u32,
    /// Whether regions may go on in one another by tail calls.
    pub tail_calls: bool,
}

#[cfg(target_arch = "wasm32")]
impl From<&super::abi::Shims> for Slots {
    fn from(s: &super::abi::Shims) -> Self {
        Self {
            load: s.load as usize as u32,
            store: s.store as usize as u32,
            probe: s.probe as usize as u32,
            vload: s.vload as usize as u32,
            vstore: s.vstore as usize as u32,
            vec_op: s.vec_op as usize as u32,
            pure: s.pure as usize as u32,
            call: s.call as usize as u32,
            trap: s.trap as usize as u32,
            resume: s.resume as usize as u32,
            tail_calls: true,
        }
    }
}

/// Function types, in the order of the type section.
#[derive(Clone, Copy)]
enum Type {
    Entry,
    Load,
    Store,
    Probe,
    VecOp,
    Call,
    Trap,
    GoOn,
    Quick,
}

/// A small module with everything in it that not every engine knows, or with a tail call besides.
pub fn probe(tail_calls: bool) -> Vec<u8> {
    let mut types = TypeSection::new();
    types.ty().function([], []);
    let mut functions = FunctionSection::new();
    functions.function(0);
    let mut body = wasm_encoder::Function::new([]);
    body.instructions().i32_const(0).i32_extend8_s().i8x16_splat().drop();
    if tail_calls {
        body.instructions().return_call(0);
    }
    body.instructions().end();
    let mut code = CodeSection::new();
    code.function(&body);
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&code);
    module.finish()
}

/// The region that is in a slot of the function table.
#[cfg(target_arch = "wasm32")]
#[expect(unsafe_code, reason = "a slot is made a function pointer")]
pub fn entry(slot: u32) -> super::abi::Entry {
    // SAFETY: function pointers are slots of the table here; calling one whose slot is empty or
    // of another type is a trap of the engine.
    unsafe { core::mem::transmute::<usize, super::abi::Entry>(slot as usize) }
}

/// The name that memory and table are imported under.
pub const IMPORTS: &str = "e";

/// A module with a function for each region, to be put into the slot beside it: the first for its first block, one more for each
/// of its gates.
pub fn module(regions: &[(&Region, &[u32])], shims: &Slots) -> Vec<u8> {
    use ValType::{I32, I64};
    let mut types = TypeSection::new();
    types.ty().function([I32], [I32]);
    types.ty().function([I32, I64, I32], [I64]);
    types.ty().function([I32, I64, I64, I32], []);
    types.ty().function([I32, I64, I32], []);
    types.ty().function([I32, I32, I32], []);
    types.ty().function([I32, I32], [I64]);
    types.ty().function([I32, I32, I64], []);
    types.ty().function([I32, I64], [I32]);
    types.ty().function([I32, I64, I64, I64, I64], [I64]);

    let mut imports = ImportSection::new();
    let memory = MemoryType {
        minimum: 0,
        maximum: None,
        memory64: false,
        shared: false,
        page_size_log2: None,
    };
    let table = TableType {
        element_type: RefType::FUNCREF,
        table64: false,
        minimum: 0,
        maximum: None,
        shared: false,
    };
    imports.import(IMPORTS, "m", EntityType::Memory(memory));
    imports.import(IMPORTS, "t", EntityType::Table(table));

    let mut functions = FunctionSection::new();
    let mut elements = ElementSection::new();
    let mut hints = BranchHints::new();
    let mut code = CodeSection::new();
    // What profilers show.
    let mut names = NameMap::new();
    let mut count = 0;
    if shims.tail_calls {
        functions.function(Type::GoOn as u32);
        code.function(&func::go_on());
        names.append(0, "go_on");
        count = 1;
    }
    for &(region, slots) in regions {
        let i = count;
        functions.function(Type::Entry as u32);
        names.append(i, &format!("guest_{:x}", region.pc()));
        let (body, seldom, budget) = func::body(region, shims);
        code.function(&body);
        if !seldom.is_empty() {
            hints.function_hints(i, seldom);
        }
        count += 1;
        let mut ways = vec![i];
        if !region.gates.is_empty() {
            ways.clear();
            for way in func::ways_in(region, &budget.need, i, shims) {
                functions.function(Type::Entry as u32);
                names.append(count, &format!("enter_{:x}", region.pc()));
                code.function(&way);
                ways.push(count);
                count += 1;
            }
        }
        for (&slot, way) in slots.iter().zip(ways) {
            let (at, what) = (ConstExpr::i32_const(slot as i32), vec![way]);
            elements.active(None, &at, Elements::Functions(Cow::Owned(what)));
        }
    }
    let mut module = Module::new();
    module.section(&types).section(&imports).section(&functions).section(&elements);
    let mut all = NameSection::new();
    all.functions(&names);
    module.section(&hints).section(&code).section(&all);
    module.finish()
}
