//! Power-on, RESET, INIT and start-up (SDM vol. 3A section 9.1 and 8.4).

use super::cpuid::Model;
use super::sse::Mxcsr;
use super::state::{
    Activity, FoundFeatures, Msrs, Segment, Sys, TableReg, X86, cr0, flag, seg, var,
};
use super::x87::X87;
use crate::frame::Frame;

/// System-level state after RESET.
fn power_on(bootstrap: bool, seed: u64) -> Sys {
    let data = Segment { selector: 0, attr: 0x93, limit: 0xffff, base: 0 };
    let mut seg = [data; 6];
    seg[seg::CS] = Segment { selector: 0xf000, attr: 0x9b, limit: 0xffff, base: 0xffff_0000 };
    let table = TableReg { base: 0, limit: 0xffff };
    Sys {
        seg,
        ldtr: Segment { selector: 0, attr: 0x82, limit: 0xffff, base: 0 },
        tr: Segment { selector: 0, attr: 0x8b, limit: 0xffff, base: 0 },
        gdtr: table,
        idtr: table,
        cpl: 0,
        cr0: cr0::CD | cr0::NW | cr0::ET,
        cr2: 0,
        cr3: 0,
        cr4: 0,
        efer: 0,
        pdpte: [0; 4],
        dr: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
        msr: Msrs {
            pat: 0x0007_0406_0007_0406,
            misc_enable: 1,
            microcode: 0x0100_0065,
            mcg_ctl: u64::MAX,
            ..Msrs::default()
        },
        activity: if bootstrap { Activity::Running } else { Activity::WaitForSipi },
        shadow: 0,
        shadow_ss: false,
        step_armed: false,
        debug_pending: 0,
        resume: 0,
        nmi_blocked: false,
        nmi_pending: false,
        smi_pending: false,
        init_pending: false,
        smm: false,
        smbase: 0x3_0000,
        a20: true,
        rng: seed,
        late_fault: None,
        error_waited: false,
        ignore_error: false,
        yielding: false,
    }
}

impl X86 {
    /// A processor just powered on. Processor 0 is the bootstrap processor; the others wait for a
    /// start-up message.
    pub fn new(model: Model, index: usize, seed: u64) -> Self {
        let mut cpu = Self {
            frame: Frame::new(),
            sys: power_on(index == 0, seed ^ (index as u64) << 32),
            x87: X87::new(),
            model,
            index,
            features: FoundFeatures::default(),
            reset_request: false,
            watch: Default::default(),
            events: None,
        };
        cpu.frame.ints[var::MXCSR] = Mxcsr::default().0.into();
        cpu.start();
        cpu
    }

    /// The registers that RESET and INIT set alike.
    fn start(&mut self) {
        let mxcsr = self.frame.ints[var::MXCSR];
        self.frame.ints = [0; crate::frame::INTS];
        self.frame.ints[var::MXCSR] = mxcsr;
        self.frame.ints[var::RDX] = self.model.leaf1_eax().into();
        self.frame.ints[var::RIP] = 0xfff0;
        self.frame.ints[var::EFLAGS_REST] = flag::FIXED;
        super::flags::set_arith(&mut self.frame, 0);
        self.publish_segments();
    }

    /// RESET: everything but the random sequence.
    pub fn reset(&mut self) {
        self.frame = Frame::new();
        self.frame.ints[var::MXCSR] = Mxcsr::default().0.into();
        self.sys = power_on(self.index == 0, self.sys.rng);
        self.x87 = X87::new();
        self.reset_request = false;
        self.start();
    }

    /// INIT: x87, SSE, MSRs and the cache bits of CR0 stay (SDM vol. 3A table 9-1). An application
    /// processor waits for a start-up message.
    pub fn init(&mut self) {
        let old = self.sys.clone();
        self.sys = power_on(self.index == 0, old.rng);
        self.sys.msr = old.msr;
        self.sys.smbase = old.smbase;
        self.sys.a20 = old.a20;
        self.sys.cr0 = (old.cr0 & (cr0::CD | cr0::NW)) | cr0::ET;
        self.start();
    }

    /// A start-up message: real mode at `vector << 12`.
    pub fn startup(&mut self, vector: u8) {
        if self.sys.activity != Activity::WaitForSipi {
            return;
        }
        self.sys.activity = Activity::Running;
        let cs = Segment {
            selector: u16::from(vector) << 8,
            attr: 0x9b,
            limit: 0xffff,
            base: u64::from(vector) << 12,
        };
        self.set_segment(seg::CS, cs);
        self.set_rip(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bootstrap_processor_starts_at_the_top_of_the_address_space() {
        let cpu = X86::new(Model::named("qemu64").unwrap(), 0, 0);
        assert_eq!(cpu.linear_rip(cpu.frame.ints[var::RIP]), 0xffff_fff0);
        assert_eq!(cpu.frame.ints[var::RDX], 0x60fb1);
        assert_eq!(cpu.sys.activity, Activity::Running);
        assert!(!cpu.protected());
    }

    #[test]
    fn an_application_processor_waits_for_its_start_up_message() {
        let mut cpu = X86::new(Model::named("qemu64").unwrap(), 1, 0);
        assert_eq!(cpu.sys.activity, Activity::WaitForSipi);
        cpu.startup(0x9a);
        assert_eq!(cpu.linear_rip(cpu.frame.ints[var::RIP]), 0x9a000);
        cpu.startup(0x10);
        assert_eq!(cpu.sys.seg[seg::CS].base, 0x9a000, "the second one is ignored");
    }

    #[test]
    fn init_keeps_model_specific_registers() {
        let mut cpu = X86::new(Model::named("qemu64").unwrap(), 0, 0);
        cpu.sys.msr.lstar = 0x1234;
        cpu.sys.cr0 |= cr0::PE;
        cpu.init();
        assert_eq!(cpu.sys.msr.lstar, 0x1234);
        assert!(!cpu.protected());
        cpu.reset();
        assert_eq!(cpu.sys.msr.lstar, 0);
    }
}
