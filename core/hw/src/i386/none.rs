//! `none`: no board at all. What asks the program about itself starts this one.

use crate::machine::{BuildError, Built, MachineConfig};
use orrery_system::Board;

/// Makes the board: memory, if there is to be any, and nothing in it.
pub(super) fn build(config: &MachineConfig) -> Result<Built, BuildError> {
    let board = Board::new(config.board_config(0));
    if config.memory > 0 {
        let len = usize::try_from(config.memory).unwrap_or(usize::MAX);
        let block = board.ram().alloc("ram", len)?;
        board.memory().add(0, &board.regions().ram("ram", block));
    }
    Ok(Built {
        board,
        serials: Vec::new(),
        parallels: Vec::new(),
        chars: Vec::new(),
        nets: Vec::new(),
        nics: Vec::new(),
        display: None,
        inputs: Vec::new(),
        power_button: None,
        suspend: None,
        after_reset: Vec::new(),
        named: Vec::new(),
        irqs: Vec::new(),
        pci: None,
        usb: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_memory_and_nothing_else() {
        let config = MachineConfig { memory: 2 << 20, ..MachineConfig::default() };
        let mut board = build(&config).unwrap().board;
        board.settle();
        board.write(0x1f_fffc, 4, 0x1234_5678);
        assert_eq!(board.read(0x1f_fffc, 4), 0x1234_5678);
        assert_eq!(board.devices().len(), 0);
    }
}
