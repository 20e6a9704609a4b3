//! Commands that say what there is.

use super::Desk;
use super::args::*;
use orrery_block::qapi;
use orrery_block::qmp::{Answer, QmpError};
use orrery_cpu::aarch64::model::MODELS;
use orrery_cpu::x86::cpuid::Model;
use orrery_hw::i386::MACHINES;
use orrery_hw::machine::Arch;
use orrery_hw::pci::{self, CONFIG_BANK};
use orrery_system::DeviceId;
use serde_json::{Value, json};

/// How big the window of a base address register is, and what lies in it.
struct Bar {
    number: u64,
    io: bool,
    base: u64,
    size: u64,
    wide: bool,
    prefetch: bool,
}

impl Desk<'_> {
    pub(super) fn query_none(&mut self, _: Nothing) -> Answer<Vec<Value>> {
        Ok(Vec::new())
    }

    pub(super) fn query_ospm(&mut self, _: Nothing) -> Answer<Vec<Value>> {
        if self.handles().pci.is_none() {
            return Err(QmpError::generic("command is not supported, missing ACPI device"));
        }
        Ok(Vec::new())
    }

    pub(super) fn query_rx_filter(&mut self, _: RxFilter) -> Answer<Vec<Value>> {
        Ok(Vec::new())
    }

    pub(super) fn query_name(&mut self, _: Nothing) -> Answer<NameInfo> {
        Ok(NameInfo { name: self.state.settings.name.clone() })
    }

    pub(super) fn query_uuid(&mut self, _: Nothing) -> Answer<UuidInfo> {
        Ok(UuidInfo { uuid: "00000000-0000-0000-0000-000000000000".into() })
    }

    pub(super) fn query_kvm(&mut self, _: Nothing) -> Answer<KvmInfo> {
        Ok(KvmInfo { enabled: false, present: false })
    }

    pub(super) fn query_target(&mut self, _: Nothing) -> Answer<TargetInfo> {
        Ok(TargetInfo { arch: self.handles().arch.name().into() })
    }

    pub(super) fn query_machines(&mut self, _: Nothing) -> Answer<Vec<MachineInfo>> {
        let one = |m: &orrery_hw::machine::MachineType| {
            let x86 = m.arch == Arch::X86;
            MachineInfo {
                name: m.name.into(),
                alias: m.aliases.first().map(|&a| a.into()),
                is_default: (m.name == MACHINES[0].name).then_some(true),
                cpu_max: m.max_cpus as u64,
                hotpluggable_cpus: false,
                numa_mem_supported: false,
                deprecated: false,
                default_cpu_type: Some(m.arch.cpu_type(m.default_cpu)),
                default_ram_id: Some(if x86 { "pc.ram" } else { "mach-virt.ram" }.into()),
                acpi: x86 && m.name != "isapc",
            }
        };
        Ok(orrery_hw::machines().map(one).collect())
    }

    pub(super) fn query_current_machine(&mut self, _: Nothing) -> Answer<CurrentMachine> {
        Ok(CurrentMachine { wakeup_suspend_support: self.handles().suspend.is_some() })
    }

    fn cpu_instance(&self, n: usize) -> CpuInstance {
        let handles = self.handles();
        let place = handles.topology.place(n);
        CpuInstance {
            core_id: place.core as u64,
            thread_id: place.thread as u64,
            socket_id: place.socket as u64,
            node_id: handles.numa.cpus.get(n).map(|&node| node as u64),
        }
    }

    pub(super) fn query_cpus(&mut self, _: Nothing) -> Answer<Vec<CpuInfo>> {
        let one = |n: usize| CpuInfo {
            cpu_index: n as u64,
            qom_path: format!("/machine/unattached/device[{n}]"),
            thread_id: n as u64 + 1,
            props: self.cpu_instance(n),
            target: self.handles().arch.name().into(),
        };
        Ok((0..self.machine.cpus.count()).map(one).collect())
    }

    pub(super) fn query_hotpluggable(&mut self, _: Nothing) -> Answer<Vec<Value>> {
        if self.handles().pci.is_none() {
            return Err(QmpError::generic("machine does not support hot-plugging CPUs"));
        }
        let one = |n: usize| {
            json!({
                "props": qapi::to_value(&self.cpu_instance(n)), "vcpus-count": 1,
                "qom-path": format!("/machine/unattached/device[{n}]"), "type": self.cpu_type(),
            })
        };
        Ok((0..self.machine.cpus.count()).rev().map(one).collect())
    }

    pub(super) fn query_cpu_definitions(&mut self, _: Nothing) -> Answer<Vec<CpuDefinition>> {
        let arch = self.handles().arch;
        let one = |name: &'static str| CpuDefinition {
            name: name.into(),
            migration_safe: !["max", "host"].contains(&name),
            r#static: name == "base",
            unavailable_features: Vec::new(),
            typename: arch.cpu_type(name),
            deprecated: false,
        };
        Ok(model_names(arch).into_iter().map(one).collect())
    }

    pub(super) fn query_expansion(&mut self, args: Expansion) -> Answer<Expanded> {
        if !["static", "full"].contains(&args.r#type.as_str()) {
            let text = format!("Parameter 'type' does not accept value '{}'", args.r#type);
            return Err(QmpError::generic(text));
        }
        let name = args.model.name;
        if !model_names(self.handles().arch).contains(&name.as_str()) {
            return Err(QmpError::generic(format!("CPU model '{name}' not found")));
        }
        let props = Some(args.model.props.unwrap_or_else(|| json!({})));
        Ok(Expanded { model: CpuModel { name, props, deprecated_props: None } })
    }

    /// The type of the machine's CPUs.
    pub(super) fn cpu_type(&self) -> String {
        let handles = self.handles();
        handles.arch.cpu_type(&handles.cpu_model)
    }

    pub(super) fn query_memory_size(&mut self, _: Nothing) -> Answer<MemorySize> {
        Ok(MemorySize { base_memory: self.handles().memory.bytes, plugged_memory: 0 })
    }

    pub(super) fn query_memdev(&mut self, _: Nothing) -> Answer<Vec<Value>> {
        let one = |id: &str, size: u64| {
            json!({
                "id": id, "size": size, "merge": true, "dump": true,
                "prealloc": false, "share": false, "reserve": true, "host-nodes": [],
                "policy": "default",
            })
        };
        let mut out = Vec::new();
        for (id, object) in self.machine.blocks.objects() {
            if object.kind.starts_with("memory-backend") {
                let size = object.properties.get("size").and_then(Value::as_u64).unwrap_or(0);
                out.push(one(&id, size));
            }
        }
        let ram = &self.handles().memory;
        if !out.iter().any(|o| o["id"] == ram.id.as_str()) {
            out.push(one(&ram.id, ram.bytes));
        }
        Ok(out)
    }

    pub(super) fn query_chardev(&mut self, _: Nothing) -> Answer<Vec<ChardevInfo>> {
        let one = |c: &super::Chardev| ChardevInfo {
            label: c.label.clone(),
            filename: c.filename.clone(),
            frontend_open: c.open,
        };
        Ok(self.state.settings.chardevs.iter().map(one).collect())
    }

    pub(super) fn query_chardev_backends(&mut self, _: Nothing) -> Answer<Vec<BackendInfo>> {
        let names = crate::options::CHARDEV_BACKENDS;
        Ok(names.iter().map(|&name| BackendInfo { name: name.into() }).collect())
    }

    pub(super) fn query_mice(&mut self, _: Nothing) -> Answer<Vec<MouseInfo>> {
        let name = "QEMU PS/2 Mouse".into();
        Ok(vec![MouseInfo { name, index: 2, current: true, absolute: false }])
    }

    pub(super) fn query_iothreads(&mut self, _: Nothing) -> Answer<Vec<Value>> {
        let objects = self.machine.blocks.objects();
        let threads = objects.into_iter().filter(|(_, object)| object.kind == "iothread");
        let one = |(id, _)| {
            json!({
                "id": id, "thread-id": 0, "poll-max-ns": 32768, "poll-grow": 0, "poll-shrink": 0,
                "aio-max-batch": 0,
            })
        };
        Ok(threads.map(one).collect())
    }

    pub(super) fn query_dump(&mut self, _: Nothing) -> Answer<Value> {
        Ok(json!({"formats": []}))
    }

    pub(super) fn query_options(&mut self, args: OptionName) -> Answer<Vec<Value>> {
        let list = crate::options::describe();
        let wanted = |name: &str| args.option.as_deref().is_none_or(|o| o == name);
        let out: Vec<Value> = list
            .into_iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, keys)| {
                let parameters: Vec<Value> =
                    keys.iter().map(|k| json!({"name": k, "type": "string"})).collect();
                json!({"option": name, "parameters": parameters})
            })
            .collect();
        match args.option {
            Some(name) if out.is_empty() => {
                Err(QmpError::generic(format!("invalid option name: {name}")))
            }
            _ => Ok(out),
        }
    }

    pub(super) fn query_pci(&mut self, _: Nothing) -> Answer<Vec<Value>> {
        let Some(bus) = self.handles().pci.clone() else { return Ok(Vec::new()) };
        Ok(vec![json!({"bus": 0, "devices": self.pci_functions(&bus, 0)})])
    }

    fn pci_functions(&mut self, bus: &pci::Bus, number: u64) -> Vec<Value> {
        let mut out = Vec::new();
        for (devfn, id) in bus.functions() {
            let mut function = self.pci_function(number, devfn, id);
            if let Some(below) = bus.child(devfn) {
                function["pci_bridge"] = self.pci_bridge(&below, id);
            }
            out.push(function);
        }
        out
    }

    /// A bridge's windows, and what is behind it.
    fn pci_bridge(&mut self, below: &pci::Bus, id: DeviceId) -> Value {
        let [primary, secondary, last] = [0x18, 0x19, 0x1a].map(|at| self.pci_read(id, at, 1));
        let io = [0x1c, 0x1d].map(|at| (self.pci_read(id, at, 1) & 0xf0) << 8);
        let mut low = |at| (self.pci_read(id, at, 2) & 0xfff0) << 16;
        let (memory, prefetchable) = ([low(0x20), low(0x22)], [low(0x24), low(0x26)]);
        let high = [0x28, 0x2c].map(|at| self.pci_read(id, at, 4) << 32);
        let range = |base: u64, limit: u64| json!({"base": base, "limit": limit});
        let bus = json!({
            "number": primary, "secondary": secondary, "subordinate": last,
            "io_range": range(io[0], io[1] | 0xfff),
            "memory_range": range(memory[0], memory[1] | 0xf_ffff),
            "prefetchable_range": range(prefetchable[0] | high[0], prefetchable[1] | high[1] | 0xf_ffff),
        });
        // Before it has a number there is nothing that a guest could see there.
        let devices =
            if secondary == 0 { Vec::new() } else { self.pci_functions(below, secondary) };
        json!({"bus": bus, "devices": devices})
    }

    fn pci_read(&mut self, id: DeviceId, at: u64, width: u8) -> u64 {
        self.machine.board.device_read(id, CONFIG_BANK, at, width)
    }

    /// Which bits of a base address register can be set: what a guest finds when it looks for
    /// the size.
    fn bar_mask(&mut self, id: DeviceId, at: u64) -> u64 {
        let before = self.pci_read(id, at, 4);
        self.machine.board.device_write(id, CONFIG_BANK, at, 4, 0xffff_ffff);
        let mask = self.pci_read(id, at, 4);
        self.machine.board.device_write(id, CONFIG_BANK, at, 4, before);
        mask
    }

    fn bars(&mut self, id: DeviceId) -> Vec<Bar> {
        let command = self.pci_read(id, 4, 2);
        let mut out = Vec::new();
        let mut number = 0;
        let count = if self.pci_read(id, 0x0e, 1) & 0x7f == 1 { 2 } else { 6 };
        while number < count {
            let at = 0x10 + 4 * number;
            let low = self.pci_read(id, at, 4);
            let io = low & 1 != 0;
            let wide = !io && low & 6 == 4;
            let mut size = self.bar_mask(id, at);
            if size != 0 && wide {
                size |= self.bar_mask(id, at + 4) << 32;
            } else if size != 0 {
                size |= if io { !0xffff } else { !0xffff_ffff };
            }
            if size == 0 {
                number += 1;
                continue;
            }
            let size = (size & if io { !3 } else { !15 }).wrapping_neg();
            let high = if wide { self.pci_read(id, at + 4, 4) } else { 0 };
            let base = if io { low & !3 } else { high << 32 | low & !15 };
            let on = command & if io { 1 } else { 2 } != 0;
            let base = if on && base != 0 { base } else { u64::MAX };
            out.push(Bar { number, io, base, size, wide, prefetch: low & 8 != 0 });
            number += if wide { 2 } else { 1 };
        }
        out
    }

    fn pci_function(&mut self, bus: u64, devfn: u8, id: DeviceId) -> Value {
        let class = self.pci_read(id, 10, 2);
        let pin = self.pci_read(id, 0x3d, 1);
        let regions: Vec<Value> = self
            .bars(id)
            .iter()
            .map(|bar| {
                let address = if bar.base == u64::MAX { -1 } else { bar.base as i64 };
                let mut out = json!({
                    "bar": bar.number, "type": if bar.io { "io" } else { "memory" },
                    "address": address, "size": bar.size,
                });
                if !bar.io {
                    out["prefetch"] = bar.prefetch.into();
                    out["mem_type_64"] = bar.wide.into();
                }
                out
            })
            .collect();
        let qdev = self.handles().named.iter().find(|n| n.device == id);
        let qdev = qdev.map(|n| n.id.clone()).unwrap_or_default();
        let mut out = json!({
            "bus": bus, "slot": devfn >> 3, "function": devfn & 7,
            "class_info": {"class": class, "desc": class_name(class as u16)},
            "id": {
                "vendor": self.pci_read(id, 0, 2), "device": self.pci_read(id, 2, 2),
                "subsystem-vendor": self.pci_read(id, 0x2c, 2),
                "subsystem": self.pci_read(id, 0x2e, 2),
            },
            "irq_pin": pin, "qdev_id": qdev, "regions": regions,
        });
        if pin != 0 {
            out["irq"] = self.pci_read(id, 0x3c, 1).into();
        }
        out
    }
}

/// CPU models of an instruction set.
pub(super) fn model_names(arch: Arch) -> Vec<&'static str> {
    match arch {
        Arch::X86 => Model::NAMES.to_vec(),
        Arch::AArch64 => MODELS.iter().map(|m| m.name).collect(),
    }
}

/// What a class code stands for (PCI Code and ID Assignment, section 1).
pub(super) fn class_name(class: u16) -> &'static str {
    match class {
        0x0100 => "SCSI controller",
        0x0101 => "IDE controller",
        0x0106 => "SATA controller",
        0x0180 => "Storage controller",
        0x0200 => "Ethernet controller",
        0x0300 => "VGA controller",
        0x0380 => "Display controller",
        0x0401 => "Audio controller",
        0x0600 => "Host bridge",
        0x0601 => "ISA bridge",
        0x0604 => "PCI bridge",
        0x0680 => "Bridge",
        0x0700 => "Serial port",
        0x0780 => "Communication controller",
        0x0c03 => "USB controller",
        0x0c05 => "SMBus",
        _ => "Class",
    }
}
