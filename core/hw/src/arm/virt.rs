//! `virt`: a board for virtual machines. Its memory map and interrupts are in its device tree.

use super::slots::Slots;
use super::{boot, cores};
use crate::char::pl011;
use crate::fdt::Fdt;
use crate::intc::gic_v2;
use crate::machine::{BuildError, Built, MachineConfig};
use crate::rtc::pl031;
use crate::virtio::mmio;
use orrery_cpu::aarch64::{Model, sysreg};
use orrery_system::{Board, IrqInput, IrqLine};

const FLASH: u64 = 0;
const FLASH_SIZE: u64 = 0x0400_0000;
const GIC: [u64; 2] = [0x0800_0000, 0x0801_0000];
const UART: u64 = 0x0900_0000;
const RTC: u64 = 0x0901_0000;
const VIRTIO: u64 = 0x0a00_0000;
const VIRTIO_SLOTS: usize = 32;
const RAM: u64 = 0x4000_0000;

/// Shared interrupts, from number 32 on.
mod spi {
    pub(super) const UART: usize = 1;
    pub(super) const RTC: usize = 2;
    pub(super) const VIRTIO: usize = 16;
    pub(super) const COUNT: usize = 256;
}

/// Interrupts of a CPU's own, from number 16 on.
mod ppi {
    pub(super) const VIRTUAL: usize = 11;
    pub(super) const SECURE: usize = 13;
    pub(super) const PHYSICAL: usize = 14;
    pub(super) const HYPERVISOR: usize = 10;
}

/// Handles of nodes.
const GIC_HANDLE: u32 = 1;
const CLOCK_HANDLE: u32 = 2;

/// Wires the board.
pub(super) fn build(config: &MachineConfig) -> Result<Built, BuildError> {
    let refuse = |text: &str| Err(BuildError::Machine(text.into()));
    if config.memory > 255 << 30 {
        return refuse("virt takes at most 255 GiB of memory");
    }
    if config.firmware.len() as u64 > FLASH_SIZE {
        return refuse("the firmware does not fit into the flash");
    }
    let mut board = Board::new(config.board_config(FLASH_SIZE as usize));
    let len = usize::try_from(config.memory).unwrap_or(usize::MAX);
    let ram = board.ram().alloc("mach-virt.ram", len)?;
    board.memory().add(RAM, &board.regions().ram("mach-virt.ram", ram));
    let flash = board.ram().alloc("virt.flash0", FLASH_SIZE as usize)?;
    board.memory().add(FLASH, &board.regions().rom("virt.flash0", flash));

    let wire = |board: &Board, n: usize| (0..n).map(|_| board.wire()).collect::<Vec<IrqInput>>();
    let shared = wire(&board, spi::COUNT);
    let private: Vec<Vec<IrqInput>> = (0..config.cpus).map(|_| wire(&board, 16)).collect();
    let pin = |n: usize| shared[n].pin();
    let slots = (0..VIRTIO_SLOTS).map(|n| pin(spi::VIRTIO + n)).collect();
    let (uart, rtc) = (pin(spi::UART), pin(spi::RTC));
    let irqs = shared.clone();
    let timers: Vec<[IrqLine; 2]> =
        private.iter().map(|own| [own[ppi::PHYSICAL].pin(), own[ppi::VIRTUAL].pin()]).collect();
    let irq = (0..config.cpus).map(|n| board.pins(n).intr.pin()).collect();
    let current = board.current_cpu();
    let gic = gic_v2::Config { cpus: config.cpus, interrupts: 32 + spi::COUNT };
    gic_v2::build(&mut board, gic, GIC, gic_v2::Wires { shared, private, irq, current });
    cores::build(&mut board, timers);
    let mut serials = Vec::new();
    if config.serials.first() == Some(&true) {
        serials.push(Some(pl011::build(&mut board, UART, uart)));
    }
    pl031::build(&mut board, RTC, rtc, config.epoch_secs as u32);

    let mut slots = Slots::new(config, VIRTIO, slots);
    slots.fill(&mut board)?;
    let plan = match &config.kernel {
        Some(kernel) => Some(boot::plan(kernel, config.memory)?),
        None => None,
    };
    let tree = tree(config, plan.as_ref(), slots.used());
    let first = match &plan {
        _ if !config.firmware.is_empty() => config.firmware.clone(),
        Some(plan) => plan.first_code(RAM),
        None => Vec::new(),
    };
    board.ram().write_bytes(flash.offset, &first);
    // Firmware finds the tree where RAM begins.
    let images = match plan {
        Some(plan) if config.firmware.is_empty() => {
            let mut images = plan.images;
            images.push((plan.tree, tree));
            images
        }
        _ => vec![(0, tree)],
    };
    boot::build(&mut board, ram, images);
    Ok(Built {
        board,
        serials,
        parallels: Vec::new(),
        chars: Vec::new(),
        nets: slots.nets,
        nics: slots.nics,
        display: None,
        inputs: Vec::new(),
        power_button: None,
        suspend: None,
        after_reset: Vec::new(),
        named: Vec::new(),
        irqs,
        pci: None,
        usb: Vec::new(),
    })
}

