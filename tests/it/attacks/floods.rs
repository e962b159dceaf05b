//! Floods of frames that are cheap to send.

use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::support::{
    memory_probe::{MIB, MemoryProbe},
    methods::BIDI_HELLO,
    raw_http2::{
        DATA, ENHANCE_YOUR_CALM, INITIAL_WINDOW_SIZE, PING, PREFACE, RawConnection, SETTINGS, call,
        frame, ping, settings, window_update,
    },
    with_timeout,
};

/// A client that reads the answers may send any number of PINGs.
#[tokio::test]
async fn endless_pings_and_settings_cost_no_memory() {
    const BURSTS: u64 = 100;
    const BURST: u64 = 1000;
    for (kind, asked) in [(PING, ping()), (SETTINGS, settings(&[(3, 100); 4]))] {
        let mut server = MemoryProbe::start().await;
        let mut raw = RawConnection::open(server.program.address).await;
        let before = raw.received().count(kind);
        for _ in 0..BURSTS {
            raw.send(&asked.repeat(BURST as usize)).await.unwrap();
            server.assert_serves().await;
        }
        raw.wait_until(|received| received.count(kind) >= before + BURSTS * BURST)
            .await;
        raw.assert_alive().await;
        server.assert_bounded_growth();
    }
}

/// Unread answers are not queued without bound: the server stops reading, and closes the connection
/// after the write stall timeout.
#[tokio::test]
async fn client_that_never_reads_its_ping_answers_is_closed() {
    for asked in [ping(), settings(&[])] {
        let mut server = MemoryProbe::start_with(&["--write-stall-timeout", "1s"]).await;
        let mut unresponsive = TcpStream::connect(server.program.address).await.unwrap();
        let asked = asked.repeat(1000);
        unresponsive
            .write_all(&[PREFACE, &settings(&[])].concat())
            .await
            .unwrap();
        let flood = async {
            while unresponsive.write_all(&asked).await.is_ok() {
                server.assert_serves().await;
            }
        };
        with_timeout(flood).await;
        server.assert_serves().await;
        server.assert_bounded_growth();
    }
}

/// Opens a call whose replies are blocked by a zero window, so that its handler reads no requests.
async fn open_blocked_call(server: &MemoryProbe) -> RawConnection {
    let mut raw =
        RawConnection::open_with(server.program.address, &[(INITIAL_WINDOW_SIZE, 0)]).await;
    raw.send(&call(1, BIDI_HELLO)).await.unwrap();
    raw.wait_until(|received| received.ok_responses == 1).await;
    raw
}

/// Empty DATA frames are free of flow control.
#[tokio::test]
async fn flood_of_empty_data_frames_is_cut_off() {
    let mut server = MemoryProbe::start().await;
    let mut raw = open_blocked_call(&server).await;
    let received = raw.send_until_closed(|_| frame(DATA, 0, 1, b"")).await;
    received.assert_goaway(ENHANCE_YOUR_CALM, "too_many_data_frames");
    server.assert_serves().await;
    server.assert_bounded_growth();
}

/// Each frame costs the server far more than the one byte that flow control counts.
#[tokio::test]
async fn flood_of_one_byte_data_frames_is_cut_off() {
    let mut server = MemoryProbe::start().await;
    let mut raw = open_blocked_call(&server).await;
    let bytes = frame(DATA, 0, 1, b"\0").repeat(1000);
    let received = raw.send_until_closed(|_| bytes.clone()).await;
    received.assert_goaway(ENHANCE_YOUR_CALM, "too_many_data_frames");
    server.assert_serves().await;
    server.assert_growth_below(128 * MIB);
}

#[tokio::test]
async fn flood_of_small_window_updates_costs_no_memory() {
    let mut server = MemoryProbe::start().await;
    let mut raw = open_blocked_call(&server).await;
    let bits = [window_update(0, 1), window_update(1, 1)].concat();
    for _ in 0..300 {
        raw.send(&bits.repeat(1000)).await.unwrap();
        server.assert_serves().await;
    }
    raw.assert_alive().await;
    server.assert_bounded_growth();
}
