//! The machine's monitors, cables and disks, for JavaScript.

use crate::session::{Session, chain};
use js_sys::{Promise, Uint8Array};
use orrery_core::monitor::{ClientId, Mode, complete};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;

/// A client of the machine's monitor.
#[wasm_bindgen]
pub struct Client(ClientId);

#[wasm_bindgen]
impl Session {
    /// Opens a monitor: QMP for programs, or HMP for people. It works whenever [`Session::run`] is called.
    pub fn open_monitor(&mut self, qmp: bool) -> Client {
        let mode = if qmp { Mode::Control { pretty: false } } else { Mode::Readline };
        Client(self.control.open(mode))
    }

    /// Sends bytes to a monitor.
    pub fn feed_monitor(&mut self, client: &Client, bytes: &[u8]) {
        self.control.feed(client.0, bytes);
    }

    /// What a monitor has said.
    pub fn take_monitor(&mut self, client: &Client) -> Vec<u8> {
        self.control.take(client.0)
    }

    /// Runs a line of HMP at once and gives what it prints.
    pub fn human(&mut self, line: &str) -> String {
        self.control.human(&mut self.machine, line)
    }

    /// The commands of HMP that begin so.
    pub fn complete(&self, line: &str) -> Vec<String> {
        complete(line)
    }

    /// A monitor has asked for the program to end.
    pub fn wants_to_quit(&self) -> bool {
        self.control.wants_to_quit()
    }

    /// Names of the cables of network cards whose other end is free.
    pub fn cables(&self) -> Vec<String> {
        self.machine.handles.nets.iter().map(|(id, _)| id.clone()).collect()
    }

    /// Ethernet frames that the guest has sent over a cable since the last call.
    pub fn take_frames(&self, cable: usize) -> Vec<Uint8Array> {
        let frames = self.machine.handles.nets.get(cable).map(|(_, port)| port.drain());
        frames.unwrap_or_default().iter().map(|f| Uint8Array::from(f.as_slice())).collect()
    }

    /// Sends an ethernet frame to the guest.
    pub fn push_frame(&self, cable: usize, frame: Vec<u8>) {
        if let Some((_, port)) = self.machine.handles.nets.get(cable) {
            port.push([frame]);
        }
    }

    /// Virtual milliseconds since power-on.
    pub fn elapsed(&self) -> f64 {
        self.machine.board.now().0 as f64 / 1e6
    }

    /// Characters of a text that have a key on a US keyboard, as `code` and `shift` in turn.
    pub fn keys_of(text: &str) -> Vec<u32> {
        text.chars().map(Session::char_code).filter(|code| *code != 0).collect()
    }

    /// Settles when all that was written to the disks is on them and safe. The machine should be paused,
    /// and [`Session::run`] be called meanwhile.
    pub fn flush_disks(&self) -> Promise {
        let blocks = self.machine.blocks.clone();
        future_to_promise(async move {
            for backend in blocks.backends() {
                if !backend.is_empty() && !backend.read_only() {
                    backend.drain().await;
                    backend.flush().await.map_err(|e| chain(&e))?;
                }
            }
            Ok(JsValue::UNDEFINED)
        })
    }
}
