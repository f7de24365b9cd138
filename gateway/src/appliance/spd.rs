//! The SPD of the whole gateway. Several may lay claim to the same traffic: a child of the configuration, which holds
//! it back while there is no tunnel, the tunnel that is up, and the one that takes its place. The last claim counts,
//! so that traffic is never without a policy and never in the clear.

use std::collections::HashMap;

use dataplane::message::PolicyUpdate;
use dataplane::policy::{Action, Policy, PolicyId, Selector};
use dataplane::sa::TunnelId;

/// Who claims traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claimant {
    /// The configuration, for as long as the gateway runs.
    Configuration,
    /// A negotiated tunnel, while it is up.
    Tunnel(TunnelId),
}

/// All entries, by what they match.
#[derive(Default)]
pub(super) struct SpdEntries {
    entries: HashMap<Selector, Entry>,
    next: u32,
    free: Vec<PolicyId>,
    changes: u64,
}

struct Entry {
    id: PolicyId,
    /// The last one counts. Never empty.
    claims: Vec<(Claimant, Action)>,
}

impl SpdEntries {
    /// Claims traffic. Returns what the workers must be told.
    pub(super) fn claim(&mut self, selector: &Selector, by: Claimant, action: Action) -> PolicyUpdate {
        self.changes += 1;
        let entry = self.entries.entry(selector.clone()).or_insert_with(|| {
            let id = self.free.pop().unwrap_or_else(|| {
                self.next += 1;
                PolicyId(self.next - 1)
            });
            Entry { id, claims: Vec::with_capacity(1) }
        });
        entry.claims.retain(|(claimant, _)| *claimant != by || by == Claimant::Configuration);
        entry.claims.push((by, action));
        PolicyUpdate::Add(Policy { id: entry.id, selector: selector.clone(), action })
    }

    /// Gives up a claim. Returns what the workers must be told, if anything.
    pub(super) fn release(&mut self, selector: &Selector, by: Claimant) -> Option<PolicyUpdate> {
        let entry = self.entries.get_mut(selector)?;
        let before = entry.claims.last().map(|(_, action)| *action);
        entry.claims.retain(|(claimant, _)| *claimant != by);
        let id = entry.id;
        match entry.claims.last().map(|(_, action)| *action) {
            Some(action) if Some(action) == before => None,
            Some(action) => {
                self.changes += 1;
                Some(PolicyUpdate::Add(Policy { id, selector: selector.clone(), action }))
            }
            None => {
                self.changes += 1;
                self.entries.remove(selector);
                self.free.push(id);
                Some(PolicyUpdate::Remove(id))
            }
        }
    }

    /// What is in force, in no order.
    pub(super) fn policies(&self) -> impl Iterator<Item = Policy> {
        self.entries.iter().filter_map(|(selector, entry)| {
            let (_, action) = *entry.claims.last()?;
            Some(Policy { id: entry.id, selector: selector.clone(), action })
        })
    }

    /// Grows with every change.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: Action = Action::Protect(TunnelId(0));
    const UP: Action = Action::Protect(TunnelId(7));
    const NEXT: Action = Action::Protect(TunnelId(8));

    fn selector(remote: &str) -> Selector {
        Selector::between("10.1.0.0/16".parse().unwrap(), remote.parse().unwrap())
    }

    fn now(spd: &SpdEntries, of: &Selector) -> Option<Action> {
        spd.policies().find(|policy| policy.selector == *of).map(|policy| policy.action)
    }

    fn by(tunnel: u32) -> Claimant {
        Claimant::Tunnel(TunnelId(tunnel))
    }

    #[test]
    fn traffic_goes_from_hold_to_tunnel_to_successor_and_back_to_hold() {
        let (mut spd, lan) = (SpdEntries::default(), selector("10.2.0.0/16"));
        spd.claim(&lan, Claimant::Configuration, HELD);
        spd.claim(&lan, by(7), UP);
        assert_eq!(now(&spd, &lan), Some(UP));
        spd.claim(&lan, by(8), NEXT);
        assert!(spd.release(&lan, by(7)).is_none(), "the successor has it already");
        assert_eq!(now(&spd, &lan), Some(NEXT));
        assert!(matches!(spd.release(&lan, by(8)), Some(PolicyUpdate::Add(policy)) if policy.action == HELD));
        assert!(spd.release(&lan, by(8)).is_none());
    }

    #[test]
    fn what_nobody_claims_is_gone_and_its_number_is_free() {
        let mut spd = SpdEntries::default();
        let (lan, host) = (selector("10.2.0.0/16"), selector("10.2.0.7/32"));
        spd.claim(&lan, Claimant::Configuration, HELD);
        let PolicyUpdate::Add(first) = spd.claim(&host, by(7), UP) else { panic!() };
        let changes = spd.changes();
        assert!(matches!(spd.release(&host, by(7)), Some(PolicyUpdate::Remove(id)) if id == first.id));
        assert!(spd.changes() > changes);
        let PolicyUpdate::Add(again) = spd.claim(&host, by(8), NEXT) else { panic!() };
        assert_eq!(again.id, first.id);
        assert_eq!(now(&spd, &lan), Some(HELD));
    }

    #[test]
    fn the_same_claim_twice_is_one_claim() {
        let (mut spd, lan) = (SpdEntries::default(), selector("10.2.0.0/16"));
        spd.claim(&lan, by(7), UP);
        spd.claim(&lan, by(7), UP);
        assert!(matches!(spd.release(&lan, by(7)), Some(PolicyUpdate::Remove(_))));
    }
}
