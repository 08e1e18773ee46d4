//! One QUIC stream from memory to memory by quinn, as its own bulk test does it: what `plane stream` is held
//! against.
//!
//! ```text
//! quinn-stream END CORE SECONDS CERTIFICATE [tuned]
//! ```
//! END is `at ADDRESS` to receive, which writes its certificate to the file and prints `ready`, or `to ADDRESS` to
//! send. Prints the same line of JSON as `plane`. `tuned` gives it windows of 16 MiB and large socket buffers
//! instead of its defaults.

use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;
use quinn::{ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

type Fallible<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Time before measuring, seconds.
const WARM: Duration = Duration::from_millis(1000);
static MEMORY: [u8; 1 << 20] = [0xab; 1 << 20];

fn main() -> Fallible<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [end, address, core, seconds, file, rest @ ..] = words.as_slice() else {
        return Err("see the head of benches/quinn/src/main.rs".into());
    };
    let mut cores = CpuSet::new();
    cores.set(core.parse()?)?;
    sched_setaffinity(Pid::from_raw(0), &cores)?;
    let (address, seconds, tuned): (SocketAddr, u64, bool) =
        (address.parse()?, seconds.parse()?, rest.first().is_some_and(|word| word == "tuned"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let moved = Arc::new(AtomicU64::new(0));
    let meter = {
        let moved = Arc::clone(&moved);
        std::thread::spawn(move || -> Fallible<()> {
            measure(seconds, &moved)?;
            std::process::exit(0)
        })
    };
    let ended = runtime.block_on(async {
        match end.as_str() {
            "at" => receive(address, file, tuned, &moved).await,
            _ => send(address, file, tuned, &moved).await,
        }
    });
    drop(meter);
    ended
}

fn transport(tuned: bool) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    if tuned {
        let window = 16u32 << 20;
        transport.stream_receive_window(VarInt::from_u32(window));
        transport.receive_window(VarInt::from_u32(window));
        transport.send_window(u64::from(window));
    }
    Arc::new(transport)
}

fn endpoint(address: SocketAddr, server: Option<ServerConfig>, tuned: bool) -> Fallible<Endpoint> {
    let socket = UdpSocket::bind(address)?;
    if tuned {
        setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20))?;
        setsockopt(&socket, sockopt::SndBufForce, &(8 << 20))?;
    }
    Ok(Endpoint::new(EndpointConfig::default(), server, socket, Arc::new(TokioRuntime))?)
}

async fn receive(address: SocketAddr, file: &str, tuned: bool, moved: &AtomicU64) -> Fallible<()> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    std::fs::write(file, made.cert.der())?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut config = ServerConfig::with_single_cert(vec![made.cert.der().clone()], key.into())?;
    config.transport_config(transport(tuned));
    let endpoint = endpoint(address, Some(config), tuned)?;
    println!("ready");
    let connection = endpoint.accept().await.ok_or("nobody came")?.await?;
    let mut stream = connection.accept_uni().await?;
    let mut chunks: [Bytes; 32] = std::array::from_fn(|_| Bytes::new());
    while let Some(count) = stream.read_chunks(&mut chunks).await? {
        let bytes: usize = chunks[..count].iter().map(Bytes::len).sum();
        moved.fetch_add(bytes as u64, Ordering::Relaxed);
    }
    Ok(())
}

async fn send(address: SocketAddr, file: &str, tuned: bool, moved: &AtomicU64) -> Fallible<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(std::fs::read(file)?))?;
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots))?;
    config.transport_config(transport(tuned));
    let endpoint = endpoint("0.0.0.0:0".parse()?, None, tuned)?;
    let connection = endpoint.connect_with(config, address, "localhost")?.await?;
    let mut stream = connection.open_uni().await?;
    loop {
        stream.write_chunk(Bytes::from_static(&MEMORY)).await?;
        moved.fetch_add(MEMORY.len() as u64, Ordering::Relaxed);
    }
}

fn cpu() -> Fallible<[f64; 2]> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.num_microseconds() as f64 / 1e6;
    Ok([seconds(usage.user_time()), seconds(usage.system_time())])
}

fn measure(seconds: u64, moved: &AtomicU64) -> Fallible<()> {
    while moved.load(Ordering::Relaxed) == 0 {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(WARM);
    let (began, before, bytes) = (Instant::now(), cpu()?, moved.load(Ordering::Relaxed));
    std::thread::sleep(Duration::from_secs(seconds));
    let after = cpu()?;
    let line = serde_json::json!({
        "part": "quinn",
        "seconds": began.elapsed().as_secs_f64(),
        "bytes": moved.load(Ordering::Relaxed) - bytes,
        "user": after[0] - before[0],
        "system": after[1] - before[1],
    });
    println!("{line}");
    Ok(())
}
