//! Rules by which a NIC steers what it receives.

use std::ffi::c_int;
use std::io;
use std::ptr::null_mut;

use crate::bindings::{self, rte_flow};
use crate::port::{Port, check};

impl Port {
    /// Has the NIC give UDP packets to `udp_port` to one queue, of both IP versions or of none. The port is started.
    ///
    /// # Errors
    /// What the driver says; many have no such rules.
    pub fn steer_udp(self, udp_port: u16, queue: u16) -> io::Result<()> {
        self.rules(|ipv6, rule| {
            // SAFETY: numbers, and a pointer to write to.
            unsafe { bindings::capsule_ffi_steer_udp(self.id(), ipv6, udp_port, queue, rule) }
        })
    }

    /// Has the NIC spread ESP packets over the first `queues` queues by their SPI, of both IP versions or of none. The
    /// port is started.
    ///
    /// # Errors
    /// What the driver says; many have no such rules.
    pub fn spread_esp(self, queues: u16) -> io::Result<()> {
        self.rules(|ipv6, rule| {
            // SAFETY: numbers, and a pointer to write to.
            unsafe { bindings::capsule_ffi_spread_esp(self.id(), ipv6, queues, rule) }
        })
    }

    fn rules(self, make: impl Fn(c_int, *mut *mut rte_flow) -> c_int) -> io::Result<()> {
        let create = |ipv6: bool| {
            let mut rule = null_mut();
            check(make(ipv6.into(), &raw mut rule)).map(|()| rule)
        };
        // SAFETY: a rule of this port that was just made, and is used no more.
        let destroy = |rule| check(unsafe { bindings::capsule_ffi_flow_destroy(self.id(), rule) });
        for_both_versions(create, destroy)
    }
}

/// Makes a rule for IPv4 and one for IPv6, or none: one alone would be in the NIC while nobody says so.
fn for_both_versions<R>(
    create: impl Fn(bool) -> io::Result<R>,
    destroy: impl FnOnce(R) -> io::Result<()>,
) -> io::Result<()> {
    let ipv4 = create(false)?;
    let Err(refused) = create(true) else { return Ok(()) };
    match destroy(ipv4) {
        Ok(()) => Err(refused),
        Err(error) => Err(io::Error::other(format!("for IPv6: {refused}; the rule for IPv4 stays: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[test]
    fn a_rule_for_one_ip_version_alone_is_taken_back() {
        let (refused, stuck) = (Cell::new(None), Cell::new(false));
        let rules = RefCell::new(Vec::new());
        let make = || {
            rules.borrow_mut().clear();
            let create = |ipv6| {
                if refused.get() == Some(ipv6) {
                    return Err(io::Error::from_raw_os_error(95));
                }
                rules.borrow_mut().push(ipv6);
                Ok(ipv6)
            };
            let destroy = |rule| {
                if stuck.get() {
                    return Err(io::Error::from_raw_os_error(16));
                }
                rules.borrow_mut().retain(|&made| made != rule);
                Ok(())
            };
            for_both_versions(create, destroy).map_err(|error| error.to_string())
        };
        assert_eq!((make(), rules.borrow().clone()), (Ok(()), vec![false, true]));
        for version in [false, true] {
            refused.set(Some(version));
            assert!(make().is_err());
            assert_eq!(*rules.borrow(), []);
        }
        stuck.set(true);
        let error = make().unwrap_err();
        assert!(error.contains("the rule for IPv4 stays"), "{error}");
    }
}
