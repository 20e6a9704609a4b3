use super::*;
use crate::scsi::{Kind, sbc};

const MIB: usize = 1 << 20;

struct Bench {
    bus: Bus,
    disk: BlockBackend,
}

fn units(disk: &BlockBackend) -> Vec<UnitConfig> {
    let identity = spc::Identity {
        vendor: "QEMU".into(),
        product: "QEMU CD-ROM".into(),
        revision: "2.5+".into(),
        serial: String::new(),
    };
    let config = sbc::Config { device_id: "hd0".into(), wwn: 0x5000, ..sbc::Config::default() };
    vec![
        UnitConfig { at: Address::new(0, 0), kind: Kind::Disk(config), backend: disk.clone() },
        UnitConfig {
            at: Address::new(1, 3),
            kind: Kind::Cdrom(identity),
            backend: BlockBackend::ram_read_only(vec![5; 40 * 2048]),
        },
    ]
}

impl Bench {
    fn over(disk: BlockBackend) -> Self {
        let bus = Bus::detached(units(&disk), Clock::default(), Latency::new(false));
        Self { bus, disk }
    }

    fn new() -> Self {
        let mut b = Self::over(BlockBackend::ram(vec![0; 4 * MIB]));
        for at in [Address::new(0, 0), Address::new(1, 3)] {
            assert_eq!(b.end(at, &[0], &[]).1, Sense::RESET, "power-on");
        }
        b
    }

    /// Makes a command whole: its data and how it ended.
    fn run(&mut self, at: Address, cdb: &[u8], mut out: &[u8]) -> (Vec<u8>, u8, Sense) {
        let (id, mut step) = self.bus.start(at, cdb);
        let mut data = Vec::new();
        loop {
            step = match step {
                None => {
                    assert!(self.bus.ready());
                    let (of, step) = self.bus.take(VmTime::NEVER).expect("ready");
                    assert_eq!(of, id);
                    Some(step)
                }
                Some(Step::In(d)) => {
                    data.extend(d);
                    self.bus.proceed(id)
                }
                Some(Step::Out(n)) => {
                    let (now, rest) = out.split_at(n.min(out.len()));
                    out = rest;
                    self.bus.supply(id, now.to_vec())
                }
                Some(Step::Done { status, sense }) => {
                    assert!(self.bus.is_idle());
                    return (data, status, sense);
                }
            }
        }
    }

    fn end(&mut self, at: Address, cdb: &[u8], out: &[u8]) -> (u8, Sense) {
        let (_, status, sense) = self.run(at, cdb, out);
        (status, sense)
    }

    fn disk(&mut self, cdb: &[u8], out: &[u8]) -> Vec<u8> {
        let (data, status, sense) = self.run(Address::new(0, 0), cdb, out);
        assert_eq!((status, sense), (status::GOOD, Sense::NONE));
        data
    }

    fn refused(&mut self, cdb: &[u8], out: &[u8]) -> Sense {
        let (status, sense) = self.end(Address::new(0, 0), cdb, out);
        assert_eq!(status, status::CHECK_CONDITION);
        sense
    }
}

#[test]
fn what_is_written_is_read_in_every_length_of_command() {
    let mut b = Bench::new();
    let data: Vec<u8> = (0..MIB).map(|i| (i / 512) as u8 ^ i as u8).collect();
    // A megabyte is four steps.
    b.disk(&[0x2a, 0, 0, 0, 0, 8, 0, 8, 0, 0], &data);
    assert_eq!(b.disk(&[0x28, 0, 0, 0, 0, 8, 0, 8, 0, 0], &[]), data);
    assert_eq!(b.disk(&[0x08, 0, 0, 9, 1, 0], &[]), data[512..1024]);
    assert_eq!(b.disk(&[0x08, 0, 0, 8, 0, 0], &[]), data[..256 * 512], "0 is 256");
    let sixteen = [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 2];
    assert_eq!(b.disk(&sixteen, &[]), data[1024..2048]);
    b.disk(&[0xaa, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], &[9; 512]);
    assert_eq!(b.disk(&[0xa8, 0, 0, 0, 0, 0, 0, 0, 0, 1], &[]), [9; 512]);
    assert_eq!(b.disk(&[0x25], &[]), [0, 0, 0x1f, 0xff, 0, 0, 2, 0]);
    assert!(b.disk(&[0x28, 0, 0, 0, 0x20, 0], &[]).is_empty(), "no blocks, at the end");
    assert_eq!(b.refused(&[0x28, 0, 0, 0, 0x20, 0, 0, 0, 1], &[]), Sense::LBA_OUT_OF_RANGE);
    assert_eq!(b.disk(&[3, 0, 0, 0, 18], &[])[2], 5, "REQUEST SENSE says it too");
}

