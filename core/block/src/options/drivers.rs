//! The drivers and their options.

use super::types::*;
use crate::qapi::{self, Registry, Schema};
use crate::{BlockError, Result};
use serde_json::Value;

macro_rules! drivers {
    ($($variant:ident $name:literal $options:ty),* $(,)?) => {
        /// What is particular to a driver.
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) enum DriverOptions {
            $($variant(Box<$options>)),*
        }

        impl DriverOptions {
            pub(crate) const NAMES: &'static [&'static str] = &[$($name),*];

            pub(super) fn parse(driver: &str, options: Value) -> Result<Self> {
                match driver {
                    $($name => Ok(Self::$variant(Box::new(qapi::parse(options)?))),)*
                    _ => Err(BlockError::Invalid(format!(
                        "Parameter 'driver' does not accept value '{driver}'"
                    ))),
                }
            }

            pub(crate) fn name(&self) -> &'static str {
                match self { $(Self::$variant(_) => $name),* }
            }

            pub(super) fn to_value(&self) -> Value {
                match self { $(Self::$variant(options) => qapi::to_value(&**options)),* }
            }

            pub(super) fn variants(registry: &mut Registry) -> Vec<(&'static str, String)> {
                vec![$(($name, <$options>::define(registry))),*]
            }
        }

        impl Schema for DriverOptions {
            fn define(registry: &mut Registry) -> String {
                registry.enumeration("BlockdevDriver", Self::NAMES)
            }
        }
    };
}

impl DriverOptions {
    /// True for what stores or fetches bytes itself.
    pub(crate) fn is_protocol(&self) -> bool {
        matches!(
            self,
            Self::File(_) | Self::HostDevice(_) | Self::Nbd(_) | Self::NullCo(_) | Self::NullAio(_)
        )
    }
}

drivers! {
    Blkdebug "blkdebug" BlkdebugOptions,
    Blkverify "blkverify" BlkverifyOptions,
    Bochs "bochs" GenericFormat,
    Cloop "cloop" GenericFormat,
    Compress "compress" GenericFormat,
    CopyBeforeWrite "copy-before-write" CbwOptions,
    CopyOnRead "copy-on-read" CopyOnReadOptions,
    Dmg "dmg" GenericFormat,
    File "file" FileOptions,
    HostDevice "host_device" FileOptions,
    Luks "luks" LuksFormat,
    Nbd "nbd" NbdOptions,
    NullAio "null-aio" NullOptions,
    NullCo "null-co" NullOptions,
    Parallels "parallels" GenericFormat,
    Preallocate "preallocate" PreallocateOptions,
    Qcow "qcow" CowFormat,
    Qcow2 "qcow2" Qcow2Format,
    Qed "qed" CowFormat,
    Quorum "quorum" QuorumOptions,
    Raw "raw" RawFormat,
    SnapshotAccess "snapshot-access" GenericFormat,
    Throttle "throttle" ThrottleOptions,
    Vdi "vdi" GenericFormat,
    Vhdx "vhdx" GenericFormat,
    Vmdk "vmdk" CowFormat,
    Vpc "vpc" GenericFormat,
}
