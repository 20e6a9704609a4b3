//! The engines that a test can be run in.
#![allow(dead_code, reason = "no test program uses all of it")]

use orrery_cpu::cluster::Cluster;
use orrery_cpu::isa::Isa;
use orrery_cpu::x86::X86Isa;

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Engine {
    /// Nothing is compiled.
    Interpreter,
    /// Every block is compiled in one pass before it runs.
    OnePass,
    /// Every block is compiled by Cranelift before it runs.
    Cranelift,
    /// The same quickly, and as for the oldest processor of the host's kind. Not among [`all`].
    Plain,
}

/// The engines of this build on this host.
pub(crate) fn all() -> Vec<Engine> {
    let mut all = vec![Engine::Interpreter];
    if cfg!(all(feature = "jit-native", target_os = "linux")) {
        if cfg!(target_arch = "x86_64") {
            all.push(Engine::OnePass);
        }
        all.push(Engine::Cranelift);
    }
    all
}

impl Engine {
    /// Its name on a command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Interpreter => "interpreter",
            Self::OnePass => "one-pass",
            Self::Cranelift => "cranelift",
            Self::Plain => "plain",
        }
    }

    /// Has the CPUs of `cluster` run in this engine.
    pub(crate) fn lend<I: Isa>(self, cluster: &mut Cluster<I>) {
        self.lend_within(cluster, 64);
    }

    /// The same, with regions of at most so many blocks.
    #[cfg(all(feature = "jit-native", target_os = "linux"))]
    pub(crate) fn lend_within<I: Isa>(self, cluster: &mut Cluster<I>, blocks: usize) {
        use orrery_cpu::jit::Policy;
        use orrery_cpu::region::Limits;
        if self == Self::Interpreter {
            return;
        }
        // What is compiled in one pass may end in a part of a region.
        let limits = Limits { blocks, insns: 300, ..Limits::default() };
        let policy = Policy { eager: true, best: None, limits, quick: limits, ..Policy::default() };
        cluster.set_compiler(Box::new(only::Only::new(self, Cluster::<I>::shims())), policy);
    }

    /// The same, with regions of at most so many blocks.
    #[cfg(not(all(feature = "jit-native", target_os = "linux")))]
    pub(crate) fn lend_within<I: Isa>(self, _: &mut Cluster<I>, _: usize) {
        assert_eq!(self, Self::Interpreter, "nothing else in this build");
    }
}

#[cfg(all(feature = "jit-native", target_os = "linux"))]
mod only {
    use super::Engine;
    use orrery_cpu::jit::abi::Shims;
    use orrery_cpu::jit::native::Native;
    use orrery_cpu::jit::{Compiler, Done, Job};

    /// A compiler with one kind of code, which complains when it cannot make it.
    pub(super) struct Only {
        native: Native,
        best: bool,
    }

    impl Only {
        pub(super) fn new(engine: Engine, shims: Shims) -> Self {
            let native = match engine {
                Engine::Plain => Native::plain(shims),
                _ => Native::new(shims, false),
            };
            Self { native: native.expect("a compiler"), best: engine == Engine::Cranelift }
        }
    }

    impl Compiler for Only {
        fn submit(&mut self, job: Job) {
            self.native.submit(Job { best: self.best, ..job });
            let failed = self.native.failed.lock().expect("no panic while held");
            assert!(failed.is_empty(), "{failed:?}");
        }
        fn poll(&mut self) -> Vec<Done> {
            self.native.poll()
        }
        fn release(&mut self, id: u64) {
            self.native.release(id);
        }
        fn pending(&self) -> usize {
            self.native.pending()
        }
        fn release_all(&mut self) {
            self.native.release_all();
        }
    }
}

/// The engines that `ORRERY_ENGINE` names, or all.
pub(crate) fn chosen() -> Vec<Engine> {
    #[expect(clippy::disallowed_methods, reason = "the environment says which engines to test")]
    let only = std::env::var("ORRERY_ENGINE").ok();
    let mut all = all();
    if let Some(only) = only {
        all.retain(|e| only.split(',').any(|o| o == e.name()));
        assert!(!all.is_empty(), "ORRERY_ENGINE={only}: no such engine in this build");
    }
    all
}

/// How much of what ran so far ran in compiled code.
pub(crate) fn compiled(cluster: &Cluster<X86Isa>) -> String {
    match cluster.jit_stats() {
        None => "interpreted".into(),
        Some(s) => format!("{} regions, {} instructions in them", s.compiled, s.run),
    }
}
