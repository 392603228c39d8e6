//! Finds a call by the identity that we minted on its called leg: for requests whose token was mangled or is of another key.

use std::collections::BTreeMap;

use crate::ids::CallUid;
use crate::store_pb::LegRecord;

/// Call-ID → (our tag, call). One Call-ID carries one leg as a rule; forks of one leg share our tag.
#[derive(Clone, Debug, Default)]
pub(super) struct Legs {
    by_call_id: BTreeMap<Box<str>, Vec<(Box<str>, CallUid)>>,
}

impl Legs {
    pub(super) fn get(&self, call_id: &str, local_tag: &str) -> Option<CallUid> {
        self.by_call_id.get(call_id)?.iter().filter(|(tag, _)| **tag == *local_tag).map(|(_, uid)| *uid).min()
    }

    /// Puts a call's new leg in place of its old one.
    pub(super) fn insert(&mut self, uid: CallUid, old: Option<&LegRecord>, new: Option<&LegRecord>) {
        if let Some(old) = old {
            self.remove(uid, old);
        }
        let Some(new) = new.filter(|l| !l.call_id.is_empty()) else { return };
        let legs = self.by_call_id.entry(new.call_id.as_str().into()).or_default();
        legs.push((new.local_tag.as_str().into(), uid));
    }

    pub(super) fn remove(&mut self, uid: CallUid, leg: &LegRecord) {
        if let Some(legs) = self.by_call_id.get_mut(leg.call_id.as_str()) {
            legs.retain(|(tag, of)| !(*of == uid && **tag == *leg.local_tag));
            if legs.is_empty() {
                self.by_call_id.remove(leg.call_id.as_str());
            }
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_call_id.len()
    }
}