#[test]
fn units_that_are_not_there_say_so_and_report_luns_lists_the_others() {
    let mut b = Bench::new();
    let none = Address::new(1, 0);
    assert_eq!(b.run(none, &[0x12, 0, 0, 0, 36], &[]).0[0], 0x7f);
    assert_eq!(b.end(none, &[0], &[]).1, Sense::NO_UNIT);
    assert_eq!(b.run(none, &[3, 0, 0, 0, 18], &[]).0[12], 0x25);
    let luns = b.run(none, &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 64], &[]).0;
    assert_eq!(luns.len(), 24);
    assert_eq!((luns[3], luns[9], luns[17]), (16, 0, 3));
    assert!(b.bus.has_target(1) && !b.bus.has_target(2));
}

#[test]
fn inquiry_names_the_unit_and_its_pages() {
    let mut b = Bench::new();
    let d = b.disk(&[0x12, 0, 0, 0, 96], &[]);
    assert_eq!((d[0], d[2], &d[8..29]), (0, 5, b"QEMU    QEMU HARDDISK".as_slice()));
    assert_eq!(b.disk(&[0x12, 1, 0, 0, 96], &[])[4..], [0, 0x83, 0xb0, 0xb1, 0xb2]);
    let id = b.disk(&[0x12, 1, 0x83, 0, 96], &[]);
    assert_eq!(id[4..11], [2, 0, 0, 3, b'h', b'd', b'0']);
    assert_eq!(id[11..], [1, 3, 0, 8, 0, 0, 0, 0, 0, 0, 0x50, 0]);
    assert_eq!(b.refused(&[0x12, 1, 0x80, 0, 96], &[]), Sense::INVALID_FIELD, "no serial number");
    let cd = b.run(Address::new(1, 3), &[0x12, 0, 0, 0, 36], &[]).0;
    assert_eq!((cd[0], cd[1], cd[2]), (5, 0x80, 5));
}

#[test]
fn the_cdrom_on_the_bus_reads_its_blocks() {
    let mut b = Bench::new();
    let at = Address::new(1, 3);
    assert_eq!(b.run(at, &[0x28, 0, 0, 0, 0, 3, 0, 0, 2], &[]).0, [5; 4096]);
    let raw = b.run(at, &[0xbe, 0, 0, 0, 0, 3, 0, 0, 2, 0xf8], &[]).0;
    assert_eq!(raw.len(), 2 * 2352);
    // What cannot be written says so, rather than that it does not know the command.
    assert_eq!(b.end(at, &[0x2a, 0, 0, 0, 0, 0, 0, 0, 1], &[0; 512]).1, Sense::WRITE_PROTECTED);
}

#[test]
fn blocks_are_given_back_filled_and_compared() {
    let mut b = Bench::new();
    b.disk(&[0x41, 0, 0, 0, 0, 0, 0, 4, 0], &[7; 512]);
    assert_eq!(b.disk(&[0x28, 0, 0, 0, 3, 0xff, 0, 0, 2], &[])[510..514], [7, 7, 0, 0]);
    let compare = [0x2f, 2, 0, 0, 0, 1, 0, 0, 1];
    b.disk(&compare, &[7; 512]);
    assert_eq!(b.refused(&compare, &[6; 512]), Sense::MISCOMPARE);
    let mut list = vec![0, 22, 0, 16, 0, 0, 0, 0];
    list.extend([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0]);
    b.disk(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24], &list);
    list[19] = 0xff;
    assert_eq!(
        b.refused(&[0x42, 0, 0, 0, 0, 0, 0, 0, 12], &list[..12]),
        Sense::PARAMETER_LENGTH,
        "cut short"
    );
    b.disk(&[0x93, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], &[0; 512]);
    assert_eq!(b.disk(&[0x08, 0, 0, 0, 1], &[]), [0; 512]);
    assert_eq!(b.refused(&[0x93, 8], &[0; 512]), Sense::INVALID_FIELD, "no blocks");
}

