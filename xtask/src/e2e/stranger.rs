//! Who does not know a node's identity hears nothing from it.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::Case;
use crate::lab::{Lab, files, node};

pub const CASES: &[Case] =
    &[Case { name: "silence", about: "a stranger's datagrams get no answer and do no harm", run: silence }];

/// Lengths that might be something: nothing, headers, handshakes, full packets.
const LENGTHS: &[usize] =
    &[0, 1, 4, 12, 13, 28, 29, 64, 96, 148, 200, 512, 1199, 1200, 1232, 1280, 1452, 1472];
const EACH: usize = 40;
/// How long an answer is waited for. On this link one would take less than a millisecond.
const PATIENCE: Duration = Duration::from_millis(500);

fn silence(lab: &mut Lab, binary: &Path) -> Result<()> {
    let (a, b) = node::pair(lab, binary)?;
    let there = (lab.a().address, 4001);
    lab.b().within(move || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(there)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut random = File::open("/dev/urandom")?;
        for &length in LENGTHS {
            let mut datagram = vec![0; length];
            for round in 0..EACH {
                // Zeros, ones, then noise.
                match round {
                    0 => datagram.fill(0),
                    1 => datagram.fill(0xff),
                    _ => random.read_exact(&mut datagram)?,
                }
                socket.send(&datagram)?;
            }
        }
        let mut answer = [0; 2048];
        match socket.recv(&mut answer) {
            Ok(length) => bail!("a stranger was answered, with {length} bytes"),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
            Err(error) => bail!("a stranger was told something: {error}"),
        }
    })?;
    // A zero-length datagram ends a multishot receive; the node must go on hearing its friend.
    let input = lab.dir().join("input");
    files::random(&input, 4 << 20)?;
    let (_, reference) = a.put(&input)?;
    let out = lab.dir().join("out");
    b.get(&reference, &out)?;
    ensure!(files::sha256(&out)? == files::sha256(&input)?, "the file differs");
    Ok(())
}
