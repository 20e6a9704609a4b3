//! Which CPUs belong together, and which memory is near them.

/// How CPUs are packaged, counted from the outside in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Sockets.
    pub sockets: usize,
    /// Cores of a socket.
    pub cores: usize,
    /// Threads of a core.
    pub threads: usize,
}

/// Where a CPU sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuPlace {
    /// Socket.
    pub socket: usize,
    /// Core in its socket.
    pub core: usize,
    /// Thread in its core.
    pub thread: usize,
}

impl Topology {
    /// One socket of `cpus` cores.
    pub const fn cores(cpus: usize) -> Self {
        Self { sockets: 1, cores: cpus, threads: 1 }
    }

    /// The place of CPU number `cpu`.
    pub fn place(&self, cpu: usize) -> CpuPlace {
        let (threads, cores) = (self.threads.max(1), self.cores.max(1));
        let core = cpu / threads;
        CpuPlace { socket: core / cores, core: core % cores, thread: cpu % threads }
    }
}

impl Default for Topology {
    fn default() -> Self {
        Self::cores(1)
    }
}

/// Nodes of a machine whose memory is not equally near to all CPUs; none: it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numa {
    /// Bytes of RAM of each node, in the order of addresses.
    pub memory: Vec<u64>,
    /// The node of each CPU.
    pub cpus: Vec<usize>,
    /// Relative distances between nodes, row after row; 10 is local.
    pub distances: Vec<u8>,
}

impl Numa {
    /// Distance of a node to itself, and the usual one to another.
    pub const DISTANCES: [u8; 2] = [10, 20];

    /// Nodes.
    pub fn nodes(&self) -> usize {
        self.memory.len()
    }

    /// RAM as (node, first address, bytes), of a machine with `low` bytes below 4 GiB and the rest
    /// from there.
    pub(crate) fn ranges(&self, low: u64) -> Vec<(usize, u64, u64)> {
        let mut out = Vec::new();
        let mut at = 0;
        for (node, &bytes) in self.memory.iter().enumerate() {
            let below = bytes.min(low.saturating_sub(at));
            if below > 0 {
                out.push((node, at, below));
            }
            if bytes > below {
                let start = (1 << 32) + (at + below).saturating_sub(low);
                out.push((node, start, bytes - below));
            }
            at += bytes;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_fill_threads_then_cores_then_sockets() {
        let t = Topology { sockets: 2, cores: 2, threads: 2 };
        assert_eq!(t.place(0), CpuPlace { socket: 0, core: 0, thread: 0 });
        assert_eq!(t.place(3), CpuPlace { socket: 0, core: 1, thread: 1 });
        assert_eq!(t.place(6), CpuPlace { socket: 1, core: 1, thread: 0 });
        assert_eq!(Topology::cores(8).place(5).core, 5);
    }

    #[test]
    fn a_node_across_the_hole_has_two_ranges() {
        let numa = Numa { memory: vec![1 << 30, 3 << 30, 1 << 30], ..Numa::default() };
        let ranges = numa.ranges(3 << 30);
        assert_eq!(
            ranges,
            [(0, 0, 1 << 30), (1, 1 << 30, 2 << 30), (1, 1 << 32, 1 << 30), (2, 5 << 30, 1 << 30)]
        );
    }
}
