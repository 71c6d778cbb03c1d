//! MQTT over QUIC, with a client that does not use quinn.

use crate::support::daemon::free_port;
use crate::support::tls::Authority;
use crate::support::{Gatepost, python, python_over_quic};
use std::fs;

/// A daemon with a QUIC listener, and `tls.json` for scripts, which says where.
fn start(authority: &Authority, io_threads: u32, listener: &str, more: &str) -> Gatepost {
    authority.sign("guest", &[], 2);
    let quic = free_port();
    let (cert, key, ca) = (
        authority.path("server.pem"),
        authority.path("server.key"),
        authority.path("ca.pem"),
    );
    let settings = format!(
        "quic_bind = [\"127.0.0.1:{quic}\"]\n{listener}\n[listeners.mqtt_quic.tls]\ncert = {cert:?}\nkey = {key:?}\n\
         client_ca = {ca:?}\nclient_auth = \"optional\"\n{more}"
    );
    let settings = format!("[listeners.mqtt_quic]\nprotocol = \"mqtt\"\n{settings}");
    let gatepost = Gatepost::with(io_threads, &settings);
    let directory = authority.directory();
    let json = format!("{{\"quic\": {quic}, \"directory\": {directory:?}}}");
    fs::write(gatepost.dir.join("tls.json"), json).expect("written");
    gatepost
}

#[test]
fn aioquic_speaks_mqtt() {
    let authority = Authority::new();
    let mut gatepost = start(&authority, 2, "", "[limits]\nhandshake_timeout = \"3s\"\n");
    python(&mut gatepost, "mqtt_quic.py");
    // No connection remains, not even of clients that vanished or never opened a stream.
    let log = gatepost.log();
    assert!(log.contains("no stream within limits.handshake_timeout"), "{log}");
    assert!(
        log.contains("more further streams than limits.quic_further_streams"),
        "{log}"
    );
    gatepost.terminate();
}

#[test]
fn packets_no_client_library_sends_are_answered_over_quic_as_over_tcp() {
    let authority = Authority::new();
    let mut gatepost = start(&authority, 2, "", "[mqtt]\nmax_inflight = 64\n");
    python_over_quic(&mut gatepost, "mqtt_wire.py");
    gatepost.terminate();
}

#[test]
fn handshakes_are_bounded_early_data_is_taken_if_allowed_and_lost_connections_are_told() {
    let authority = Authority::new();
    let limits = "[limits]\nhandshake_timeout = \"3s\"\nquic_retry_over = 4\n";
    let mut gatepost = start(&authority, 1, "quic_early_data = true", limits);
    python(&mut gatepost, "mqtt_quic_flood.py");
    gatepost.terminate();
}

/// The address of a datagram may be forged, so it counts once the handshake is done.
#[test]
fn an_address_that_connects_too_fast_by_quic_is_closed() {
    let authority = Authority::new();
    let limits = "[protection]\nexempt = []\naddress_connections_per_second = 1\naddress_connections_burst = 2\n";
    let mut gatepost = start(&authority, 1, "", limits);
    python(&mut gatepost, "mqtt_quic_rate.py");
    assert!(
        gatepost
            .log()
            .contains("more than protection.address_connections_per_second allows")
    );
    gatepost.terminate();
}

/// Memory of an idle client. The figure is printed; the bound only excludes another order of magnitude.
#[test]
fn an_idle_connection_takes_little_memory() {
    let authority = Authority::new();
    let mut gatepost = start(&authority, 1, "", "");
    python(&mut gatepost, "mqtt_quic_idle.py");
    gatepost.terminate();
}
