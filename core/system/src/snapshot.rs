//! Saved device state.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A device state type that goes into a snapshot file.
///
/// The pair is the schema: bump `VERSION` when the layout changes, and keep the
/// old type beside the new one for as long as old snapshots must load.
pub trait State: Serialize + DeserializeOwned {
    /// The schema name: `"pl031"`.
    const KIND: &'static str;
    /// The schema version, from 1.
    const VERSION: u16;
}

/// One device's saved state, self-describing enough to refuse a wrong one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateBlob {
    kind: String,
    version: u16,
    bytes: Vec<u8>,
}

/// Why a saved state was refused.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The blob belongs to another device or another version of it.
    #[error("state is {found} v{found_version}, expected {expected} v{expected_version}")]
    Schema {
        /// Schema in the blob.
        found: String,
        /// Version in the blob.
        found_version: u16,
        /// Schema the device reads.
        expected: &'static str,
        /// Version the device reads.
        expected_version: u16,
    },
    /// The bytes do not decode.
    #[error("state does not decode")]
    Decode(#[source] postcard::Error),
    /// The bytes decode to something the device cannot be in.
    #[error("state is inconsistent: {0}")]
    Invalid(&'static str),
}

impl StateBlob {
    /// Encodes `state`.
    pub fn encode<S: State>(state: &S) -> Self {
        // Encoding into a growable buffer has no failure of its own, and every
        // `State` is plain data.
        let bytes = postcard::to_allocvec(state).expect("plain data encodes");
        Self { kind: S::KIND.into(), version: S::VERSION, bytes }
    }

    /// A state of no device, for the conformance suite.
    #[cfg(any(test, feature = "conformance"))]
    pub(crate) fn foreign() -> Self {
        Self { kind: "none".into(), version: 0, bytes: Vec::new() }
    }

    /// Decodes the blob as `S`.
    pub fn decode<S: State>(&self) -> Result<S, RestoreError> {
        if self.kind != S::KIND || self.version != S::VERSION {
            return Err(RestoreError::Schema {
                found: self.kind.clone(),
                found_version: self.version,
                expected: S::KIND,
                expected_version: S::VERSION,
            });
        }
        postcard::from_bytes(&self.bytes).map_err(RestoreError::Decode)
    }
}
