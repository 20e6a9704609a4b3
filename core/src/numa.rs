//! From `-numa` to the nodes of a machine.

use crate::options::NumaOption;
use orrery_hw::numa::{Numa, Topology};

/// What the nodes are made of.
pub(crate) struct Parts<'a> {
    /// CPUs.
    pub(crate) cpus: usize,
    /// How they are packaged.
    pub(crate) topology: Topology,
    /// Bytes of RAM.
    pub(crate) memory: u64,
    /// Bytes of the memory object of this id.
    pub(crate) memdev: &'a dyn Fn(&str) -> Option<u64>,
}

/// Most nodes that tables can tell apart.
const MAX_NODES: usize = 128;

/// The nodes; none if nothing asks for them.
pub(crate) fn resolve(options: &[NumaOption], parts: &Parts<'_>) -> Result<Numa, String> {
    let mut memory: Vec<Option<Option<u64>>> = Vec::new();
    let mut cpus: Vec<Option<usize>> = vec![None; parts.cpus];
    for option in options {
        let NumaOption::Node { id, cpus: ranges, memory: bytes, memdev } = option else { continue };
        let free = memory.iter().position(Option::is_none).unwrap_or(memory.len());
        let node = id.map_or(free, |id| usize::try_from(id).unwrap_or(usize::MAX));
        if node >= MAX_NODES {
            return Err(format!("there are at most {MAX_NODES} nodes"));
        }
        memory.resize(memory.len().max(node + 1), None);
        if memory[node].is_some() {
            return Err(format!("node {node} is described twice"));
        }
        let of_object = |name: &String| {
            (parts.memdev)(name).ok_or_else(|| format!("there is no memory object '{name}'"))
        };
        memory[node] = Some(match memdev {
            Some(name) => Some(of_object(name)?),
            None => *bytes,
        });
        for &(first, last) in ranges {
            for cpu in first..=last {
                let slot = usize::try_from(cpu).ok().and_then(|n| cpus.get_mut(n));
                let slot = slot.ok_or_else(|| format!("there is no CPU {cpu}"))?;
                if slot.replace(node).is_some_and(|other| other != node) {
                    return Err(format!("CPU {cpu} is in two nodes"));
                }
            }
        }
    }
    let nodes = memory.len();
    if let Some(gap) = memory.iter().position(Option::is_none) {
        return Err(format!("node {gap} is missing"));
    }
    let known = |node: u64| {
        let index = usize::try_from(node).ok().filter(|n| *n < nodes);
        index.ok_or_else(|| format!("there is no node {node}"))
    };
    let [local, remote] = Numa::DISTANCES;
    let usual = |i: usize| if i / nodes.max(1) == i % nodes.max(1) { local } else { remote };
    let mut distances: Vec<u8> = (0..nodes * nodes).map(usual).collect();
    let mut given = vec![false; nodes * nodes];
    for option in options {
        match *option {
            NumaOption::Node { .. } => {}
            NumaOption::Cpu { node, place } => {
                let node = known(node)?;
                let mut any = false;
                for (n, slot) in cpus.iter_mut().enumerate() {
                    let at = parts.topology.place(n);
                    let at = [at.socket, at.core, at.thread].map(|v| v as u64);
                    if place.iter().zip(at).all(|(want, have)| want.is_none_or(|w| w == have)) {
                        *slot = Some(node);
                        any = true;
                    }
                }
                if !any {
                    return Err("no CPU is at the place that is given".into());
                }
            }
            NumaOption::Distance { from, to, value } => {
                let (from, to) = (known(from)?, known(to)?);
                if from == to && value != local {
                    return Err(format!("the distance of a node to itself is {local}"));
                }
                distances[from * nodes + to] = value;
                given[from * nodes + to] = true;
                // The way back is as long, if it is not given.
                if !given[to * nodes + from] {
                    distances[to * nodes + from] = value;
                }
            }
        }
    }
    if nodes == 0 {
        return Ok(Numa::default());
    }
    let memory: Vec<Option<u64>> = memory.into_iter().map(Option::flatten).collect();
    let memory = share(&memory, parts.memory)?;
    let node_of = |(n, node): (usize, Option<usize>)| {
        node.unwrap_or_else(|| parts.topology.place(n).socket % nodes)
    };
    Ok(Numa { memory, cpus: cpus.into_iter().enumerate().map(node_of).collect(), distances })
}

