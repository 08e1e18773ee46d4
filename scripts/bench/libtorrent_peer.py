"""libtorrent as a peer of `cargo xtask bench transfer`.

  make FILE TORRENT                            writes a version 1 torrent of one file
  seed TORRENT FOLDER PORT MODE                prints "ready", then serves until it is killed
  leech TORRENT FOLDER PORT MODE HOST PORT     prints "ready"; on SIGUSR1 fetches, prints "done" when every
                                               piece is verified, and "flushed" when it is on disk

MODE is tcp, encrypted (the stream cipher of the protocol, RC4) or utp.
"""

import signal
import sys

import libtorrent as lt


def session(port, mode, seeding):
    settings = lt.high_performance_seed() if seeding else lt.default_settings()
    utp = mode == "utp"
    forced, disabled = int(lt.enc_policy.forced), int(lt.enc_policy.disabled)
    policy = forced if mode == "encrypted" else disabled
    settings.update({
        "listen_interfaces": f"0.0.0.0:{port}",
        "enable_dht": False,
        "enable_lsd": False,
        "enable_upnp": False,
        "enable_natpmp": False,
        "enable_incoming_tcp": not utp,
        "enable_outgoing_tcp": not utp,
        "enable_incoming_utp": utp,
        "enable_outgoing_utp": utp,
        "out_enc_policy": policy,
        "in_enc_policy": policy,
        "allowed_enc_level": int(lt.enc_level.rc4),
        "allow_multiple_connections_per_ip": True,
        "max_out_request_queue": 2000,
        "max_allowed_in_request_queue": 4000,
        "send_buffer_watermark": 8 << 20,
        "send_buffer_low_watermark": 1 << 20,
        "max_queued_disk_bytes": 64 << 20,
        "recv_socket_buffer_size": 4 << 20,
        "send_socket_buffer_size": 4 << 20,
        "alert_mask": int(lt.alert.category_t.status_notification
                          | lt.alert.category_t.storage_notification
                          | lt.alert.category_t.error_notification),
    })
    return lt.session(settings)


def wait(ses, kind):
    while True:
        ses.wait_for_alert(1000)
        for alert in ses.pop_alerts():
            if isinstance(alert, kind):
                return alert
            if isinstance(alert, (lt.listen_failed_alert, lt.torrent_error_alert, lt.file_error_alert)):
                sys.exit(f"libtorrent: {alert.message()}")


def make(path, out):
    storage = lt.file_storage()
    lt.add_files(storage, path)
    torrent = lt.create_torrent(storage, 0, lt.create_torrent.v1_only)
    lt.set_piece_hashes(torrent, path.rsplit("/", 1)[0])
    with open(out, "wb") as file:
        file.write(lt.bencode(torrent.generate()))


def seed(torrent, folder, port, mode):
    ses = session(port, mode, True)
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
    params.save_path = folder
    params.flags = lt.torrent_flags.seed_mode
    ses.add_torrent(params)
    wait(ses, lt.torrent_finished_alert)
    print("ready", flush=True)
    signal.pause()


def leech(torrent, folder, port, mode, host, there):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    ses = session(port, mode, False)
    params = lt.add_torrent_params()
    params.ti = lt.torrent_info(torrent)
    params.save_path = folder
    # Neither paused nor queued: it starts when it is added.
    params.flags = lt.torrent_flags.default_flags & ~(lt.torrent_flags.paused | lt.torrent_flags.auto_managed)
    params.peers = [(host, int(there))]
    print("ready", flush=True)
    signal.sigwait([signal.SIGUSR1])
    handle = ses.add_torrent(params)
    wait(ses, lt.torrent_finished_alert)
    print("done", flush=True)
    handle.flush_cache()
    wait(ses, lt.cache_flushed_alert)
    print("flushed", flush=True)
    signal.pause()


def main():
    commands = {"make": make, "seed": seed, "leech": leech}
    if len(sys.argv) > 1 and sys.argv[1] == "version":
        print(lt.__version__)
    elif len(sys.argv) > 1 and sys.argv[1] in commands:
        commands[sys.argv[1]](*sys.argv[2:])
    else:
        sys.exit(__doc__)


main()
