//! What the machine can do at most: one QUIC stream between two processes, with the settings that nodes use.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn::{ClientConfig, Endpoint, ServerConfig, TransportConfig, VarInt};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sustain_gossip::limits;

use crate::Outcome;

const NAME: &str = "localhost";

/// Writes bytes that can't be compressed.
pub(crate) fn write_noise(path: &Path, bytes: u64) -> Outcome<()> {
    let mut noise = blake3::Hasher::new().update(b"packs").finalize_xof();
    let mut file = File::create(path)?;
    let mut block = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let part = left.min(1 << 20) as usize;
        noise.fill(&mut block[..part]);
        file.write_all(&block[..part])?;
        left -= part as u64;
    }
    Ok(())
}

fn transport() -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(limits::STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(limits::DATA_WINDOW_BYTES))
        .send_window(u64::from(limits::DATA_WINDOW_BYTES));
    Arc::new(transport)
}

fn runtime() -> Outcome<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// The other process: prints its port and certificate, and sends the file to whoever opens a stream.
pub(crate) fn serve(mut args: impl Iterator<Item = String>) -> Outcome<()> {
    let path = args.next().ok_or("which file?")?;
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    let mut config = ServerConfig::with_single_cert(vec![certificate.clone()], key)?;
    config.transport_config(transport());
    runtime()?.block_on(async {
        let endpoint = Endpoint::server(config, "127.0.0.1:0".parse()?)?;
        let hex: String = certificate.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("{} {hex}", endpoint.local_addr()?);
        let connection = endpoint.accept().await.ok_or("nobody came")?.await?;
        let (mut send, _receive) = connection.accept_bi().await?;
        let mut file = File::open(path)?;
        let mut block = vec![0; limits::PACK_BUFFER_BYTES];
        loop {
            let read = std::io::Read::read(&mut file, &mut block)?;
            if read == 0 {
                break;
            }
            send.write_all(&block[..read]).await?;
        }
        send.finish()?;
        connection.closed().await;
        Ok(())
    })
}

/// How long a stream of the file's bytes takes.
pub(crate) fn quinn(path: &Path) -> Outcome<Duration> {
    let mut child =
        Command::new(std::env::current_exe()?).arg("quinn-serve").arg(path).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no output")?).read_line(&mut line)?;
    let (address, hex) = line.trim().split_once(' ').ok_or("the other process did not start")?;
    let der: Vec<u8> = hex
        .as_bytes()
        .chunks(2)
        .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
        .collect::<Outcome<_>>()?;
    let took = runtime()?.block_on(receive(address.parse()?, der, fs::metadata(path)?.len()));
    let _ = child.kill();
    let _ = child.wait();
    took
}

async fn receive(address: SocketAddr, der: Vec<u8>, bytes: u64) -> Outcome<Duration> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(der))?;
    let mut config = ClientConfig::with_root_certificates(Arc::new(roots))?;
    config.transport_config(transport());
    let endpoint = Endpoint::client("127.0.0.1:0".parse()?)?;
    let started = Instant::now();
    let connection = endpoint.connect_with(config, address, NAME)?.await?;
    let (mut send, mut stream) = connection.open_bi().await?;
    send.write_all(b"go").await?;
    let mut came = 0;
    let mut block = vec![0; limits::PACK_BUFFER_BYTES];
    while let Some(read) = stream.read(&mut block).await? {
        came += read as u64;
    }
    let took = started.elapsed();
    connection.close(VarInt::from_u32(0), b"done");
    if came == bytes { Ok(took) } else { Err("the stream came short".into()) }
}
