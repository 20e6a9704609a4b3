//! Hot code as native code: the best by Cranelift, what is wanted soon by `direct` where the host is one
//! it makes code for.
//!
//! [`Native`] compiles on a thread of its own, or in place for tests.

#[cfg(target_arch = "x86_64")]
mod direct;
mod emit;
mod memory;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::types::{I32, I64};
use cranelift_codegen::ir::{Function, InstBuilder, MemFlagsData, UserFuncName};
use cranelift_codegen::isa::{CallConv, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use cranelift_codegen::{CodegenError, Context as Codegen};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

use super::abi::{self, Context, Shims};
use super::{Compiler, Done, Job};
use crate::ir::text::dump;
use crate::log::Wanted;
use crate::region::{Region, flow};
use emit::{Emit, PTR, Targets, signature};
use memory::{Arena, entry};

/// Address space for code.
const ARENA: usize = 256 << 20;

/// Why there is no native compiler.
#[derive(Debug, thiserror::Error)]
pub enum NativeError {
    /// Cranelift does not know this host.
    #[error("no native compiler for this host: {0}")]
    Host(String),
    /// The system gives no memory that code can be run from.
    #[error("no memory to run code from: {0}")]
    Memory(#[from] std::io::Error),
    /// Cranelift could not compile the stubs.
    #[error("the native compiler does not work here: {0}")]
    Stubs(String),
}

/// Makes functions of regions.
struct Maker {
    /// For the best code.
    isa: OwnedTargetIsa,
    /// For code made quickly: a fifth of the time, and half as fast again in the worst case.
    quick: OwnedTargetIsa,
    /// For code made in a hundredth of the time, that goes on in the next region by a jump.
    #[cfg(target_arch = "x86_64")]
    direct: Option<direct::Stubs>,
    targets: Targets,
    frontend: FunctionBuilderContext,
    codegen: Codegen,
    listing: Listing,
}

/// What is said about the code as it is made, for those who profile it.
#[derive(Default)]
pub struct Listing {
    /// Where each region's code is, in the form of `perf`'s `/tmp/perf-PID.map`.
    pub map: Option<Box<dyn Write + Send>>,
    /// The operations of each region, and its code disassembled.
    pub code: Option<Box<dyn Write + Send>>,
    /// Which regions' code is shown.
    pub wanted: Wanted,
}

impl Listing {
    fn region(&mut self, job: &Job, place: usize, bytes: usize, text: Option<&str>) {
        let (region, kind) = (&job.region, if job.best { "" } else { "_quick" });
        let pc = region.pc();
        let linear =
            region.pages.first().map_or(pc, |p| p.linear.wrapping_add(pc.wrapping_sub(p.pc)));
        // What cannot be written is not said.
        if let Some(map) = &mut self.map {
            let _ = writeln!(map, "{place:x} {bytes:x} guest_{pc:x}{kind}");
            let _ = map.flush();
        }
        if let Some(code) = &mut self.code
            && self.wanted.covers(linear)
        {
            let _ = writeln!(code, "== region {pc:#x}{kind} at {place:#x}, {bytes} bytes");
            for block in &region.blocks {
                let ops = dump(&block.ops);
                let _ = writeln!(code, "-- block {:#x}, {} insns\n{ops}", block.pc, block.insns);
            }
            let _ = writeln!(code, "{}", text.unwrap_or("(no text)"));
            let _ = code.flush();
        }
    }
}

impl Maker {
    /// `whole`: with all instructions that this host's processor has.
    fn new(shims: Shims, whole: bool) -> Result<Self, NativeError> {
        let host = |e: &dyn std::fmt::Display| NativeError::Host(e.to_string());
        let isa = |opt: &str, allocator: &str| {
            let mut flags = settings::builder();
            for (name, value) in [
                ("opt_level", opt),
                ("regalloc_algorithm", allocator),
                ("is_pic", "false"),
                ("enable_verifier", if cfg!(debug_assertions) { "true" } else { "false" }),
                ("enable_probestack", "false"),
                ("unwind_info", "false"),
            ] {
                flags.set(name, value).map_err(|e| host(&e))?;
            }
            let isa = cranelift_native::builder_with_options(whole).map_err(|e| host(&e))?;
            isa.finish(settings::Flags::new(flags)).map_err(|e| host(&e))
        };
        let (quick, isa) = (isa("none", "single_pass")?, isa("speed", "backtracking")?);
        let targets = Targets { shims, load: 0, store: 0, probe: 0, vload: 0, vstore: 0, call: 0 };
        let (frontend, codegen) = (FunctionBuilderContext::new(), Codegen::new());
        Ok(Self {
            isa,
            quick,
            #[cfg(target_arch = "x86_64")]
            direct: None,
            targets,
            frontend,
            codegen,
            listing: Listing::default(),
        })
    }

    /// Compiles what is in `codegen.func`.
    fn finish(&mut self, best: bool) -> Result<(Vec<u8>, Option<String>), String> {
        let isa = if best { &self.isa } else { &self.quick };
        self.codegen.set_disasm(self.listing.code.is_some());
        let made = self.codegen.compile(&**isa, &mut ControlPlane::default());
        let result = match made {
            Ok(code) if code.buffer.relocs().is_empty() => {
                Ok((code.buffer.data().to_vec(), code.vcode.clone()))
            }
            Ok(_) => Err("code with relocations".to_string()),
            Err(e) => Err(match e.inner {
                CodegenError::Verifier(v) => format!("{v}"),
                e => e.to_string(),
            }),
        };
        self.codegen.clear();
        result
    }

    /// A function that saves every register, calls the shim with its `params`, and leaves the
    /// result in the context.
    fn stub(
        &mut self,
        target: usize,
        params: &[cranelift_codegen::ir::Type],
    ) -> Result<Vec<u8>, String> {
        let conv = self.isa.default_call_conv();
        let sig = signature(CallConv::PreserveAll, params, &[]);
        self.codegen.func = Function::with_name_signature(UserFuncName::default(), sig);
        let mut b = FunctionBuilder::new(&mut self.codegen.func, &mut self.frontend);
        let block = b.create_block();
        b.append_block_params_for_function_params(block);
        b.switch_to_block(block);
        let args = b.block_params(block).to_vec();
        let shim = b.import_signature(signature(conv, params, &[I64]));
        let target = b.ins().iconst(PTR, target as i64);
        let call = b.ins().call_indirect(shim, target, &args);
        let result = b.inst_results(call)[0];
        b.ins().store(MemFlagsData::trusted(), result, args[0], Context::ARGS as i32);
        b.ins().return_(&[]);
        b.seal_all_blocks();
        b.finalize(self.isa.frontend_config());
        self.finish(true).map(|(code, _)| code)
    }

    /// Code that was not made by Cranelift.
    #[cfg(target_arch = "x86_64")]
    fn direct(&self, job: &Job) -> Option<direct::Code> {
        let stubs = self.direct.as_ref().filter(|_| !job.best)?;
        Some(direct::region(&job.region, stubs))
    }

    fn region(&mut self, region: &Region, best: bool) -> Result<(Vec<u8>, Option<String>), String> {
        let conv = self.isa.default_call_conv();
        let sig = signature(conv, &[PTR], &[I32]);
        self.codegen.func = Function::with_name_signature(UserFuncName::default(), sig);
        let b = FunctionBuilder::new(&mut self.codegen.func, &mut self.frontend);
        let b = Emit::new(b, region, &self.targets, conv, !best).run();
        b.finalize(self.isa.frontend_config());
        self.finish(best)
    }
}

/// What the compiling thread and the running one share.
struct Shared {
    arena: Mutex<Arena>,
    ready: AtomicBool,
    pending: AtomicUsize,
    stop: AtomicBool,
}

enum Worker {
    Here(Box<Maker>, Vec<Done>),
    Thread { jobs: Option<Sender<Job>>, done: Receiver<Done>, thread: Option<JoinHandle<()>> },
}

/// The native back end.
pub struct Native {
    worker: Worker,
    shared: Arc<Shared>,
    /// Where the code of finished jobs is, and how long.
    code: HashMap<u64, (usize, usize)>,
    /// Jobs released before they were finished.
    unwanted: HashSet<u64>,
    /// There is code made in one pass.
    one_pass: bool,
    /// Says why a region could not be compiled, for tests.
    pub failed: Arc<Mutex<Vec<String>>>,
}

impl Native {
    /// A compiler for the clusters whose shims these are, on a thread of its own, or in the thread
    /// of its caller.
    pub fn new(shims: Shims, threaded: bool) -> Result<Self, NativeError> {
        Self::listed(shims, threaded, Listing::default())
    }

    /// The same, saying what it makes.
    pub fn listed(shims: Shims, threaded: bool, listing: Listing) -> Result<Self, NativeError> {
        Self::made(shims, threaded, listing, true)
    }

    /// A compiler as on a host whose processor is the oldest of its kind: nothing is made in one pass, and Cranelift
    /// keeps to the instructions that all have. For tests.
    pub fn plain(shims: Shims) -> Result<Self, NativeError> {
        Self::made(shims, false, Listing::default(), false)
    }

    fn made(
        shims: Shims,
        threaded: bool,
        listing: Listing,
        whole: bool,
    ) -> Result<Self, NativeError> {
        let mut maker = Maker::new(shims, whole)?;
        let mut arena = Arena::new(ARENA)?;
        let (three, four) = ([PTR, I64, I32], [PTR, I64, I64, I32]);
        let s = maker.targets.shims;
        let mut stub = |target: usize, params: &[_]| {
            let code = maker.stub(target, params).map_err(NativeError::Stubs)?;
            arena.put(&code).ok_or_else(|| NativeError::Stubs("no room".into()))
        };
        let load = stub(s.load as usize, &three)?;
        let store = stub(s.store as usize, &four)?;
        let probe = stub(s.probe as usize, &three)?;
        let vload = stub(s.vload as usize, &three)?;
        let vstore = stub(s.vstore as usize, &three)?;
        let call = stub(s.call as usize, &[PTR, I32])?;
        #[cfg(target_arch = "x86_64")]
        if whole && direct::works_here() {
            maker.direct = direct::make_stubs(&s, |mut code| {
                let code = &mut code;
                arena.put_with(code.bytes.len(), move |place| code.place(place))
            });
        }
        #[cfg(target_arch = "x86_64")]
        let one_pass = maker.direct.is_some();
        #[cfg(not(target_arch = "x86_64"))]
        let one_pass = false;
        maker.listing = listing;
        maker.targets = Targets { shims, load, store, probe, vload, vstore, call };
        let shared = Arc::new(Shared {
            arena: Mutex::new(arena),
            ready: AtomicBool::new(false),
            pending: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let failed = Arc::new(Mutex::new(Vec::new()));
        let worker = if threaded {
            let (jobs, todo) = channel::<Job>();
            let (finished, done) = channel();
            let (shared, failed) = (shared.clone(), failed.clone());
            #[expect(clippy::disallowed_methods, reason = "compiled code changes no result")]
            let thread = std::thread::spawn(move || {
                // What is wanted soon goes before what is wanted good.
                let mut waiting: [VecDeque<Job>; 2] = Default::default();
                loop {
                    if waiting.iter().all(VecDeque::is_empty) {
                        let Ok(job) = todo.recv() else { break };
                        waiting[usize::from(job.best)].push_back(job);
                    }
                    for job in todo.try_iter() {
                        waiting[usize::from(job.best)].push_back(job);
                    }
                    if shared.stop.load(Relaxed) {
                        break;
                    }
                    let Some(job) = waiting.iter_mut().find_map(VecDeque::pop_front) else {
                        continue;
                    };
                    let done = make(&mut maker, &shared, &failed, job);
                    if finished.send(done).is_err() {
                        break;
                    }
                    shared.pending.fetch_sub(1, Relaxed);
                    shared.ready.store(true, Relaxed);
                }
            });
            Worker::Thread { jobs: Some(jobs), done, thread: Some(thread) }
        } else {
            Worker::Here(Box::new(maker), Vec::new())
        };
        let (code, unwanted) = (HashMap::new(), HashSet::new());
        Ok(Self { worker, shared, code, unwanted, one_pass, failed })
    }
}

/// Compiles a job and puts its code where it can be run.
fn make(maker: &mut Maker, shared: &Shared, failed: &Mutex<Vec<String>>, mut job: Job) -> Done {
    let start = clock();
    flow::prune(&mut job.region);
    let job = &job;
    let mut done = Done { id: job.id, code: None, bytes: 0, nanos: 0 };
    #[cfg(target_arch = "x86_64")]
    if let Some(mut code) = maker.direct(job) {
        done.bytes = code.bytes.len();
        let place = {
            let (len, code) = (done.bytes, &mut code);
            let mut arena = shared.arena.lock().expect("no panic while held");
            arena.put_with(len, move |place| code.place(place))
        };
        if let Some(place) = place {
            let text = || code.bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            let text = maker.listing.code.is_some().then(text);
            maker.listing.region(job, place, done.bytes, text.as_deref());
        }
        done.code = place.map(|place| abi::Code { entry: entry(place), chain: direct::BODY });
        done.nanos = (clock() - start).as_nanos() as u64;
        return done;
    }
    match maker.region(&job.region, job.best) {
        Ok((code, text)) => {
            let place = shared.arena.lock().expect("no panic while held").put(&code);
            if let Some(place) = place {
                maker.listing.region(job, place, code.len(), text.as_deref());
            }
            done.code = place.map(|place| abi::Code::called(entry(place)));
            done.bytes = code.len();
        }
        Err(e) => failed.lock().expect("no panic while held").push(e),
    }
    done.nanos = (clock() - start).as_nanos() as u64;
    done
}

/// A clock for statistics; nothing else depends on it.
fn clock() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    memory::thread_time(&mut now);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

impl Compiler for Native {
    fn submit(&mut self, job: Job) {
        match &mut self.worker {
            Worker::Here(maker, done) => done.push(make(maker, &self.shared, &self.failed, job)),
            Worker::Thread { jobs, .. } => {
                self.shared.pending.fetch_add(1, Relaxed);
                if let Some(jobs) = jobs {
                    // A thread that is gone compiles nothing: the interpreter goes on.
                    let _ = jobs.send(job);
                }
            }
        }
    }

    fn poll(&mut self) -> Vec<Done> {
        let mut all = match &mut self.worker {
            Worker::Here(_, done) => std::mem::take(done),
            Worker::Thread { done, .. } => {
                if !self.shared.ready.swap(false, Relaxed) {
                    return Vec::new();
                }
                done.try_iter().collect()
            }
        };
        for d in &all {
            if let Some(code) = d.code {
                self.code.insert(d.id, (code.entry as usize, d.bytes));
            }
        }
        let unwanted: Vec<u64> =
            all.iter().map(|d| d.id).filter(|id| self.unwanted.remove(id)).collect();
        for id in unwanted {
            self.release(id);
            all.retain(|d| d.id != id);
        }
        all
    }

    fn release(&mut self, id: u64) {
        match self.code.remove(&id) {
            Some((place, len)) => {
                self.shared.arena.lock().expect("no panic while held").free(place, len);
            }
            None => {
                self.unwanted.insert(id);
            }
        }
    }

    fn is_quick_good(&self) -> bool {
        self.one_pass
    }

    fn pending(&self) -> usize {
        self.shared.pending.load(Relaxed)
    }

    fn release_all(&mut self) {
        let mut arena = self.shared.arena.lock().expect("no panic while held");
        for (_, (place, len)) in self.code.drain() {
            arena.free(place, len);
        }
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        if let Worker::Thread { jobs, thread, .. } = &mut self.worker {
            self.shared.stop.store(true, Relaxed);
            jobs.take();
            if let Some(thread) = thread.take() {
                // A panic there has been reported.
                let _ = thread.join();
            }
        }
    }
}
