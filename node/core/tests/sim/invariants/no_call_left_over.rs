//! Both sides are gone and the timers have run: no node holds a call or a transaction, no replica a live call.

use crate::world::World;

pub(crate) fn check(world: &World, wrong: &mut Vec<String>) {
    for (i, node) in world.nodes.iter().enumerate() {
        let (calls, transactions) = (node.sbc.call_count(), node.sbc.transaction_count());
        let live = node.replica.read().expect("no thread of ours panics").live_calls();
        if calls + transactions + live > 0 {
            let replica = node.replica.read().expect("no thread of ours panics");
            let live_ones: Vec<String> = replica.calls(None).map(|c| c.uid.to_string()).collect();
            wrong.push(format!(
                "node {i} is left with {calls} calls, {transactions} transactions, {live} live in its replica: {live_ones:?}"
            ));
        }
    }
}