#[test]
fn the_write_cache_is_a_mode_page_and_reservations_are_taken() {
    let mut b = Bench::new();
    let caching = [0x1a, 8, 8, 0, 64];
    assert_eq!(b.disk(&caching, &[])[4..7], [8, 18, 4]);
    let mut select = vec![0, 0, 0, 0, 8, 18];
    select.resize(24, 0);
    b.disk(&[0x15, 0x10, 0, 0, 24], &select);
    assert!(!b.disk.write_cache());
    assert_eq!(b.disk(&caching, &[])[6], 0);
    assert_eq!(b.disk(&[0x1a, 8, 0x48, 0, 64], &[])[6], 4, "it can be changed");
    assert_eq!(b.refused(&[0x15, 0x10, 0, 0, 24], &[9; 24]), Sense::INVALID_PARAMETER);
    let with_descriptor = b.disk(&[0x5a, 0, 0x3f, 0, 0, 0, 0, 1, 0], &[]);
    assert_eq!(with_descriptor[7..16], [8, 0, 0, 0x20, 0, 0, 0, 2, 0]);
    b.disk(&[0x16], &[]);
    b.disk(&[0x35], &[]);
}

#[test]
fn a_write_protected_disk_refuses_and_failures_have_their_sense() {
    let mut b = Bench::over(BlockBackend::ram_read_only(vec![0; MIB]));
    b.end(Address::new(0, 0), &[0], &[]);
    assert_eq!(b.refused(&[0x2a, 0, 0, 0, 0, 0, 0, 0, 1], &[0; 512]), Sense::WRITE_PROTECTED);
    assert_eq!(b.disk(&[0x1a, 8, 8, 0, 64], &[])[2], 0x80);
}

#[test]
fn a_saved_bus_goes_on_with_its_commands() {
    let mut b = Bench::new();
    b.disk(&[0x0a, 0, 0, 0, 1], &[3; 512]);
    let (id, step) = b.bus.start(Address::new(0, 0), &[0x08, 0, 0, 0, 1]);
    assert_eq!(step, None);
    let saved = b.bus.save();
    let mut other = Bench::over(b.disk.clone());
    other.bus.restore(saved.clone()).unwrap();
    assert_eq!(other.bus.save(), saved);
    assert_eq!(other.bus.take(VmTime::NEVER), Some((id, Step::In(vec![3; 512]))));
    assert_eq!(other.bus.proceed(id), Some(Step::GOOD));
    let mut fewer = Bus::detached(Vec::new(), Clock::default(), Latency::new(false));
    assert!(fewer.restore(saved).is_err());
}

#[test]
fn a_reset_forgets_commands_and_is_reported_once() {
    let mut b = Bench::new();
    let (id, _) = b.bus.start(Address::new(0, 0), &[0x08, 0, 0, 0, 1]);
    assert_eq!(b.bus.reset_units(|at| at.target == 0), [id]);
    assert_eq!(b.bus.take(VmTime::NEVER), None);
    assert!(!b.bus.abort(id));
    assert_eq!(b.refused(&[0], &[]), Sense::RESET);
    b.disk(&[0], &[]);
    assert_eq!(b.end(Address::new(1, 3), &[0], &[]).0, status::GOOD, "another target");
}

#[test]
fn random_commands_end() {
    let mut rng = orrery_system::fuzz::Rng::new(8);
    let mut b = Bench::new();
    for _ in 0..20_000 {
        let mut cdb = [rng.next_u64().to_le_bytes(), rng.next_u64().to_le_bytes()].concat();
        if rng.below(2) == 0 {
            cdb[2..5].fill(0);
            cdb[6..].iter_mut().for_each(|b| *b &= 3);
        }
        let at = if rng.below(2) == 0 { Address::new(0, 0) } else { Address::new(1, 3) };
        let out = vec![rng.next_u64() as u8; rng.below(4096) as usize];
        b.run(at, &cdb, &out);
    }
}
