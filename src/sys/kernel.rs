//! What the running kernel must be able to do, checked once at start, each lack with what to do about it.

use std::io;

use io_uring::{IoUring, Probe, opcode};

/// The oldest kernel that this program is built for: Debian 13's.
pub const OLDEST: (u32, u32) = (6, 12);

/// Why this kernel will not do.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// Too old.
    #[error(
        "Linux {found} is too old: tornet needs {}.{} or later (Debian 13 has it); install a newer kernel",
        OLDEST.0,
        OLDEST.1
    )]
    Old {
        /// What `uname -r` says.
        found: String,
    },
    /// io_uring is not to be had.
    #[error("io_uring is not available: {0}")]
    Refused(String),
    /// An operation is missing from io_uring.
    #[error(
        "this kernel's io_uring lacks {0}: install Linux {major}.{minor} or later, or lift the restriction",
        major = OLDEST.0,
        minor = OLDEST.1
    )]
    Lacks(&'static str),
    /// The kernel refused memory or a call.
    #[error("{what}: {source}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Refuses a kernel older than [`OLDEST`].
pub fn check_version() -> Result<(), KernelError> {
    let name = nix::sys::utsname::uname().map_err(|e| KernelError::Os { what: "uname", source: e.into() })?;
    let release = name.release().to_string_lossy();
    match parse_release(&release) {
        Some(version) if version >= OLDEST => Ok(()),
        _ => Err(KernelError::Old { found: release.into_owned() }),
    }
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Says why `io_uring_setup` failed and what to do.
pub(super) fn explain_setup(error: &io::Error) -> KernelError {
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    KernelError::Refused(explain(error, setting.as_deref().map(str::trim)))
}

fn explain(error: &io::Error, setting: Option<&str>) -> String {
    match (error.raw_os_error(), setting) {
        (Some(libc::EPERM), Some("2")) => {
            "it is disabled (kernel.io_uring_disabled = 2); as root: sysctl -w kernel.io_uring_disabled=0"
                .to_owned()
        }
        (Some(libc::EPERM), Some("1")) => {
            "it is reserved (kernel.io_uring_disabled = 1) for root and the group in \
             kernel.io_uring_group; put the daemon's user there, or as root: \
             sysctl -w kernel.io_uring_disabled=0"
                .to_owned()
        }
        (Some(libc::EPERM | libc::EACCES), _) => {
            "a seccomp filter or security module forbids it; in a container, allow io_uring_setup, \
             io_uring_enter and io_uring_register (Docker: --security-opt seccomp=…)"
                .to_owned()
        }
        (Some(libc::ENOSYS), _) => {
            "the kernel was built without it, or a seccomp filter hides it; in a container, allow \
             io_uring_setup, io_uring_enter and io_uring_register"
                .to_owned()
        }
        (Some(libc::ENOMEM), _) => format!(
            "no memory for its queues ({error}); raise the service's LimitMEMLOCK= or MemoryMax= (ulimit -l)"
        ),
        (Some(libc::EMFILE | libc::ENFILE), _) => {
            format!("{error}; raise the service's LimitNOFILE= (ulimit -n)")
        }
        _ => format!("io_uring_setup: {error}"),
    }
}

/// Refuses a ring that lacks an operation that shards use.
pub(super) fn check_operations(ring: &IoUring) -> Result<(), KernelError> {
    let mut probe = Probe::new();
    ring.submitter()
        .register_probe(&mut probe)
        .map_err(|source| KernelError::Os { what: "asking io_uring for its operations", source })?;
    let needed = [
        (opcode::RecvMsgMulti::CODE, "RECVMSG"),
        (opcode::SendMsg::CODE, "SENDMSG"),
        (opcode::Read::CODE, "READ"),
        (opcode::ReadMulti::CODE, "READ_MULTISHOT"),
        (opcode::Write::CODE, "WRITE"),
        (opcode::PollAdd::CODE, "POLL_ADD"),
        (opcode::AsyncCancel::CODE, "ASYNC_CANCEL"),
        (opcode::Madvise::CODE, "MADVISE"),
    ];
    match needed.into_iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, name)) => Err(KernelError::Lacks(name)),
        None if !ring.params().is_feature_ext_arg() => Err(KernelError::Lacks("waiting with a timeout")),
        None if !ring.params().is_feature_nodrop() => Err(KernelError::Lacks("completions without loss")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_releases_of_all_makers() {
        assert_eq!(parse_release("6.12.0"), Some((6, 12)));
        assert_eq!(parse_release("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(parse_release("7.0-rc1"), Some((7, 0)));
        assert!(parse_release("6.8.0-45-generic") < Some(OLDEST));
        assert_eq!(parse_release(""), None);
        assert_eq!(parse_release("Linux"), None);
        check_version().expect("tests run where the program runs");
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let os = io::Error::from_raw_os_error;
        assert!(explain(&os(libc::EPERM), Some("2")).contains("sysctl -w kernel.io_uring_disabled=0"));
        assert!(explain(&os(libc::EPERM), Some("1")).contains("kernel.io_uring_group"));
        assert!(explain(&os(libc::EPERM), Some("0")).contains("seccomp"));
        assert!(explain(&os(libc::ENOSYS), None).contains("seccomp"));
        assert!(explain(&os(libc::ENOMEM), None).contains("LimitMEMLOCK"));
        assert!(explain_setup(&os(libc::EMFILE)).to_string().contains("LimitNOFILE"));
    }
}
