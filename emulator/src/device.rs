//! A TUN device in another network namespace.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use tun_rs::{DeviceBuilder, Layer, SyncDevice};

/// Longest packet that the kernel hands over, bytes: Ethernet's.
const DEVICE_MTU: u16 = 1500;
/// Packets that the kernel keeps for us while we are busy; more are lost, and counted by the device.
const DEVICE_QUEUE: u32 = 8192;

/// Where one end of a link lies: `NAME@NAMESPACE/DEVICE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What control lines call it.
    pub name: String,
    /// As in `ip netns`.
    pub namespace: String,
    /// The device's name there.
    pub device: String,
}

impl FromStr for Place {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('@').and_then(|(name, rest)| Some((name, rest.split_once('/')?)));
        let Some((name, (namespace, device))) = parts else { bail!("{text:?} is not NAME@NAMESPACE/DEVICE") };
        for word in [name, namespace, device] {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
            ensure!(!word.is_empty() && word.chars().all(plain), "{word:?} in {text:?} is no name");
        }
        ensure!(!name.contains('-'), "{name:?}: a dash stands between names");
        Ok(Self { name: name.into(), namespace: namespace.into(), device: device.into() })
    }
}

/// One end of a link. Gone when dropped.
pub struct Device(SyncDevice);

impl Device {
    /// Makes the device in its namespace, up and without an address.
    pub fn make(place: &Place) -> Result<Self> {
        let path = PathBuf::from("/run/netns").join(&place.namespace);
        let namespace = File::open(&path).with_context(|| path.display().to_string())?;
        let name = place.device.clone();
        // The device stays where it was made; the namespace of the thread that made it ends with the thread.
        let maker = std::thread::Builder::new().name("tun".into()).spawn(move || -> Result<SyncDevice> {
            setns(namespace, CloneFlags::CLONE_NEWNET).context("setns")?;
            let builder = DeviceBuilder::new().name(name).mtu(DEVICE_MTU).layer(Layer::L3);
            let device = builder.with(|more| {
                more.tx_queue_len(DEVICE_QUEUE).packet_information(false);
            });
            Ok(device.build_sync()?)
        })?;
        let device = maker.join().map_err(|_| anyhow::anyhow!("making it panicked"))?;
        let device = device.with_context(|| format!("{} in {}", place.device, place.namespace))?;
        device.set_nonblocking(true)?;
        Ok(Self(device))
    }

    /// Reads one packet; `None` when there is none.
    pub fn read(&self, into: &mut [u8]) -> Result<Option<usize>> {
        match self.0.recv(into) {
            Ok(len) => Ok(Some(len)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            // The device is down: nothing comes.
            Err(error) if error.raw_os_error() == Some(nix::libc::EIO) => Ok(None),
            Err(error) => Err(error).context("reading from a TUN device"),
        }
    }

    /// Hands a packet to the kernel; `false` when it would not have it.
    pub fn write(&self, packet: &[u8]) -> bool {
        self.0.send(packet).is_ok()
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let place: Place = "a@tornet-lab-7-0-a/to-b".parse().unwrap();
        assert_eq!((&*place.name, &*place.namespace, &*place.device), ("a", "tornet-lab-7-0-a", "to-b"));
        for bad in ["", "a", "a@n", "a@/d", "a@n/", "@n/d", "a-b@n/d", "a@../n/d", "a@n/d/e"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }
}
