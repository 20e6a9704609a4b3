//! Vector operations by the host's SSE2 and SSE4.1, where they have a name; by the shim elsewhere.

use super::Emit;
use super::asm::{RCX, RDX};
use crate::ir::{VecKind, VecVar, Width};

impl Emit<'_> {
    pub(super) fn vec_op(&mut self, kind: u16, d: VecVar, a: VecVar, b: VecVar, imm: u8) {
        let region = self.region;
        if let Some(&known) = region.kinds.get(&kind)
            && self.known(known, d, a, b, imm)
        {
            return;
        }
        self.end_run();
        self.settle_vectors();
        self.forget_vectors();
        self.fpu.ready = false;
        self.a.set(RCX, u64::from(kind) | u64::from(imm) << 16);
        self.a.set(RDX, u64::from(u32::from_le_bytes([d.0, a.0, b.0, 0])));
        self.a.call(self.stubs.vec);
    }

    /// Does the operation if it is one of those known here. Opcodes: Intel SDM volume 2, behind 66 0F.
    fn known(&mut self, kind: VecKind, d: VecVar, a: VecVar, b: VecVar, imm: u8) -> bool {
        let by_width = |w: Width, codes: [u8; 4]| codes[w as usize];
        let two = match kind {
            VecKind::Move => {
                let from = self.vector(b);
                let r = self.new_vector(d);
                if r != from {
                    self.a.vmove(r, from);
                }
                return true;
            }
            VecKind::MoveLow(w @ (Width::W32 | Width::W64)) => {
                let (r, from) = self.change(d, a, b);
                // MOVSS and MOVSD.
                self.a.float(if w == Width::W64 { 0xf2 } else { 0xf3 }, 0x10, r, from);
                return true;
            }
            VecKind::Low(w @ (Width::W32 | Width::W64)) => {
                let from = self.vector_place(b);
                let r = self.new_vector(d);
                self.a.vload_low(w, r, from);
                return true;
            }
            VecKind::Xor if a == b => {
                let r = self.new_vector(d);
                self.a.vop(0xef, r, r);
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
            VecKind::Mul(Width::W16) => 0xd5,
            VecKind::MulHighS => 0xe5,
            VecKind::MulHighU => 0xe4,
            VecKind::MulWideU => 0xf4,
            VecKind::MulAdd => 0xf5,
            VecKind::Average(w @ (Width::W8 | Width::W16)) => by_width(w, [0xe0, 0xe3, 0, 0]),
            VecKind::AddSatS(w @ (Width::W8 | Width::W16)) => by_width(w, [0xec, 0xed, 0, 0]),
            VecKind::AddSatU(w @ (Width::W8 | Width::W16)) => by_width(w, [0xdc, 0xdd, 0, 0]),
            VecKind::SubSatS(w @ (Width::W8 | Width::W16)) => by_width(w, [0xe8, 0xe9, 0, 0]),
            VecKind::SubSatU(w @ (Width::W8 | Width::W16)) => by_width(w, [0xd8, 0xd9, 0, 0]),
            VecKind::PackS(w @ (Width::W16 | Width::W32)) => by_width(w, [0, 0x63, 0x6b, 0]),
            VecKind::PackU(Width::W16) => 0x67,
            // The host turns its first operand round.
            VecKind::AndNot => 0xdf,
            VecKind::ShlImm(w @ (Width::W16 | Width::W32 | Width::W64))
            | VecKind::ShrImm(w @ (Width::W16 | Width::W32 | Width::W64))
                if u32::from(imm) < w.bits() =>
            {
                let (r, _) = self.change(d, a, a);
                let extension = if matches!(kind, VecKind::ShlImm(_)) { 6 } else { 2 };
                self.a.vshift(0x70 + w as u8, extension, r, imm);
                return true;
            }
            VecKind::SarImm(w @ (Width::W16 | Width::W32)) => {
                let (r, _) = self.change(d, a, a);
                self.a.vshift(0x70 + w as u8, 4, r, imm.min(w.bits() as u8 - 1));
                return true;
            }
            VecKind::ShlBytes | VecKind::ShrBytes => {
                let (r, _) = self.change(d, a, a);
                let extension = if kind == VecKind::ShlBytes { 7 } else { 3 };
                self.a.vshift(0x73, extension, r, imm.min(16));
                return true;
            }
            VecKind::Shuffle => {
                let from = self.vector(b);
                let r = self.new_vector(d);
                self.a.vop_imm(0x70, r, from, imm);
                return true;
            }
            VecKind::ShuffleTwo => {
                let (r, from) = self.change(d, a, b);
                self.a.shufps(r, from, imm);
                return true;
            }
            VecKind::ShuffleTwo64 => {
                let (r, from) = self.change(d, a, b);
                // SHUFPD.
                self.a.vop_imm(0xc6, r, from, imm);
                return true;
            }
            _ => return false,
        };
        let (r, from) = self.change(d, a, b);
        self.a.vop(two, r, from);
        true
    }
}
