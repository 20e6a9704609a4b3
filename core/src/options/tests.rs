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
