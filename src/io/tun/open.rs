//! Opening a TUN device that nobody else has.
//!
//! Attaching takes no exclusive lock: two daemons that name the same device would each get a part of its packets. So the
//! kernel is asked, before and after, how many queues of it are open.

use crate::io::netconf::{Netlink, find};
use crate::sys::tun::{self, Queue, TunError};

/// Why a device was not opened, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another program has it.
    #[error(
        "the network device {0} belongs to another program that runs now, or to another daemon; choose another name"
    )]
    Taken(String),
    /// It is something else.
    #[error("the network device {0} is there and is no TUN device; choose another name")]
    NotTun(String),
    /// The kernel could not be asked.
    #[error("asking the kernel for its network devices: {0}")]
    Ask(#[source] std::io::Error),
    /// It could not be made or attached to.
    #[error(transparent)]
    Tun(#[from] TunError),
}

/// Makes a TUN device with one queue per shard, or attaches to the one of that name that waits for its owner.
pub fn open(name: &str, queues: usize) -> Result<Vec<Queue>, OpenError> {
    let taken = || OpenError::Taken(name.to_owned());
    let mut netlink = Netlink::open().map_err(OpenError::Ask)?;
    if let Some(device) = find(&mut netlink, name).map_err(OpenError::Ask)? {
        if !device.tun {
            return Err(OpenError::NotTun(name.to_owned()));
        }
        if device.queues.is_some_and(|open| open > 0) {
            return Err(taken());
        }
    }
    let opened = tun::open(name, queues)?;
    let device = find(&mut netlink, name).map_err(OpenError::Ask)?.ok_or_else(taken)?;
    if device.queues.is_some_and(|open| open as usize != queues) {
        return Err(taken());
    }
    Ok(opened)
}
