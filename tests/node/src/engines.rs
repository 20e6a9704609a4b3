//! The engines of this host.

use std::cell::RefCell;

use orrery_cpu::cluster::Cluster;
use orrery_cpu::jit::Policy;
use orrery_cpu::x86::X86Isa;

use crate::jit::Jit;

thread_local! {
    /// The compilers lent.
    static JIT: RefCell<Vec<Jit>> = const { RefCell::new(Vec::new()) };
}

/// Lets go of code that is not used any more.
pub(crate) fn sweep() {
    JIT.with_borrow(|all| all.iter().for_each(Jit::flush));
}

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Engine {
    /// Nothing is compiled.
    Interpreter,
    /// Every block is compiled before it runs.
    Wasm,
}

impl Engine {
    /// Has the CPUs of `cluster` run in this engine.
    pub(crate) fn lend(self, cluster: &mut Cluster<X86Isa>) {
        if self == Self::Wasm {
            let jit = Jit::new(&Cluster::<X86Isa>::shims(), true);
            let (jit, compiler) = jit.expect("this engine knows what is emitted");
            JIT.with_borrow_mut(|all| all.push(jit));
            cluster.set_compiler(compiler, Policy { eager: true, ..Policy::default() });
        }
    }
}

/// How much of what ran so far ran in compiled code.
pub(crate) fn compiled(cluster: &Cluster<X86Isa>) -> String {
    match cluster.jit_stats() {
        None => "interpreted".into(),
        Some(s) => format!("{} regions, {} instructions in them", s.compiled, s.run),
    }
}
