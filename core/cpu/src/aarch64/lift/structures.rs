//! Loads and stores of structures: LD1 to LD4, ST1 to ST4, LD1R to LD4R (DDI 0487, C4.1.4).

use super::*;

/// Lanes of a vector, written one after the other.
const LANES: [Width; 4] = [Width::W8, Width::W16, Width::W32, Width::W64];

impl Lifter<'_> {
    pub(super) fn structures(&mut self, insn: Insn) -> Flow {
        if self.fp_trapped() {
            return Some(());
        }
        let bytes = match insn {
            Insn::LdStMulti | Insn::LdStMultiPost => self.multiple()?,
            _ => self.single_structure()?,
        };
        if matches!(insn, Insn::LdStMultiPost | Insn::LdStSinglePost) {
            let base = Var(self.w.rn());
            match self.w.rm() {
                31 => self.b.add(Width::W64, base, base, bytes),
                rm => self.b.add(Width::W64, base, base, Var(rm)),
            }
        }
        Some(())
    }

    fn at(&self, disp: u64) -> Addr {
        Addr { disp: disp as i64, ..Addr::flat(Var(self.w.rn())) }
    }

    /// Several whole registers; says how many bytes.
    fn multiple(&mut self) -> Option<u64> {
        let w = self.w;
        let (q, load, size) = (w.bit(30), w.bit(22), w.bits(10, 2));
        // Registers, and whether structures are interleaved.
        let (count, interleaved) = match w.bits(12, 4) {
            0 => (4, true),
            2 => (4, false),
            4 => (3, true),
            6 => (3, false),
            7 => (1, false),
            8 => (2, true),
            10 => (2, false),
            _ => return None,
        };
        if interleaved && size == 3 && !q {
            return None;
        }
        let each = if q { 16_u8 } else { 8 };
        let bytes = u64::from(each) * count;
        let register = |i: u64| VecVar((w.rd() + i as u8) & 31);
        let mem = self.mem();
        let temps: Vec<VecVar> = (0..count).map(|_| self.b.vtmp()).collect();
        let whole = |i: usize| u64::from(each) * i as u64;
        if load {
            for (i, &t) in temps.iter().enumerate() {
                let addr = self.at(whole(i));
                self.b.vload(each, t, addr, mem);
            }
            for (i, &t) in temps.iter().enumerate() {
                let d = register(i as u64);
                if !interleaved {
                    self.b.vmov(d, t);
                }
            }
        }
        if interleaved {
            // Element `e` of register `r` is number `e * count + r` in memory.
            let lanes = u64::from(each) >> size;
            let lane_width = LANES[size as usize];
            let zero = self.b.vtmp();
            for i in 0..count * lanes {
                let (memory, place) = (temps[(i / lanes) as usize], (i % lanes) as u8);
                let (r, e) = (register(i % count), (i / count) as u8);
                let t = self.tmp_again();
                if load {
                    self.b.vget(lane_width, t, memory, place);
                    if e == 0 {
                        self.b.push(crate::ir::Op::VConst { d: zero, value: 0 });
                        self.b.vmov(r, zero);
                    }
                    self.b.vput(lane_width, r, t, e);
                } else {
                    self.b.vget(lane_width, t, r, e);
                    self.b.vput(lane_width, memory, t, place);
                }
            }
        }
        if !load {
            for (i, &temp) in temps.iter().enumerate() {
                let from = if interleaved { temp } else { register(i as u64) };
                let addr = self.at(whole(i));
                self.b.vstore(each, from, addr, mem);
            }
        }
        Some(bytes)
    }

    /// The temporary that lanes pass through: one for all.
    const fn tmp_again(&self) -> Var {
        Var(crate::frame::LAST_TEMP - 1)
    }

    /// One element of each register, or one for all lanes; says how many bytes.
    fn single_structure(&mut self) -> Option<u64> {
        let w = self.w;
        let (q, load, opcode, s, size) =
            (w.bits(30, 1), w.bit(22), w.bits(13, 3), w.bits(12, 1), w.bits(10, 2));
        let count = u64::from((opcode & 1) << 1 | w.bits(21, 1)) + 1;
        let (scale, lane) = match opcode >> 1 {
            0 => (0, q << 3 | s << 2 | size),
            1 if size & 1 == 0 => (1, q << 2 | s << 1 | size >> 1),
            2 if size == 0 => (2, q << 1 | s),
            2 if size == 1 && s == 0 => (3, q),
            3 if load && s == 0 => (size, 0),
            _ => return None,
        };
        let width = LANES[scale as usize];
        let each = u64::from(width.bytes());
        let mem = self.mem();
        let register = |i: u64| VecVar((w.rd() + i as u8) & 31);
        if !load {
            for i in 0..count {
                let t = self.lane(width, register(i), lane as u8);
                let addr = self.at(i * each);
                self.b.store(width, t, addr, mem);
            }
            return Some(count * each);
        }
        let temps: Vec<Var> = (0..count).map(|_| self.tmp()).collect();
        for (i, &t) in temps.iter().enumerate() {
            let addr = self.at(i as u64 * each);
            self.b.load(width, t, addr, mem);
        }
        for (i, &t) in temps.iter().enumerate() {
            let d = register(i as u64);
            if opcode >> 1 == 3 {
                self.duplicate(width, q != 0, d, t.into());
            } else {
                self.b.vput(width, d, t, lane as u8);
            }
        }
        Some(count * each)
    }

    /// All lanes of `d` = `x`.
    pub(super) fn duplicate(&mut self, width: Width, q: bool, d: VecVar, x: Val) {
        let ones = u64::MAX / width.mask();
        let t = self.tmp();
        self.b.mov(width, t, x);
        self.b.bin(BinOp::Mul, Width::W64, t, t, ones);
        let v = self.b.vtmp();
        self.b.push(crate::ir::Op::VConst { d: v, value: 0 });
        self.b.vput(Width::W64, v, t, 0);
        if q {
            self.b.vput(Width::W64, v, t, 1);
        }
        self.b.vmov(d, v);
    }
}
