//! The appliance from outside: configurations, command line, control socket, metrics.
//!
//! One program, so that it is linked once. `#[cfg(test)]` lets helpers fail by `unwrap`, as tests do.

#[cfg(test)]
mod bad_configs;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod control;
#[cfg(test)]
mod dpdk_host;
#[cfg(test)]
mod files;
#[cfg(test)]
mod fixed;
#[cfg(test)]
mod good_configs;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod pcap;
