//! Clients' connections through the cluster.

use std::num::NonZeroU16;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::{self, ECHO_PORT, service_name};
use crate::{ErrorKind, Tuning};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let mut stream = nodes[0].cluster.forward(nodes[1].id(), service_name("echo"), ECHO_PORT).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello", "it comes back while the stream is open");
    stream.shutdown().await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "5 bytes", "the other way is still open");
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn much_data_both_ways_at_once() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let stream = nodes[0].cluster.forward(nodes[1].id(), service_name("echo"), ECHO_PORT).await.unwrap();
    let sent = harness::noise(1, 6 << 20);
    let (mut read, mut write) = tokio::io::split(stream);
    let writing = async {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut came = Vec::new();
    let reading = async { read.read_to_end(&mut came).await.unwrap() };
    tokio::join!(writing, reading);
    let tail = format!("{} bytes", sent.len());
    assert!(came.strip_suffix(tail.as_bytes()) == Some(&sent[..]));
    harness::stop(&nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_says_why_and_a_broken_stream_is_no_clean_end() {
    let nodes = harness::start(2, &Tuning::default()).await;
    let error = nodes[0].cluster.forward(nodes[1].id(), service_name("shop"), ECHO_PORT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("shop does not run here"), "{error}");
    let error =
        nodes[0].cluster.forward(nodes[1].id(), service_name("echo"), NonZeroU16::MIN).await.unwrap_err();
    assert!(error.to_string().contains("echo has no port 1"), "{error}");

    let mut stream = nodes[0].cluster.forward(nodes[1].id(), service_name("echo"), ECHO_PORT).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.read_exact(&mut [0; 5]).await.unwrap();
    nodes[1].cluster.shutdown().await;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap_err();
    let error = nodes[0].cluster.forward(nodes[1].id(), service_name("echo"), ECHO_PORT).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    harness::stop(&nodes).await;
}
