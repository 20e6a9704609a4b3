//! Processor models and CPUID (SDM vol. 2A CPUID, AMD APM vol. 3 appendix E).

use serde::{Deserialize, Serialize};

/// A processor model: what CPUID says and what the processor therefore does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// QEMU's name.
    pub name: String,
}
