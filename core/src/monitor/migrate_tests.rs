//! What comes over the way of `-incoming`.

use super::super::tests::Bench;
use super::*;
use orrery_block::Op;
use orrery_block::exec::Executor;
use orrery_block::host::{HostNet, Listener, pipe};

/// A host at whose only door somebody is waiting.
struct Host(Arc<dyn ByteStream>);

impl HostNet for Host {
    fn connect(&self, _: &Address) -> Op<Arc<dyn ByteStream>> {
        Op::err(BlockError::Cancelled)
    }

    fn listen(&self, _: &Address) -> Op<Arc<dyn Listener>> {
        Op::ok(Arc::new(Self(self.0.clone())))
    }
}

impl Listener for Host {
    fn accept(&self) -> Op<Arc<dyn ByteStream>> {
        Op::ok(self.0.clone())
    }

    fn close(&self) {}
}

/// The page that is sent.
const PAGE: u32 = 5;

/// What becomes of a machine to which these frames come: a byte of the page, and why it failed.
fn taken(frames: impl FnOnce(&Machine) -> Vec<(Kind, Vec<u8>)>) -> (u8, String) {
    let mut b = Bench::new("-S -m 1");
    let (ours, theirs) = pipe();
    b.machine.blocks.context().set_net(Arc::new(Host(ours)));
    b.control.settings().incoming = Some("defer".into());
    b.ok("migrate-incoming", json!({"uri": "unix:way"}));
    for (kind, body) in frames(&b.machine) {
        // Who refuses what came first hears nothing of what comes then.
        let _ = Executor::new().run_in_place(send(&theirs, kind, body));
    }
    for _ in 0..8 {
        b.control.step(&mut b.machine);
    }
    theirs.shutdown();
    for _ in 0..8 {
        b.control.step(&mut b.machine);
    }
    assert!(b.control.has_failed());
    let mut byte = [0];
    b.machine.board.ram().read_bytes(PAGE as usize * PAGE_SIZE, &mut byte);
    let told = b.ok("query-migrate", json!({}));
    (byte[0], told["error-desc"].as_str().unwrap_or_default().into())
}

fn hello(machine: &Machine) -> (Kind, Vec<u8>) {
    (Kind::Hello, postcard::to_allocvec(&Hello::of(machine)).unwrap())
}

fn pages() -> (Kind, Vec<u8>) {
    let bytes = lz4_flex::compress_prepend_size(&[0x5a; PAGE_SIZE]);
    let pages = Pages { zero: Vec::new(), full: vec![PAGE], bytes };
    (Kind::Pages, postcard::to_allocvec(&pages).unwrap())
}

#[test]
fn nothing_is_taken_from_a_machine_that_has_not_said_what_it_is() {
    let (byte, _) = taken(|machine| vec![hello(machine), pages()]);
    assert_eq!(byte, 0x5a, "after the hello pages are taken");
    let wrong = "does not begin with what machine it is";
    let (byte, why) = taken(|machine| vec![pages(), hello(machine), pages()]);
    assert_eq!((byte, why.contains(wrong)), (0, true), "{why}");
    let (_, why) = taken(|machine| vec![(Kind::State, machine.save_devices())]);
    assert!(why.contains(wrong), "{why}");
    let (byte, why) = taken(|machine| vec![hello(machine), hello(machine), pages()]);
    assert_eq!((byte, why.contains("damaged")), (0, true), "{why}");
    let other = |machine: &Machine| Hello { machine: "isapc".into(), ..Hello::of(machine) };
    let (byte, why) = taken(|machine| {
        vec![(Kind::Hello, postcard::to_allocvec(&other(machine)).unwrap()), pages()]
    });
    assert_eq!((byte, why.contains("does not fit")), (0, true), "{why}");
}
