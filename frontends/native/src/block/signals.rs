//! The wish to end, as signals bring it.

use super::Host;
use super::net::Stream;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::os::unix::net::UnixStream;

impl Host {
    /// Finishes when somebody sends SIGINT, SIGTERM or SIGHUP.
    pub(super) async fn ended(&self) {
        if self.wait_for_signal().await.is_err() {
            // Without the pipe the signals end the program as they always do.
            std::future::pending::<()>().await;
        }
    }

    async fn wait_for_signal(&self) -> std::io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::low_level::pipe::register(signal, theirs.try_clone()?)?;
        }
        Stream::unix(&self.reactor, ours)?.some().await?;
        Ok(())
    }
}
