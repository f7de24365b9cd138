//! Why this machine does not let us make namespaces, and what to do about it.

use std::fs;

use nix::errno::Errno;

/// Says why the kernel refused with `errno` when a user without privileges asked for user, network, mount and PID
/// namespaces.
pub(super) fn explain(errno: Errno) -> String {
    explain_with(errno, |path| fs::read_to_string(path).ok())
}

fn explain_with(errno: Errno, read: impl Fn(&str) -> Option<String>) -> String {
    let sysctl = |name: &str| {
        let value = read(&format!("/proc/sys/{}", name.replace('.', "/")))?;
        value.trim().parse::<u64>().ok()
    };
    let limits = ["user", "net", "mnt", "pid"].map(|kind| format!("user.max_{kind}_namespaces"));
    let zero = limits.iter().find(|name| sysctl(name) == Some(0));
    let allow = |name: &str, value: u8, why: &str| {
        format!("{why}. Run it as root (sudo), or allow it: sysctl -w {name}={value}")
    };
    let reason = if let Some(name) = zero {
        format!("the sysctl {name} is 0. Set it to some thousands, as root: sysctl -w {name}=10000")
    } else if errno == Errno::ENOSPC {
        format!(
            "as many namespaces are in use as the sysctls {} allow. Raise them, as root",
            limits.join(", ")
        )
    } else if sysctl("kernel.unprivileged_userns_clone") == Some(0) {
        let name = "kernel.unprivileged_userns_clone";
        allow(name, 1, &format!("the sysctl {name} is 0, which forbids user namespaces without root"))
    } else if sysctl("kernel.apparmor_restrict_unprivileged_userns").is_some_and(|value| value > 0) {
        let name = "kernel.apparmor_restrict_unprivileged_userns";
        let why =
            format!("AppArmor takes all rights from user namespaces made without root (the sysctl {name})");
        allow(name, 0, &why)
    } else if matches!(errno, Errno::EINVAL | Errno::ENOSYS) {
        "the kernel was built without them (CONFIG_USER_NS, CONFIG_NET_NS). Run it as root (sudo), which needs no \
         user namespace"
            .to_owned()
    } else {
        "a security module, or the seccomp profile of a container, forbids them. Run it as root (sudo) outside of \
         the container, or give the container CAP_SYS_ADMIN and CAP_NET_ADMIN (docker run --privileged)"
            .to_owned()
    };
    format!(
        "the demo needs namespaces of its own (user, network, mount, PID), and may not make them ({}): {reason}",
        errno.desc()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(errno: Errno, sysctls: &[(&str, &str)]) -> String {
        explain_with(errno, |path| {
            sysctls
                .iter()
                .find(|(name, _)| path == format!("/proc/sys/{name}"))
                .map(|(_, v)| format!("{v}\n"))
        })
    }

    #[test]
    fn the_sysctl_that_forbids_it_is_named() {
        for (errno, sysctl, value, expected) in [
            (Errno::ENOSPC, "user/max_user_namespaces", "0", "user.max_user_namespaces is 0"),
            (Errno::ENOSPC, "user/max_net_namespaces", "0", "user.max_net_namespaces is 0"),
            (
                Errno::ENOSPC,
                "user/max_net_namespaces",
                "9",
                "in use as the sysctls user.max_user_namespaces,",
            ),
            (Errno::EPERM, "kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
            (
                Errno::EPERM,
                "kernel/apparmor_restrict_unprivileged_userns",
                "1",
                "kernel.apparmor_restrict_unprivileged_userns=0",
            ),
        ] {
            let text = explained(errno, &[(sysctl, value)]);
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn sysctls_that_allow_it_are_not_blamed() {
        let open = [
            ("user/max_user_namespaces", "9"),
            ("kernel/unprivileged_userns_clone", "1"),
            ("kernel/apparmor_restrict_unprivileged_userns", "0"),
        ];
        let text = explained(Errno::EPERM, &open);
        assert!(text.contains("seccomp") && !text.contains("sysctl"), "{text}");
        let text = explained(Errno::EINVAL, &open);
        assert!(text.contains("CONFIG_USER_NS") && text.contains("as root"), "{text}");
    }
}
