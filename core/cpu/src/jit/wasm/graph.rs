//! The shape of a region: which blocks dominate which, where loops begin.
//!
//! WebAssembly has structured control flow only. Blocks are nested by the dominator tree: a block
//! with one way in stands where that way is taken, one with several stands behind a `block` that the ways leave,
//! a loop's first block stands in a `loop`. Where a region can be entered at several places, and where a cycle can,
//! one more node leads to them, the dispatcher. Ways inside the region that close such a cycle go through it; it is then the first
//! block of a loop around everything.

/// The nodes of a region in the order and nesting that they are written in.
pub(super) struct Graph {
    /// For each node: its successors in forward direction and otherwise.
    succs: Vec<Vec<usize>>,
    /// Nodes that the dispatcher leads to, in the order of its table. Empty: there is none.
    pub(super) dispatched: Vec<usize>,
    /// Those of them that every way leads to through it.
    strays: Vec<usize>,
    /// Position in reverse postorder; `usize::MAX` for nodes that are not reached.
    order: Vec<usize>,
    /// The nodes each node dominates immediately that several ways lead to, last in order first.
    pub(super) merges: Vec<Vec<usize>>,
    is_merge: Vec<bool>,
    is_loop: Vec<bool>,
    /// The node that comes first: block 0 or the dispatcher.
    pub(super) root: usize,
}

impl Graph {
    /// The graph of blocks with these ways out of each; block 0 is the entry, `gates` are others. `succs` may
    /// name a block more than once.
    pub(super) fn new(succs: &[Vec<usize>], gates: &[usize]) -> Self {
        // The entry is the first of the dispatcher's ways, then come the gates.
        let mut dispatched: Vec<usize> = Vec::new();
        if !gates.is_empty() {
            dispatched.push(0);
            dispatched.extend(gates);
        }
        let mut strays = Vec::new();
        loop {
            let mut g = Self::with_dispatcher(succs, &dispatched, &strays);
            let idom = g.dominators();
            let Some(node) = g.stray(&idom) else {
                g.classify(&idom);
                return g;
            };
            strays.push(node);
            for node in [0, node] {
                if !dispatched.contains(&node) {
                    dispatched.push(node);
                }
            }
        }
    }

    fn with_dispatcher(blocks: &[Vec<usize>], dispatched: &[usize], strays: &[usize]) -> Self {
        let n = blocks.len();
        let mut succs = blocks.to_vec();
        let root = if dispatched.is_empty() {
            0
        } else {
            for to in succs.iter_mut().flatten() {
                if strays.contains(to) {
                    *to = n;
                }
            }
            succs.push(dispatched.to_vec());
            n
        };
        let mut g = Self {
            order: vec![usize::MAX; succs.len()],
            merges: vec![Vec::new(); succs.len()],
            is_merge: vec![false; succs.len()],
            is_loop: vec![false; succs.len()],
            dispatched: dispatched.to_vec(),
            strays: strays.to_vec(),
            succs,
            root,
        };
        g.number();
        g
    }

    /// Whether a way from `from` to `to` goes back (or to itself).
    pub(super) fn goes_back(&self, from: usize, to: usize) -> bool {
        self.order[to] <= self.order[from]
    }

    /// The node that a way to block `to` leads to.
    pub(super) fn node(&self, to: usize) -> usize {
        if self.strays.contains(&to) { self.root } else { to }
    }

    /// What tells the dispatcher to go on at this block, if ways to it go through it.
    pub(super) fn state(&self, to: usize) -> Option<usize> {
        let stray = self.strays.contains(&to);
        self.dispatched.iter().position(|&b| stray && b == to)
    }

    /// Whether several ways lead forward to the node.
    pub(super) fn is_merge(&self, node: usize) -> bool {
        self.is_merge[node]
    }

    /// Whether a loop begins at the node.
    pub(super) fn is_loop(&self, node: usize) -> bool {
        self.is_loop[node]
    }

    fn number(&mut self) {
        let n = self.succs.len();
        let mut seen = vec![false; n];
        let mut post = Vec::with_capacity(n);
        let mut stack = vec![(self.root, 0)];
        seen[self.root] = true;
        while let Some((node, next)) = stack.last_mut() {
            let node = *node;
            match self.succs[node].get(*next) {
                Some(&to) => {
                    *next += 1;
                    if !std::mem::replace(&mut seen[to], true) {
                        stack.push((to, 0));
                    }
                }
                None => {
                    post.push(node);
                    stack.pop();
                }
            }
        }
        for (i, &node) in post.iter().rev().enumerate() {
            self.order[node] = i;
        }
    }

    /// Immediate dominators (Cooper, Harvey, Kennedy: A Simple, Fast Dominance Algorithm).
    fn dominators(&self) -> Vec<usize> {
        let n = self.succs.len();
        let mut rpo: Vec<usize> = (0..n).filter(|&b| self.order[b] != usize::MAX).collect();
        rpo.sort_by_key(|&b| self.order[b]);
        let mut preds = vec![Vec::new(); n];
        for &b in &rpo {
            for &to in &self.succs[b] {
                preds[to].push(b);
            }
        }
        let none = usize::MAX;
        let mut idom = vec![none; n];
        idom[self.root] = self.root;
        let mut again = true;
        while again {
            again = false;
            for &b in rpo.iter().skip(1) {
                let mut new = none;
                for &p in &preds[b] {
                    if idom[p] == none {
                        continue;
                    }
                    new = if new == none { p } else { self.meet(&idom, p, new) };
                }
                again |= idom[b] != new;
                idom[b] = new;
            }
        }
        idom
    }

    fn meet(&self, idom: &[usize], mut a: usize, mut b: usize) -> usize {
        while a != b {
            while self.order[a] > self.order[b] {
                a = idom[a];
            }
            while self.order[b] > self.order[a] {
                b = idom[b];
            }
        }
        a
    }

    fn dominates(&self, idom: &[usize], a: usize, mut b: usize) -> bool {
        while self.order[b] > self.order[a] {
            b = idom[b];
        }
        a == b
    }

    /// A node that a way back leads to and that does not dominate where it comes from.
    fn stray(&self, idom: &[usize]) -> Option<usize> {
        for (from, succs) in self.succs.iter().enumerate() {
            if self.order[from] == usize::MAX {
                continue;
            }
            for &to in succs {
                if self.goes_back(from, to) && !self.dominates(idom, to, from) {
                    return Some(to);
                }
            }
        }
        None
    }

    fn classify(&mut self, idom: &[usize]) {
        let n = self.succs.len();
        let mut ways = vec![0; n];
        for from in 0..n {
            if self.order[from] == usize::MAX {
                continue;
            }
            for &to in &self.succs[from] {
                if self.goes_back(from, to) {
                    self.is_loop[to] = true;
                } else {
                    // The dispatcher's table needs something to leave.
                    ways[to] +=
                        if from == self.root && !self.dispatched.is_empty() { 2 } else { 1 };
                }
            }
        }
        for (node, &ways) in ways.iter().enumerate() {
            if ways > 1 {
                self.is_merge[node] = true;
                self.merges[idom[node]].push(node);
            }
        }
        for list in &mut self.merges {
            list.sort_by_key(|&b| std::cmp::Reverse(self.order[b]));
        }
    }
}
