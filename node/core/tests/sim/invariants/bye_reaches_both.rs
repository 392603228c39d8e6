//! Whoever hangs up, the other side hears of it: no phone is left in a call that the other has left.

use crate::phone::LegState;
use crate::world::World;

pub(crate) fn check(world: &World, wrong: &mut Vec<String>) {
    for phone in &world.phones {
        // A call does not survive its owner: what is left of it is no concern of the others.
        for leg in phone.legs.iter().filter(|l| !world.victims.contains(&l.call)) {
            if leg.answered && !leg.bye_sent && !leg.bye_received {
                wrong.push(format!("{:?} is still in call {} ({})", phone.who, leg.call, leg.call_id));
            }
            if leg.state != LegState::Ended {
                wrong.push(format!("{:?}'s leg of call {} ({}) is {:?}", phone.who, leg.call, leg.call_id, leg.state));
            }
        }
    }
    for caller in world.phones[0].legs.iter().filter(|l| l.bye_sent && !world.victims.contains(&l.call)) {
        let psap = || world.phones[1].legs.iter().filter(|l| l.call == caller.call && l.answered);
        if psap().any(|l| !l.bye_received && !l.bye_sent) {
            wrong.push(format!("the caller's BYE of call {} did not reach the PSAP", caller.call));
        }
    }
}
