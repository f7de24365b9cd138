//! With the feature `libdpdk`: finds the system's DPDK, compiles the shim and makes the bindings.

#[cfg(not(feature = "libdpdk"))]
fn main() {}

#[cfg(feature = "libdpdk")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    system::build()
}

#[cfg(feature = "libdpdk")]
mod system {
    use std::env;
    use std::error::Error;
    use std::path::PathBuf;
    use std::process::Command;

    /// The oldest release with the names that are bound here.
    const OLDEST: &str = "22.11";

    /// What is linked. Drivers are plug-ins that EAL loads when it starts.
    const LIBRARIES: &[&str] = &["rte_eal", "rte_ethdev", "rte_mbuf", "rte_mempool"];

    const FUNCTIONS: &[&str] = &[
        "_rte_.*",
        "capsule_ffi_.*",
        "rte_eal_(init|cleanup)",
        "rte_eth_allmulticast_(enable|disable)",
        "rte_eth_dev_(adjust_nb_rx_tx_desc|close|configure|get_mtu|get_port_by_name|info_get|set_mtu|socket_id|start|stop)",
        "rte_eth_macaddr_get",
        "rte_eth_promiscuous_(enable|disable)",
        "rte_eth_(rx|tx)_queue_setup",
        "rte_eth_stats_get",
        "rte_mempool_(free|in_use_count|avail_count)",
        "rte_pktmbuf_pool_create",
        "rte_socket_(id|count|id_by_idx)",
        "rte_strerror",
        "rte_thread_(set_affinity|register|unregister)",
    ];

    pub fn build() -> Result<(), Box<dyn Error>> {
        for file in ["build.rs", "src/shim.c", "src/shim.h"] {
            println!("cargo::rerun-if-changed={file}");
        }
        println!("cargo::rerun-if-env-changed=PKG_CONFIG_PATH");
        pkg_config(&["--atleast-version", OLDEST]).map_err(|_| {
            format!(
                "libdpdk {OLDEST} or newer is not installed: `apt-get install libdpdk-dev clang`, or build \
                 without the feature `dpdk`"
            )
        })?;
        let flags = pkg_config(&["--cflags"])?;
        let flags: Vec<&str> = flags.split_ascii_whitespace().collect();

        let mut shim = cc::Build::new();
        for flag in &flags {
            shim.flag(flag);
        }
        // DPDK's own headers are not free of warnings.
        shim.file("src/shim.c")
            .define("_GNU_SOURCE", None)
            .warnings(false)
            .try_compile("capsule_ffi_shim")?;

        let mut bindings = bindgen::Builder::default()
            .header("src/shim.h")
            .clang_args(&flags)
            .clang_arg("-D_GNU_SOURCE")
            .rust_edition(bindgen::RustEdition::Edition2024)
            .allowlist_type(
                "rte_eth_(conf|dev_info|stats|rx_mq_mode|rxconf|txconf)|rte_flow|rte_ether_addr|rte_cpuset_t|rte_mempool",
            )
            .allowlist_var("CAPSULE_.*|RTE_EAL_PMD_PATH")
            .generate_cstr(true)
            // Ours, because its fields are in anonymous structs in newer releases; shim.c checks its layout.
            .blocklist_type("rte_mbuf")
            .raw_line("use crate::mbuf::rte_mbuf;")
            .default_enum_style(bindgen::EnumVariation::ModuleConsts)
            .derive_default(true)
            .generate_comments(false)
            .layout_tests(false);
        for function in FUNCTIONS {
            bindings = bindings.allowlist_function(function);
        }
        let out = PathBuf::from(env::var("OUT_DIR")?).join("bindings.rs");
        bindings.generate()?.write_to_file(out)?;

        for flag in pkg_config(&["--libs-only-L"])?.split_ascii_whitespace() {
            println!("cargo::rustc-link-search=native={}", flag.trim_start_matches("-L"));
        }
        for library in LIBRARIES {
            println!("cargo::rustc-link-lib=dylib={library}");
        }
        Ok(())
    }

    fn pkg_config(arguments: &[&str]) -> Result<String, Box<dyn Error>> {
        let program = env::var("PKG_CONFIG").unwrap_or_else(|_| "pkg-config".into());
        let output = Command::new(&program).args(arguments).arg("libdpdk").output()?;
        if !output.status.success() {
            return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}