/// The device tree.
fn tree(config: &MachineConfig, plan: Option<&boot::Plan>, slots: u64) -> Vec<u8> {
    let model = Model::named(&config.cpu_model).unwrap_or_default();
    let mut fdt = Fdt::new();
    fdt.node("", |f| {
        f.text("compatible", "linux,dummy-virt");
        f.text("model", "linux,dummy-virt");
        f.cells("#address-cells", &[2]);
        f.cells("#size-cells", &[2]);
        f.cells("interrupt-parent", &[GIC_HANDLE]);
        f.node("chosen", |f| {
            f.text("stdout-path", "/pl011@9000000");
            if let Some(kernel) = &config.kernel {
                f.text("bootargs", &kernel.command_line);
            }
            if let Some((start, end)) = plan.and_then(|p| p.initrd) {
                f.wide("linux,initrd-start", RAM + start);
                f.wide("linux,initrd-end", RAM + end);
            }
        });
        f.node("memory@40000000", |f| {
            f.text("device_type", "memory");
            f.reg(&[(RAM, config.memory)]);
        });
        f.node("cpus", |f| {
            f.cells("#address-cells", &[1]);
            f.cells("#size-cells", &[0]);
            for n in 0..config.cpus {
                let affinity = (sysreg::mpidr(n) & 0xff_ffff) as u32;
                f.node(&format!("cpu@{affinity:x}"), |f| {
                    f.text("device_type", "cpu");
                    f.text("compatible", model.compatible);
                    f.cells("reg", &[affinity]);
                    if config.cpus > 1 {
                        f.text("enable-method", "psci");
                    }
                });
            }
        });
        f.node("psci", |f| {
            f.texts("compatible", &["arm,psci-1.0", "arm,psci-0.2", "arm,psci"]);
            f.text("method", "hvc");
        });
        f.node("timer", |f| {
            f.texts("compatible", &["arm,armv8-timer", "arm,armv7-timer"]);
            f.flag("always-on");
            let mask = ((1 << config.cpus) - 1) << 8 | 4;
            let order = [ppi::SECURE, ppi::PHYSICAL, ppi::VIRTUAL, ppi::HYPERVISOR];
            let cells: Vec<u32> = order.iter().flat_map(|&n| [1, n as u32, mask]).collect();
            f.cells("interrupts", &cells);
        });
        f.node("intc@8000000", |f| {
            f.text("compatible", "arm,cortex-a15-gic");
            f.cells("#interrupt-cells", &[3]);
            f.flag("interrupt-controller");
            f.cells("#address-cells", &[2]);
            f.cells("#size-cells", &[2]);
            f.reg(&[(GIC[0], 0x1_0000), (GIC[1], 0x1_0000)]);
            f.cells("phandle", &[GIC_HANDLE]);
        });
        f.node("apb-pclk", |f| {
            f.text("compatible", "fixed-clock");
            f.cells("#clock-cells", &[0]);
            f.cells("clock-frequency", &[24_000_000]);
            f.text("clock-output-names", "clk24mhz");
            f.cells("phandle", &[CLOCK_HANDLE]);
        });
        f.node("pl011@9000000", |f| {
            f.texts("compatible", &["arm,pl011", "arm,primecell"]);
            f.reg(&[(UART, 0x1000)]);
            f.cells("interrupts", &[0, spi::UART as u32, 4]);
            f.cells("clocks", &[CLOCK_HANDLE, CLOCK_HANDLE]);
            f.texts("clock-names", &["uartclk", "apb_pclk"]);
        });
        f.node("pl031@9010000", |f| {
            f.texts("compatible", &["arm,pl031", "arm,primecell"]);
            f.reg(&[(RTC, 0x1000)]);
            f.cells("interrupts", &[0, spi::RTC as u32, 4]);
            f.cells("clocks", &[CLOCK_HANDLE]);
            f.text("clock-names", "apb_pclk");
        });
        for n in 0..slots {
            let at = VIRTIO + n * mmio::SIZE;
            f.node(&format!("virtio_mmio@{at:x}"), |f| {
                f.text("compatible", "virtio,mmio");
                f.reg(&[(at, mmio::SIZE)]);
                f.cells("interrupts", &[0, spi::VIRTIO as u32 + n as u32, 4]);
                f.flag("dma-coherent");
            });
        }
    });
    fdt.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_0_starts_in_flash_and_the_tree_is_where_it_says() {
        let mut image = vec![0; 0x100];
        image[56..60].copy_from_slice(b"ARM\x64");
        let kernel = crate::machine::Kernel { image, ..Default::default() };
        let config = MachineConfig {
            memory: 16 << 20,
            kernel: Some(kernel),
            cpu_model: "cortex-a53".into(),
            ..MachineConfig::default()
        };
        let mut board = build(&config).unwrap().board;
        board.reset();
        assert_eq!(board.read(0, 4), 0x5800_00c0);
        let tree = board.read(24, 8);
        assert_eq!((board.read(tree, 4) as u32).swap_bytes(), 0xd00d_feed);
        assert_eq!(board.read(0x4020_0000 + 56, 4), u64::from(u32::from_le_bytes(*b"ARM\x64")));
        assert_eq!(board.read(RTC + 0xfe0, 4), 0x31);
    }
}
