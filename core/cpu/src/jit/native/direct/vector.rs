//! Vector operations by the host's SSE2 and SSE4.1, where they have a name; by the shim elsewhere.

use super::asm::{RAX, RCX, RDX, Reg};
use super::{At, Emit, vector_home};
use crate::ir::{VecKind, VecVar, Width};

/// XMM0.
const X0: Reg = Reg(0);

impl Emit<'_> {
    pub(super) fn vec_op(&mut self, kind: u16, d: VecVar, a: VecVar, b: VecVar, imm: u8) {
        let region = self.region;
        if let Some(&known) = region.kinds.get(&kind)
            && self.known(known, d, a, b, imm)
        {
            return;
        }
        self.a.set(RCX, u64::from(kind) | u64::from(imm) << 16);
        self.a.set(RDX, u64::from(u32::from_le_bytes([d.0, a.0, b.0, 0])));
        self.a.call(self.stubs.vec);
    }

    /// Does the operation if it is one of those known here. Opcodes: Intel SDM volume 2, behind 66 0F.
    fn known(&mut self, kind: VecKind, d: VecVar, a: VecVar, b: VecVar, imm: u8) -> bool {
        let (to, a, b) = (vector_home(d.0), vector_home(a.0), vector_home(b.0));
        let by_width = |w: Width, codes: [u8; 4]| codes[w as usize];
        let two = match kind {
            VecKind::Move => {
                self.a.vload(X0, b);
                self.a.vstore(to, X0);
                return true;
            }
            VecKind::MoveLow(w) => {
                self.a.load(w, RAX, b);
                if a != to {
                    self.a.vload(X0, a);
                    self.a.vstore(to, X0);
                }
                self.a.store(w, to, RAX);
                return true;
            }
            VecKind::Low(w) => {
                self.a.load(w, RAX, b);
                self.a.store(Width::W64, to, RAX);
                self.a.store_imm(Width::W64, At { disp: to.disp + 8, ..to }, 0);
                return true;
            }
            VecKind::And => 0xdb,
            VecKind::Or => 0xeb,
            VecKind::Xor => 0xef,
            VecKind::Add(w) => by_width(w, [0xfc, 0xfd, 0xfe, 0xd4]),
            VecKind::Sub(w) => by_width(w, [0xf8, 0xf9, 0xfa, 0xfb]),
            VecKind::Equal(w @ (Width::W8 | Width::W16 | Width::W32)) => {
                by_width(w, [0x74, 0x75, 0x76, 0])
            }
            VecKind::GreaterS(w @ (Width::W8 | Width::W16 | Width::W32)) => {
                by_width(w, [0x64, 0x65, 0x66, 0])
            }
            VecKind::UnpackLow(w) => by_width(w, [0x60, 0x61, 0x62, 0x6c]),
            VecKind::UnpackHigh(w) => by_width(w, [0x68, 0x69, 0x6a, 0x6d]),
            VecKind::MinU(Width::W8) => 0xda,
            VecKind::MaxU(Width::W8) => 0xde,
            VecKind::MinS(Width::W16) => 0xea,
            VecKind::MaxS(Width::W16) => 0xee,
            VecKind::ShlImm(w @ (Width::W16 | Width::W32 | Width::W64))
            | VecKind::ShrImm(w @ (Width::W16 | Width::W32 | Width::W64))
                if u32::from(imm) < w.bits() =>
            {
                self.a.vload(X0, a);
                let extension = if matches!(kind, VecKind::ShlImm(_)) { 6 } else { 2 };
                self.a.vshift(0x70 + w as u8, extension, X0, imm);
                self.a.vstore(to, X0);
                return true;
            }
            VecKind::Shuffle => {
                self.a.vop_imm(0x70, X0, b, imm);
                self.a.vstore(to, X0);
                return true;
            }
            VecKind::ShuffleTwo => {
                self.a.vload(X0, a);
                self.a.shufps(X0, b, imm);
                self.a.vstore(to, X0);
                return true;
            }
            VecKind::AndNot => {
                // The host turns its first operand round.
                self.a.vload(X0, a);
                self.a.vop(0xdf, X0, b);
                self.a.vstore(to, X0);
                return true;
            }
            _ => return false,
        };
        self.a.vload(X0, a);
        self.a.vop(two, X0, b);
        self.a.vstore(to, X0);
        true
    }
}
