//! Workers over memory ports: two gateways on one thread, time under control.

mod links;
mod support;
mod tunnel;
