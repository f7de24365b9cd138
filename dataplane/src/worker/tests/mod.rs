//! Workers over memory ports: two gateways on one thread, time under control.

mod support;
mod tunnel;
