//! Images with one field gone wrong: refused or read, never a panic, a hang or a flood.
