//! Which functions may freeze, and which may call themselves.
//!
//! Precise about `call_indirect`: what a call through a table can reach is, of that type, what the
//! element segments put into that table; or, if the program writes to the table, every function
//! that it takes a reference of. Calls in place of a return are calls: what they reach may freeze
//! below the caller's caller, and a cycle of them never ends by itself. Nothing here recurses on
//! the input: components are found with an explicit stack.

use crate::error::Error;
use crate::module::Module;
use crate::scan::Summary;
use std::collections::{BTreeSet, HashMap};

/// The call graph's answers.
pub(crate) struct CallGraph {
    /// Per function: a call of it may freeze.
    may_freeze: Vec<bool>,
    /// Per node: the cycle of calls that it is on. Nodes are the functions, then every (table, type)
    /// that is called through.
    cycles: Vec<Option<u32>>,
    /// Per (table, type): its node, and whether a call through it may freeze.
    indirect: HashMap<(u32, u32), (u32, bool)>,
}

impl CallGraph {
    /// Builds the graph. `freezing` tells, per import, whether it may freeze.
    pub fn new(
        module: &Module<'_>,
        summaries: &[Summary],
        freezing: &[bool],
    ) -> Result<CallGraph, Error> {
        let imported = module.imported() as usize;
        let functions = imported + summaries.len();

        let mut nodes: HashMap<(u32, u32), u32> = HashMap::new();
        let mut edges: Vec<Vec<u32>> = vec![Vec::new(); imported];
        for summary in summaries {
            let mut out = summary.calls.clone();
            for class in &summary.indirect {
                let next = (functions + nodes.len()) as u32;
                out.push(*nodes.entry(*class).or_insert(next));
            }
            edges.push(out);
        }
        edges.extend(indirect_edges(module, summaries, &nodes, functions)?);

        let cycles = cycles(&edges);
        let mut may_freeze = vec![false; edges.len()];
        may_freeze[..imported].copy_from_slice(freezing);
        for (position, summary) in summaries.iter().enumerate() {
            let function = imported + position;
            may_freeze[function] =
                summary.repeats || !summary.ranges.is_empty() || cycles[function].is_some();
        }
        spread_to_callers(&edges, &mut may_freeze);

        let indirect = nodes
            .into_iter()
            .map(|(class, node)| (class, (node, may_freeze[node as usize])))
            .collect();
        may_freeze.truncate(functions);
        Ok(CallGraph {
            may_freeze,
            cycles,
            indirect,
        })
    }

    /// Whether a call of this function may freeze.
    pub fn may_freeze(&self, function: u32) -> bool {
        self.may_freeze[function as usize]
    }

    /// Whether this function may call itself, directly or through others.
    pub fn recursive(&self, function: u32) -> bool {
        self.cycles[function as usize].is_some()
    }

    /// Whether a call of `callee` by `caller` may lead to another call of `caller` before it
    /// returns.
    pub fn calls_back(&self, caller: u32, callee: u32) -> bool {
        let cycle = self.cycles[caller as usize];
        cycle.is_some() && cycle == self.cycles[callee as usize]
    }

    /// The same for a call through this table with this type.
    pub fn calls_back_indirect(&self, caller: u32, table: u32, kind: u32) -> bool {
        let node = self.indirect.get(&(table, kind));
        node.is_some_and(|(node, _)| self.calls_back(caller, *node))
    }

    /// Whether a call through this table with this type may freeze.
    pub fn may_freeze_indirect(&self, table: u32, kind: u32) -> bool {
        let node = self.indirect.get(&(table, kind));
        node.is_some_and(|(_, may_freeze)| *may_freeze)
    }
}

/// The tables that the module writes to, ascending.
pub(crate) fn written_tables(summaries: &[Summary]) -> BTreeSet<u32> {
    let tables = summaries.iter().flat_map(|summary| &summary.written_tables);
    tables.copied().collect()
}

/// For every (table, type) node, in order of node: the functions of that type in that table.
fn indirect_edges(
    module: &Module<'_>,
    summaries: &[Summary],
    nodes: &HashMap<(u32, u32), u32>,
    functions: usize,
) -> Result<Vec<Vec<u32>>, Error> {
    let mut wanted: Vec<((u32, u32), u32)> = nodes.iter().map(|(k, v)| (*k, *v)).collect();
    wanted.sort_unstable_by_key(|(_, node)| *node);
    let mut by_type: Vec<HashMap<&wasmparser::FuncType, Vec<u32>>> = Vec::new();
    let written = written_tables(summaries);
    let mut contents = module.table_contents()?;
    if !written.is_empty() {
        let mut all = module.referenced()?;
        all.extend(summaries.iter().flat_map(|summary| &summary.references));
        for table in written {
            contents[table as usize].clone_from(&all);
        }
    }
    for contents in contents {
        let mut map: HashMap<_, Vec<u32>> = HashMap::new();
        for function in contents {
            map.entry(module.signature(function))
                .or_default()
                .push(function);
        }
        for list in map.values_mut() {
            list.sort_unstable();
            list.dedup();
        }
        by_type.push(map);
    }
    debug_assert!(wanted.first().is_none_or(|w| w.1 as usize == functions));
    let edges = wanted.into_iter().map(|((table, kind), _)| {
        let table = &by_type[table as usize];
        let list = table.get(&module.types[kind as usize]);
        list.cloned().unwrap_or_default()
    });
    Ok(edges.collect())
}

