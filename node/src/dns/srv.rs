//! The order of SRV records (RFC 2782): a pure function with the random numbers handed in.

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    /// Lower first.
    pub priority: u16,
    /// Share within the priority.
    pub weight: u16,
    /// Port.
    pub port: u16,
    /// Host, as the answer has it.
    pub target: String,
}

/// The order in which to try the records: by priority, within one by weighted chance. `random(n)` gives a number in `0..=n`.
pub fn order(mut records: Vec<Srv>, mut random: impl FnMut(u32) -> u32) -> Vec<Srv> {
    let mut ordered = Vec::with_capacity(records.len());
    // RFC 2782: records of weight 0 come first in the running sum, so that they have a small chance.
    records.sort_by_key(|r| (r.priority, r.weight != 0));
    while let Some(first) = records.first() {
        let priority = first.priority;
        let len = records.iter().take_while(|r| r.priority == priority).count();
        let total: u32 = records[..len].iter().map(|r| u32::from(r.weight)).sum();
        let mark = random(total);
        let mut sum = 0;
        let chosen = records[..len].iter().position(|r| {
            sum += u32::from(r.weight);
            sum >= mark
        });
        ordered.push(records.remove(chosen.unwrap_or(len - 1)));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    fn srv(priority: u16, weight: u16, target: &str) -> Srv {
        Srv { priority, weight, port: 5060, target: target.into() }
    }

    fn names(ordered: &[Srv]) -> String {
        ordered.iter().map(|r| r.target.as_str()).collect()
    }

    #[test]
    fn priority_before_weight() {
        let records = vec![srv(20, 0, "c"), srv(10, 1, "b"), srv(10, 9, "a")];
        assert_eq!(names(&order(records.clone(), |n| n)), "abc");
        assert_eq!(names(&order(records.clone(), |_| 0)), "bac");
        assert_eq!(names(&order(records.clone(), |_| 1)), "bac");
        assert_eq!(names(&order(records, |n| n.min(2))), "abc");
        assert!(order(vec![], |n| n).is_empty());
    }

    #[test]
    fn weight_is_a_share() {
        let records = vec![srv(1, 30, "a"), srv(1, 10, "b"), srv(1, 0, "z")];
        let (mut a, mut z) = (0, 0);
        for mark in 0..=40u32 {
            let mut first = Some(mark);
            match names(&order(records.clone(), |_| first.take().unwrap_or(0))).as_bytes()[0] {
                b'a' => a += 1,
                b'z' => z += 1,
                _ => {}
            }
        }
        assert_eq!((a, z), (30, 1), "of 41: 30 of weight 30, one for weight 0");
    }
}
