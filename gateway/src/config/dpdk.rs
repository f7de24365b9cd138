//! The section `dpdk`: what all ports of that driver share.

use std::borrow::Cow;

use super::node::{FromNode, Keyword, Node};
use super::units::Bytes;

/// The section `dpdk`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dpdk {
    /// Where packets are.
    pub huge_pages: HugePages,
    /// Bytes that DPDK takes for packets.
    pub memory: u64,
    /// More arguments for EAL.
    pub eal: Vec<String>,
}

impl Default for Dpdk {
    fn default() -> Self {
        Self { huge_pages: HugePages::default(), memory: 512 << 20, eal: Vec::new() }
    }
}

/// Whether packets are in huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// In whatever sizes the machine has; too few are an error.
    #[default]
    Auto,
    /// In ordinary ones: slower, and not for NICs without an IOMMU.
    None,
}

impl Keyword for HugePages {
    const KEYWORDS: &'static [(&'static str, Self)] = &[("auto", Self::Auto), ("none", Self::None)];
}

/// The least memory that a port starts with.
const MEMORY_MIN: u64 = 16 << 20;

impl FromNode for Dpdk {
    fn expected() -> Cow<'static, str> {
        "a mapping".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let default = Self::default();
        let mut fields = node.fields()?;
        let huge_pages = fields.optional("huge_pages").unwrap_or_default();
        let memory = fields.optional("memory").map_or(default.memory, |Bytes(memory)| memory);
        if memory < MEMORY_MIN {
            fields.error::<()>("memory", "expected 16MiB or more");
        }
        let eal = fields.optional("eal").unwrap_or_default();
        let eal: Vec<_> = Vec::into_iter(eal).map(|Argument(argument)| argument).collect();
        fields.finish();
        Some(Self { huge_pages, memory, eal })
    }
}

/// One word of EAL's command line.
struct Argument(String);

impl FromNode for Argument {
    fn expected() -> Cow<'static, str> {
        "one argument of EAL without blanks, such as --log-level=lib.eal:8".into()
    }

    fn from_node(node: Node<'_>) -> Option<Self> {
        let argument = String::from_node(node)?;
        if argument.is_empty() || argument.contains(char::is_whitespace) {
            return node.unexpected(&Self::expected());
        }
        Some(Self(argument))
    }
}