/// Memory of each node: as given, or all of it in equal parts where no node says how much.
fn share(given: &[Option<u64>], total: u64) -> Result<Vec<u64>, String> {
    const UNIT: u64 = 8 << 20;
    if given.iter().any(Option::is_some) {
        let memory: Vec<u64> = given.iter().map(|m| m.unwrap_or(0)).collect();
        let sum: u128 = memory.iter().map(|&m| u128::from(m)).sum();
        if sum != total.into() {
            return Err(format!("the nodes have {sum:#x} bytes of memory, the machine {total:#x}"));
        }
        return Ok(memory);
    }
    let part = total / given.len() as u64 / UNIT * UNIT;
    let mut memory = vec![part; given.len()];
    if let Some(last) = memory.last_mut() {
        *last = total - part * (given.len() as u64 - 1);
    }
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;

    fn nodes(args: &str, topology: Topology) -> Result<Numa, String> {
        let args: Vec<&str> = args.split_whitespace().collect();
        let Options { numa, .. } = Options::parse(&args).map_err(|e| e.to_string())?;
        let memdev = |name: &str| (name == "ram").then_some(128 << 20);
        let parts = Parts { cpus: 8, topology, memory: 128 << 20, memdev: &memdev };
        resolve(&numa, &parts)
    }

    #[test]
    fn cpus_go_where_they_are_put_and_the_rest_by_their_socket() {
        let cores = Topology::cores(8);
        let numa = nodes("-numa node,memdev=ram,cpus=0-1 -numa node,cpus=4-5", cores).unwrap();
        assert_eq!(numa.cpus, [0, 0, 0, 0, 1, 1, 0, 0]);
        assert_eq!(numa.memory, [128 << 20, 0]);
        let sockets = Topology { sockets: 8, cores: 1, threads: 1 };
        let numa = nodes("-numa node -numa node", sockets).unwrap();
        assert_eq!(numa.cpus, [0, 1, 0, 1, 0, 1, 0, 1]);
        assert_eq!(numa.memory, [64 << 20; 2]);
        let packed = Topology { sockets: 2, cores: 2, threads: 2 };
        let places = "-numa node -numa node -numa cpu,node-id=1,socket-id=0 \
                      -numa cpu,node-id=0,socket-id=1 -numa cpu,node-id=1,socket-id=1,core-id=1,thread-id=1";
        assert_eq!(nodes(places, packed).unwrap().cpus, [1, 1, 1, 1, 0, 0, 0, 1]);
    }

    #[test]
    fn a_distance_holds_both_ways_unless_both_are_given() {
        let cores = Topology::cores(8);
        let numa = nodes("-numa node -numa node -numa dist,src=0,dst=1,val=31", cores).unwrap();
        assert_eq!(numa.distances, [10, 31, 31, 10]);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_reason() {
        let cores = Topology::cores(8);
        for (args, reason) in [
            ("-numa node,cpus=8", "there is no CPU 8"),
            ("-numa node,cpus=0 -numa node,cpus=0", "CPU 0 is in two nodes"),
            ("-numa node,nodeid=1", "node 0 is missing"),
            ("-numa node,memdev=x", "there is no memory object 'x'"),
            ("-numa node,mem=1M", "the nodes have"),
            ("-numa node -numa dist,src=0,dst=2,val=20", "there is no node 2"),
        ] {
            let error = nodes(args, cores).unwrap_err();
            assert!(error.contains(reason), "{args}: {error}");
        }
    }
}