/// Marks every node from which a marked one can be reached.
fn spread_to_callers(edges: &[Vec<u32>], marked: &mut [bool]) {
    let mut callers: Vec<Vec<u32>> = vec![Vec::new(); edges.len()];
    for (from, list) in edges.iter().enumerate() {
        for to in list {
            callers[*to as usize].push(from as u32);
        }
    }
    let mut work: Vec<u32> = (0..edges.len() as u32)
        .filter(|node| marked[*node as usize])
        .collect();
    while let Some(node) = work.pop() {
        for caller in &callers[node as usize] {
            if !marked[*caller as usize] {
                marked[*caller as usize] = true;
                work.push(*caller);
            }
        }
    }
}

/// For every node that lies on a cycle a number, equal for nodes that are on a cycle together:
/// Tarjan's strongly connected components.
fn cycles(edges: &[Vec<u32>]) -> Vec<Option<u32>> {
    const UNSEEN: u32 = u32::MAX;
    let mut order = vec![UNSEEN; edges.len()];
    let mut lowest = vec![UNSEEN; edges.len()];
    let mut cycles = vec![None; edges.len()];
    // Nodes whose component is not complete yet, and the path to the node in hand with the next
    // edge to follow from each.
    let mut pending = vec![false; edges.len()];
    let mut incomplete: Vec<usize> = Vec::new();
    let mut path: Vec<(usize, usize)> = Vec::new();
    let mut seen = 0;
    for root in 0..edges.len() {
        let mut found = (order[root] == UNSEEN).then_some(root);
        loop {
            if let Some(node) = found.take() {
                (order[node], lowest[node]) = (seen, seen);
                seen += 1;
                pending[node] = true;
                incomplete.push(node);
                path.push((node, 0));
            }
            let Some((node, edge)) = path.last_mut() else {
                break;
            };
            let node = *node;
            if let Some(target) = edges[node].get(*edge) {
                *edge += 1;
                let target = *target as usize;
                if order[target] == UNSEEN {
                    found = Some(target);
                } else if pending[target] {
                    lowest[node] = lowest[node].min(order[target]);
                }
                continue;
            }
            path.pop();
            if let Some((parent, _)) = path.last() {
                lowest[*parent] = lowest[*parent].min(lowest[node]);
            }
            if lowest[node] == order[node] {
                let alone = incomplete.last() == Some(&node);
                while let Some(member) = incomplete.pop() {
                    pending[member] = false;
                    let cyclic = !alone || edges[member].contains(&(member as u32));
                    cycles[member] = cyclic.then_some(node as u32);
                    if member == node {
                        break;
                    }
                }
            }
        }
    }
    cycles
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What can be reached from a node by one edge or more.
    fn reached(edges: &[Vec<u32>], start: usize) -> Vec<bool> {
        let mut seen = vec![false; edges.len()];
        let mut work = edges[start].clone();
        while let Some(node) = work.pop() {
            if !std::mem::replace(&mut seen[node as usize], true) {
                work.extend(&edges[node as usize]);
            }
        }
        seen
    }

    /// The definition, by brute force: two nodes are on a cycle together if each can be reached
    /// from the other.
    #[test]
    fn cycles_are_found_in_random_graphs() {
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let nodes = random.usize(1..12);
            let edges: Vec<Vec<u32>> = (0..nodes)
                .map(|_| {
                    let count = random.usize(0..3);
                    (0..count).map(|_| random.u32(0..nodes as u32)).collect()
                })
                .collect();
            let cycles = cycles(&edges);
            let reached: Vec<_> = (0..nodes).map(|node| reached(&edges, node)).collect();
            for a in 0..nodes {
                for b in 0..nodes {
                    let together = cycles[a].is_some() && cycles[a] == cycles[b];
                    assert_eq!(
                        together,
                        reached[a][b] && reached[b][a],
                        "seed {seed}: {a} and {b} in {edges:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn callers_of_the_marked_are_marked() {
        // 0 -> 1 -> 2, 3 -> 0, 4 alone
        let edges = [vec![1], vec![2], vec![], vec![0], vec![]];
        let mut marked = [false, false, true, false, false];
        spread_to_callers(&edges, &mut marked);
        assert_eq!(marked, [true, true, true, true, false]);
    }
}
