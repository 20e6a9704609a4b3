//! Ports that keep nothing: what a guest writes has an effect elsewhere, and nothing is saved.

use orrery_system::bus::Registers;
use orrery_system::device::Device;
use orrery_system::{RestoreError, StateBlob};
use serde::{Deserialize, Serialize};
use std::marker::PhantomData;

/// What is behind the ports.
pub trait Stateless: Registers + Send {
    /// The type name.
    const NAME: &'static str;
}

/// Such ports as a device of the board.
pub struct Ports<T>(pub T);

#[derive(Serialize, Deserialize)]
struct Nothing<T>(#[serde(skip)] PhantomData<T>);

impl<T: Stateless> orrery_system::State for Nothing<T> {
    const KIND: &'static str = T::NAME;
    const VERSION: u16 = 1;
}

impl<T: Stateless> Device for Ports<T> {
    fn name(&self) -> &'static str {
        T::NAME
    }

    fn reset(&mut self) {}

    fn save(&self) -> StateBlob {
        StateBlob::encode(&Nothing::<T>(PhantomData))
    }

    fn restore(&mut self, blob: &StateBlob) -> Result<(), RestoreError> {
        blob.decode::<Nothing<T>>().map(|_| ())
    }

    fn registers(&mut self) -> Option<&mut dyn Registers> {
        Some(&mut self.0)
    }
}
