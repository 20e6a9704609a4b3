use super::*;

fn parse(line: &str) -> Result<Options, OptionError> {
    Options::parse(&line.split(' ').filter(|w| !w.is_empty()).collect::<Vec<_>>())
}

#[test]
fn the_usual_command_line_is_understood() {
    let o = parse(
        "-M q35,accel=tcg -m 512 -smp 2 -cpu max -drive file=d.qcow2,if=virtio -cdrom x.iso \
         -serial stdio -display none -no-reboot -boot d",
    )
    .unwrap();
    assert_eq!((o.machine.as_str(), o.memory, o.cpus), ("q35", Some(512 << 20), Some(2)));
    assert_eq!(o.drives.len(), 2);
    assert_eq!(o.drives[0].interface, Interface::Virtio);
    assert!(o.drives[1].cdrom && o.drives[1].read_only);
    assert_eq!(o.serials, [CharTarget::Stdio { mux: false }]);
    assert_eq!(o.boot_order.as_deref(), Some("d"));
}

#[test]
fn an_unknown_option_names_the_nearest_one() {
    let err = parse("-kernal x").unwrap_err().to_string();
    assert_eq!(err, "-kernal: no such option; did you mean '-kernel'?");
}

#[test]
fn an_unknown_sub_option_names_the_nearest_one() {
    let err = parse("-drive fil=x").unwrap_err().to_string();
    assert_eq!(err, "-drive: it has no 'fil'; did you mean 'file'?");
}

#[test]
fn a_missing_value_says_how_the_option_is_used() {
    assert!(parse("-m").unwrap_err().to_string().contains("-m [size=]SIZE"));
}

#[test]
fn append_without_kernel_is_refused() {
    assert!(parse("-append x").is_err());
}

#[test]
fn a_bare_argument_is_a_disk() {
    let o = parse("disk.img").unwrap();
    assert_eq!(o.drives[0].file.as_deref(), Some("disk.img"));
}

#[test]
fn what_a_drive_does_on_errors_is_told_by_name() {
    let o = parse("-drive file=a,werror=stop,rerror=report -drive file=b").unwrap();
    let policies = |d: &DriveOption| (d.on_read_error, d.on_write_error);
    assert_eq!(policies(&o.drives[0]), (OnError::Report, OnError::Stop));
    assert_eq!(policies(&o.drives[1]), (OnError::Auto, OnError::Auto));
    assert!(parse("-drive file=a,werror=enospc").is_ok());
    for wrong in ["werror=panic", "rerror=enospc", "if=floppy,werror=stop"] {
        let err = parse(&format!("-drive file=a,{wrong}")).unwrap_err().to_string();
        assert!(err.contains("error"), "{err}");
    }
}

#[test]
fn dates_are_counted_from_1970() {
    let o = parse("-rtc base=2006-06-17T16:01:21").unwrap();
    assert_eq!(o.rtc, RtcBase::At(1_150_560_081));
    assert!(parse("-rtc base=2006-13-17").is_err());
}

#[test]
fn help_lists_every_option() {
    let text = help();
    assert!(table::TABLE.iter().all(|r| text.contains(&format!("-{}", r.name))));
}

#[test]
fn what_firmware_starts_from_and_what_follows_a_failure_are_told() {
    let o = parse(
        "-boot once=a,order=c,splash-time=12,reboot-timeout=-1 -no-fd-bootchk \
         -uuid 4600cb32-38ec-4b2f-8acb-81c6ea54f2d8 -action panic=none,watchdog=pause \
         -global e1000.mac=52:54:00:00:00:01",
    )
    .unwrap();
    assert_eq!((o.boot_once.as_deref(), o.boot_order.as_deref()), (Some("a"), Some("c")));
    assert_eq!((o.splash_time, o.reboot_timeout, o.no_floppy_check), (Some(12), Some(-1), true));
    assert_eq!(o.uuid.unwrap()[..4], [0x46, 0x00, 0xcb, 0x32]);
    assert_eq!((o.on_panic, o.on_watchdog), (OnPanic::None, OnWatchdog::Pause));
    assert_eq!(o.globals, [("e1000".into(), "mac".into(), "52:54:00:00:00:01".into())]);
    assert!(parse("-uuid 12").unwrap_err().to_string().contains("a UUID such as"));
    let error = parse("-action panic=run").unwrap_err().to_string();
    assert!(error.ends_with("it takes shutdown, pause, exit-failure, none"), "{error}");
}

#[test]
fn an_engine_that_is_not_here_is_passed_over_if_another_is_named() {
    assert!(parse("-accel kvm -accel tcg").is_ok());
    assert!(parse("-M pc,accel=kvm:tcg").is_ok());
    let o = parse("-accel tcg -accel qtest").unwrap();
    assert!(!o.accel.qtest, "the first one holds");
    let error = parse("-accel kvm").unwrap_err().to_string();
    assert_eq!(error, "-accel: 'kvm' is not in this program: it has 'jit', 'tcg' and 'interp'");
}
