//! The section `pools`: inner addresses that are handed out to peers (RFC 7296 s2.19).

use std::borrow::Cow;

use ipnet::IpNet;

use super::node::{FromNode, Node};

/// Inner addresses, all of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool(pub IpNet);

impl FromNode for Pool {
    fn expected() -> Cow<'static, str> {
        IpNet::expected()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        IpNet::from_node(node).map(Self)
    }
}
