//! Network cards, and what they are plugged into.
//!
//! A card has one end of a cable ([`orrery_system::Board::cable`]); the other end is another device of the
//! board ([`user`]) or belongs to a front end. Frames travel without their check sequence.

pub mod e1000;
mod eeprom;
pub mod frame;
pub mod ne2000;
pub mod rtl8139;
pub mod user;

/// The address of the first network card; the others count on from it.
pub const FIRST_MAC: frame::Mac = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
