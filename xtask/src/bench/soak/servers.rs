//! What the applications of a soak talk to, on one host at one address.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::flows::{FRAME, FRAMES_PER_SECOND};
use crate::bench::program;
use crate::lab::{Host, Process, node};
use crate::stop;

/// nginx with HTTP/1.1, and with HTTP/2 alone.
pub const PAGES: [u16; 2] = [4080, 4081];
/// Says everything back, for as long as a connection lives.
pub const SHELL: u16 = 4082;
/// Sends frames to whoever asked within the last seconds.
pub const VIDEO: u16 = 4083;
/// Answers questions for names.
pub const NAMES: u16 = 53;
/// What nginx gives.
pub const PAGE: usize = 2_000_000;
/// For how long a spectator that says nothing more is sent frames.
const SPECTATOR: Duration = Duration::from_secs(5);

/// nginx is there, or is installed.
pub fn nginx() -> Result<()> {
    program("nginx", "nginx-light").map(drop)
}

/// Starts all of them.
pub fn start(host: &Host, address: Ipv4Addr, dir: &Path) -> Result<()> {
    pages(host, address, dir)?;
    host.answer_at((address.into(), SHELL), |mut stream| {
        let mut bytes = [0; 4096];
        let _ = stream.set_nodelay(true);
        while let Ok(len @ 1..) = stream.read(&mut bytes) {
            if stream.write_all(&bytes[..len]).is_err() {
                break;
            }
        }
    })?;
    names(host, address)?;
    video(host, address)
}

fn pages(host: &Host, address: Ipv4Addr, dir: &Path) -> Result<()> {
    let label = format!("nginx-{}", host.name);
    let dir = dir.join(&label);
    std::fs::create_dir(&dir)?;
    std::fs::write(dir.join("page"), vec![0x5a; PAGE])?;
    let (at, [one, two]) = (dir.display(), PAGES);
    let text = format!(
        "daemon off; master_process off; user root; pid {at}/pid;\n\
         events {{ worker_connections 64; }}\n\
         http {{\n\
         access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n\
         fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n\
         server {{ listen {address}:{one}; root {at}; }}\n\
         server {{ listen {address}:{two} http2; root {at}; }}\n\
         }}\n"
    );
    let config = dir.join("nginx.conf");
    std::fs::write(&config, text)?;
    let mut command = host.command("nginx");
    command.arg("-p").arg(&dir).arg("-e").arg("stderr").arg("-c").arg(&config);
    let mut server = Process::start(&label, &dir, &mut command)?;
    let url = format!("http://{address}:{one}/page");
    let up = stop::until(node::PROMPT, || {
        anyhow::ensure!(!server.ended()?, "nginx ended: {}", server.stderr());
        Ok(host.command("curl").args(["-sfkI", &url, "-o", "/dev/null"]).status()?.success())
    })?;
    anyhow::ensure!(up, "nginx does not answer: {}", server.stderr());
    // It ends with this program.
    std::mem::forget(server);
    Ok(())
}

/// There is one address, whatever the name.
fn names(host: &Host, address: Ipv4Addr) -> Result<()> {
    let socket = host.within(move || Ok(UdpSocket::bind((address, NAMES))?))?;
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((len, from)) = socket.recv_from(&mut question) {
            if len < 17 {
                continue;
            }
            let mut answer = question[..len].to_vec();
            (answer[2], answer[3], answer[7]) = (0x81, 0x80, 1);
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            answer.extend(address.octets());
            let _ = socket.send_to(&answer, from);
        }
    });
    Ok(())
}

/// Numbered frames at a steady rate.
fn video(host: &Host, address: Ipv4Addr) -> Result<()> {
    let socket = host.within(move || Ok(UdpSocket::bind((address, VIDEO))?))?;
    let sender = socket.try_clone()?;
    let (tell, hear) = std::sync::mpsc::channel::<SocketAddr>();
    std::thread::spawn(move || {
        let mut bytes = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut bytes) {
            if tell.send(from).is_err() {
                break;
            }
        }
    });
    std::thread::spawn(move || {
        let (mut spectator, mut frame, mut number) = (None, vec![0x33; FRAME], 0u64);
        let each = Duration::from_secs(1) / FRAMES_PER_SECOND;
        let mut next = Instant::now();
        loop {
            match hear.try_recv() {
                Ok(from) => spectator = Some((from, Instant::now())),
                Err(std::sync::mpsc::TryRecvError::Disconnected) => break,
                Err(std::sync::mpsc::TryRecvError::Empty) => {}
            }
            spectator.take_if(|(_, asked)| asked.elapsed() > SPECTATOR);
            if let Some((to, _)) = spectator {
                frame[..8].copy_from_slice(&number.to_le_bytes());
                number += 1;
                let _ = sender.send_to(&frame, to);
            }
            next += each;
            // After a pause of the machine's it goes on; frames of before are not made up for.
            next = next.max(Instant::now());
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    });
    Ok(())
}
