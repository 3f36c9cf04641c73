//! Encryption towards a server whose certificate is of X.509 version 1, as many guides have people make it.
//!
//! `sslmode=prefer` and `require` encrypt and believe any certificate. The TLS library of our PostgreSQL library believes
//! any, too, but wants to read it first, and reads version 3 alone. So here the encryption is ours: connections are made
//! without it to a port of this machine, and handed on encrypted. Whoever else on this machine connects to that port gains
//! no more than by connecting to the server: a user and a password are asked for as ever.

use std::{io, net::Ipv4Addr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy, split},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// What a client sends to have the connection encrypted: a length of eight bytes, and the code 80877103.
const WANTS_TLS: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// How long no connection is taken when one could not be, for want of files perhaps.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes connections until it is dropped. Those that it took stay.
#[derive(Debug)]
pub(super) struct Relay {
    port: u16,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// A relay to this server, which may take so long for the handshake.
    pub(super) async fn start(host: String, port: u16, patience: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let own_port = listener.local_addr()?.port();
        let tls = TlsConnector::from(Arc::new(config()?));
        let accepting = tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((client, _)) => drop(tokio::spawn(hand_on(client, host.clone(), port, tls.clone(), patience))),
                    Err(error) => {
                        tracing::warn!(%error, "a connection to the database was not taken");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        });
        Ok(Self { port: own_port, accepting })
    }

    /// Where it listens, on the loopback address.
    pub(super) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// The client notices a failure as a connection that ends. When one side ends, so does the other: a server that stands
/// still must not keep what its clients have given up.
async fn hand_on(mut client: TcpStream, host: String, port: u16, tls: TlsConnector, patience: Duration) {
    let handed_on = async {
        client.set_nodelay(true)?;
        let server = tokio::time::timeout(patience, encrypted(&host, port, &tls)).await??;
        let ((mut from_server, mut to_server), (mut from_client, mut to_client)) = (split(server), client.split());
        tokio::select! {
            sent = copy(&mut from_client, &mut to_server) => sent,
            received = copy(&mut from_server, &mut to_client) => received,
        }
    };
    if let Err(error) = handed_on.await {
        tracing::debug!(host, %error, "an encrypted connection to the database ended");
    }
}

async fn encrypted(host: &str, port: u16, tls: &TlsConnector) -> io::Result<TlsStream<TcpStream>> {
    let mut server = TcpStream::connect((host, port)).await?;
    server.set_nodelay(true)?;
    server.write_all(&WANTS_TLS).await?;
    if server.read_u8().await? != b'S' {
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "the server does not encrypt"));
    }
    tls.connect(ServerName::try_from(host.to_owned()).map_err(io::Error::other)?, server).await
}

fn config() -> io::Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Unread { provider: Arc::clone(&provider) });
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

/// Believes any certificate, and so need not see its owner's signature either: anybody can sign by a certificate of their
/// own.
#[derive(Debug)]
struct Unread {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Unread {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_does_not_answer_or_does_not_encrypt_is_given_up() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = server.local_addr().unwrap().port();
        let relay = Relay::start("localhost".into(), port, Duration::from_millis(50)).await.unwrap();
        let connect = async || TcpStream::connect((Ipv4Addr::LOCALHOST, relay.port())).await.unwrap();

        let mut client = connect().await;
        let (mut silent, _) = server.accept().await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
        let mut asked = vec![];
        silent.read_to_end(&mut asked).await.unwrap();
        assert_eq!(asked, WANTS_TLS);

        let mut client = connect().await;
        let (mut plain, _) = server.accept().await.unwrap();
        plain.write_all(b"N").await.unwrap();
        assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    }
}
