//! What must hold in every world, one file each. All but the leak scan are asked when the faults are over and all is at rest.

pub(crate) mod bye_reaches_both;
pub(crate) mod media_where_it_is_open;
pub(crate) mod no_anycast_leak;
pub(crate) mod no_call_left_over;
pub(crate) mod no_ghost_rings;
pub(crate) mod one_cdr_per_call;
pub(crate) mod one_final_answer;
pub(crate) mod one_invite_rings_once;
pub(crate) mod what_is_told_stands;

use crate::world::World;

/// Everything that is wrong with a world at rest.
pub(crate) fn check(world: &World) -> Vec<String> {
    let mut wrong = world.violations.clone();
    for phone in &world.phones {
        wrong.extend(phone.complaints.iter().map(|c| format!("{:?} complains: {c}", phone.who)));
    }
    one_invite_rings_once::check(world, &mut wrong);
    bye_reaches_both::check(world, &mut wrong);
    one_final_answer::check(world, &mut wrong);
    no_call_left_over::check(world, &mut wrong);
    one_cdr_per_call::check(world, &mut wrong);
    what_is_told_stands::check(world, &mut wrong);
    wrong
}
