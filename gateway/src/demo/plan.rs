//! Who is where. Outer addresses are of the ranges for documentation (RFC 5737), inner ones private.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::Serialize;

/// The interface of a host, which its gateway's `LAN` is cabled to.
pub(super) const HOST: &str = "eth0";
/// A gateway's interface to its host.
pub(super) const LAN: &str = "lan";
/// A gateway's interface to the attacker.
pub(super) const WAN: &str = "wan";

/// One side of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Side {
    Left,
    Right,
}

impl Side {
    /// Both of them.
    pub(super) const ALL: [Self; 2] = [Self::Left, Self::Right];

    /// Its name. It is also that of the attacker's interface on this side.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Right => "right",
        }
    }

    /// The other side.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Left => Self::Right,
            Self::Right => Self::Left,
        }
    }

    /// The gateway's address towards the other gateway.
    pub(super) const fn wan(self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::new(198, 51, 100, self.number()), 24)
    }

    /// The gateway's address towards its host.
    pub(super) const fn lan(self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::new(10, self.number(), 0, 1), 24)
    }

    /// The host's address.
    pub(super) const fn host(self) -> Ipv4Net {
        Ipv4Net::new_assert(Ipv4Addr::new(10, self.number(), 0, 2), 24)
    }

    const fn number(self) -> u8 {
        match self {
            Self::Left => 1,
            Self::Right => 2,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The plan, for people.
pub(super) fn drawing() -> String {
    let [left, right] = Side::ALL;
    format!(
        "Two gateways, two hosts and an attacker between the gateways, each in a network namespace of its own:\n\n  \
         host left ---- gateway left ---- attacker ---- gateway right ---- host right\n  \
         {:<15}{:<33}{:<19}{}\n",
        left.host().addr(),
        left.wan().addr(),
        right.wan().addr(),
        right.host().addr(),
    )
}
