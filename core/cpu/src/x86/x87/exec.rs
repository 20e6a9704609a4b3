//! The instructions.

use super::{Effect, PendingException, X87, X87Op};

impl X87 {
    /// Executes an instruction that is not about the environment. `i` is the ST index (0 where
    /// there is none), `operand` the memory operand zero-extended, or EFLAGS for FCMOVcc.
    ///
    /// # Errors
    /// [`PendingException`] if the instruction waits and an unmasked exception is pending.
    pub fn op(&mut self, op: X87Op, i: u8, operand: u128) -> Result<Effect, PendingException> {
        let _ = (i, operand);
        if self.pending() && op.waits() {
            return Err(PendingException);
        }
        Ok(Effect::None)
    }
}
