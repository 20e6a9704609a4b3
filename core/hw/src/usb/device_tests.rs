use super::*;
use crate::usb::hid::{self, Hid, Keyboard};
use crate::usb::hub::{self, Hub};
use orrery_system::{Clock, Timer};

fn keyboard() -> Peripheral<Hid<Keyboard>> {
    let wires = hid::Wires { clock: Clock::default(), timer: Timer::default() };
    Peripheral::new(Hid::new(hid::Config::default(), wires))
}

fn request<F: Function>(d: &mut Peripheral<F>, setup: [u8; 8]) -> In {
    assert_eq!(d.setup(setup), Out::Ack);
    d.input(0, 64)
}

#[test]
fn an_address_counts_once_its_request_is_over() {
    let mut d = keyboard();
    d.setup([0, 5, 9, 0, 0, 0, 0, 0]);
    assert_eq!(d.address(), 0);
    assert_eq!(d.input(0, 64), In::Data(vec![]));
    assert_eq!(d.address(), 9);
    Attached::reset(&mut d, Speed::Full);
    assert_eq!((d.address(), d.speed()), (0, Speed::Full));
}

#[test]
fn an_endpoint_is_there_once_configured_and_halts_until_it_is_cleared() {
    let mut d = keyboard();
    assert_eq!(d.input(1, 8), In::Stall, "not configured");
    assert_eq!(request(&mut d, [0, 9, 1, 0, 0, 0, 0, 0]), In::Data(vec![]));
    assert_eq!(d.input(1, 8), In::Nak);
    request(&mut d, [2, 3, 0, 0, 0x81, 0, 0, 0]);
    assert_eq!(d.input(1, 8), In::Stall);
    assert_eq!(request(&mut d, [0x82, 0, 0, 0, 0x81, 0, 2, 0]), In::Data(vec![1, 0]));
    request(&mut d, [2, 1, 0, 0, 0x81, 0, 0, 0]);
    assert_eq!(d.input(1, 8), In::Nak);
    assert_eq!(request(&mut d, [0, 9, 2, 0, 0, 0, 0, 0]), In::Stall, "no such configuration");
}

#[test]
fn data_of_a_request_come_in_packets_and_no_more_than_it_asked_for() {
    let mut d = keyboard();
    d.setup([0x80, 6, 0, 1, 0, 0, 12, 0]);
    assert_eq!(d.input(0, 8), In::Data(vec![18, 1, 0, 2, 0, 0, 0, 64]));
    assert_eq!(d.input(0, 8), In::Data(vec![0x27, 6, 1, 0]));
    assert_eq!(d.input(0, 8), In::Data(vec![]));
    assert_eq!(d.output(0, &[]), Out::Ack);
    assert_eq!(request(&mut d, [0x80, 6, 9, 3, 0, 0, 64, 0]), In::Stall, "no such string");
}

mod keyboard_seat {
    use super::*;

    fn fresh() -> Seat<Hid<Keyboard>> {
        Seat::new(Arc::new(Mutex::new(keyboard())), IrqLine::open())
    }

    orrery_system::conformance!(fresh(), []);
}

mod tablet_seat {
    use super::*;

    fn fresh() -> Seat<Hid<hid::Tablet>> {
        let wires = hid::Wires { clock: Clock::default(), timer: Timer::default() };
        let device = Peripheral::new(Hid::new(hid::Config::default(), wires));
        Seat::new(Arc::new(Mutex::new(device)), IrqLine::open())
    }

    orrery_system::conformance!(fresh(), []);
}

mod hub_seat {
    use super::*;

    fn fresh() -> Seat<Hub> {
        let device = Peripheral::new(Hub::new(hub::Config::default()));
        Seat::new(Arc::new(Mutex::new(device)), IrqLine::open())
    }

    orrery_system::conformance!(fresh(), []);
}
