//! What one request costs in the block layer itself: 4 KiB reads at depth 1 from a node that does
//! nothing, through 0 to 8 further nodes.

#![expect(
    clippy::disallowed_types,
    clippy::print_stdout,
    reason = "a measurement has a clock and says what it found"
)]

use orrery_block::backend::Request;
use orrery_block::graph::BlockGraph;
use orrery_block::{IoBuf, NodeOptions};
use std::time::Instant;

const REQUESTS: u64 = 2_000_000;

fn cost(nodes: usize) -> f64 {
    let graph = BlockGraph::new();
    let mut options = r#"{"driver": "null-co", "size": 1073741824}"#.to_owned();
    for _ in 0..nodes {
        options = format!(r#"{{"driver": "raw", "file": {options}}}"#);
    }
    let options = NodeOptions::from_argument(&options).expect("they are right");
    let open = graph.executor().run_in_place(graph.open_options(&options));
    let node = open.expect("nothing waits").expect("nothing fails");
    let disk = graph.anonymous_backend();
    disk.insert(node.medium(false)).expect("it is empty");
    let mut buf = IoBuf::zeroed(4096);
    let start = Instant::now();
    for i in 0..REQUESTS {
        let offset = i * 4096 % (1 << 30);
        let mut ticket = disk.submit(Request::Read { offset, buf });
        buf = ticket.take().expect("done in place").expect("a null disk has no errors");
    }
    start.elapsed().as_nanos() as f64 / REQUESTS as f64
}

fn main() {
    for nodes in [0, 1, 3, 8] {
        let mut runs: Vec<f64> = (0..5).map(|_| cost(nodes)).collect();
        runs.sort_by(f64::total_cmp);
        println!("null-co under {nodes} raw nodes: {:.0} ns per request", runs[2]);
    }
}
