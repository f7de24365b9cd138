//! Workers over memory ports: two gateways on one thread, time under control.

mod acquire;
mod ah;
mod clear;
mod headers;
mod hub;
mod inbound;
mod lifetime;
mod links;
mod local;
mod mtu;
mod nat;
mod outbound;
mod properties;
mod rekey;
mod support;
mod tunnel;
mod usual;
