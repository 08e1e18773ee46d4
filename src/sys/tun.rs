//! TUN queues: IP packets of this host, one descriptor per queue, each packet behind a virtio-net header
//! (`IFF_VNET_HDR`) and, where the kernel can, uncut (TSO, USO).
//!
//! `tun-rs` makes the device or attaches to one that is there, and switches the offloads on. Left to us is what it has
//! no call for: the size of the header, which an earlier owner of a persistent device may have changed.
//! `docs/decisions/0011-tun-rs.md` has the reasons.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use tun_rs::{DeviceBuilder, SyncDevice};

use crate::limits::{DEVICE_NAME_MAX, TUN_HEADER_SIZE};

/// One queue of a TUN device. The device goes with its last queue, unless somebody made it to stay.
pub struct Queue {
    device: SyncDevice,
}

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> RawFd {
        self.device.as_raw_fd()
    }
}

impl Queue {
    /// Whether the kernel hands over and takes UDP superpackets (USO, Linux 6.2), beside those of TCP.
    pub fn udp_segmentation(&self) -> bool {
        self.device.udp_gso()
    }
}

/// Why there is no device, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// Not a name for a network device.
    #[error(
        "{name:?} is no name for a network device: 1 to {DEVICE_NAME_MAX} letters, digits, '-', '_' or '.'"
    )]
    Name {
        /// What was asked for.
        name: String,
    },
    /// No driver.
    #[error(
        "there is no /dev/net/tun: load the driver (as root: modprobe tun), or let the container have it"
    )]
    NoDriver,
    /// Neither the right to make one nor one that was made for us.
    #[error(
        "this user may neither make the network device {name} nor attach to it: run the daemon with \
         CAP_NET_ADMIN, or have systemd-networkd make the device for it (docs/operating.md)"
    )]
    NotPermitted {
        /// The device.
        name: String,
    },
    /// It is there and of another kind.
    #[error(
        "the network device {name} is there and takes no {queues} queue(s): it is no TUN device, or was not made \
         with MultiQueue=yes; choose another name, or remove it (ip link delete {name})"
    )]
    Unfit {
        /// The device.
        name: String,
        /// How many were asked for.
        queues: usize,
    },
    /// Anything else.
    #[error("network device {name}: {what}: {source}")]
    Os {
        /// The device.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Whether the kernel takes this as a device's name; `%` is left out, which it would replace by a number.
pub fn is_device_name(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=DEVICE_NAME_MAX).contains(&name.len()) && name.chars().all(fine) && name != "." && name != ".."
}

/// Makes a TUN device of that name with so many queues, or attaches them to the one that is there. It is neither up
/// nor has it addresses by that.
pub fn open(name: &str, queues: usize) -> Result<Vec<Queue>, TunError> {
    if !is_device_name(name) {
        return Err(TunError::Name { name: name.to_owned() });
    }
    if !std::fs::exists("/dev/net/tun").unwrap_or(true) {
        return Err(TunError::NoDriver); // tun-rs would make the node.
    }
    let explain = |what| {
        move |source: io::Error| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => TunError::NotPermitted { name: name.to_owned() },
            Some(libc::ENODEV | libc::ENXIO | libc::ENOENT) => TunError::NoDriver,
            Some(libc::EINVAL | libc::EBUSY | libc::E2BIG) => {
                TunError::Unfit { name: name.to_owned(), queues }
            }
            _ => TunError::Os { name: name.to_owned(), what, source },
        }
    };
    let first = DeviceBuilder::new()
        .name(name)
        .inherit_enable_state()
        .with(|options| {
            options.multi_queue(true).offload(true);
        })
        .build_sync()
        .map_err(explain("opening its first queue"))?;
    set_header_size(&first).map_err(explain("TUNSETVNETHDRSZ"))?;
    let mut all = Vec::with_capacity(queues);
    for _ in 1..queues {
        all.push(first.try_clone().map_err(explain("opening a further queue"))?);
    }
    all.insert(0, first);
    Ok(all.into_iter().map(|device| Queue { device }).collect())
}

fn set_header_size(device: &SyncDevice) -> io::Result<()> {
    let size = TUN_HEADER_SIZE as libc::c_int;
    // SAFETY: the kernel reads one `int`, which outlives the call, and keeps nothing; the descriptor is the device's.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETVNETHDRSZ as _, &raw const size) };
    nix::Error::result(result).map(drop).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_change_or_refuse_are_refused_before() {
        for good in ["tornet0", "a", "wg-home_1.x"] {
            assert!(is_device_name(good), "{good}");
        }
        for bad in ["", ".", "..", "tun%d", "a/b", "a b", "sixteen-letters-", "tün"] {
            assert!(!is_device_name(bad), "{bad}");
            assert!(matches!(open(bad, 1), Err(TunError::Name { .. })), "{bad}");
        }
    }
}
