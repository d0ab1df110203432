//! TLS servers on loopback, with certificates of a test authority.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::{CryptoProvider, aws_lc_rs},
        pki_types::PrivateKeyDer,
    },
    server::TlsStream,
};

/// Certificate authority that no one knows, unless a test adds its [`root`](Self::root) to a client.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// Whether a certificate is valid now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    Expired,
    Now,
    NotYet,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub fn root(&self) -> reqwest::Certificate {
        reqwest::Certificate::from_der(self.0.der()).unwrap()
    }

    /// TLS configuration of a client that trusts this authority, and offers these protocols (ALPN).
    pub fn client_config(&self, protocols: &[&str]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|&protocol| protocol.into()).collect();
        config
    }

    /// TLS configuration of a server with a certificate for this name, and with these protocols (ALPN).
    pub fn server_config(&self, name: &str, validity: Validity, protocols: &[&str]) -> ServerConfig {
        let (certificate, key) = self.issue(name, validity);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let config = config.unwrap().with_no_client_auth();
        let mut config = config.with_single_cert(vec![certificate.der().clone()], key).unwrap();
        config.alpn_protocols = protocols.iter().map(|&protocol| protocol.into()).collect();
        config
    }

    pub fn root_pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate for this name, which is valid now, and its key: both as PEM.
    pub fn issue_pem(&self, name: &str) -> (String, String) {
        let (certificate, key) = self.issue(name, Validity::Now);
        (certificate.pem(), key.serialize_pem())
    }

    fn issue(&self, name: &str, validity: Validity) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        let day = Duration::from_secs(86_400);
        let now = std::time::SystemTime::now();
        let (from, to) = match validity {
            Validity::Expired => (now - 2 * day, now - day),
            Validity::Now => (now - day, now + day),
            Validity::NotYet => (now + day, now + 2 * day),
        };
        (params.not_before, params.not_after) = (from.into(), to.into());
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap(), key)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// TLS server on loopback.
pub struct TlsServer {
    pub address: SocketAddr,
}

impl TlsServer {
    /// Passes each connection to the handler, once the handshake is complete.
    pub async fn start<F, Fut>(config: ServerConfig, handler: F) -> Self
    where
        F: Fn(TlsStream<TcpStream>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let handler = Arc::new(handler);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, handler) = (acceptor.clone(), handler.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        handler(stream).await;
                    }
                });
            }
        });
        Self { address }
    }

    /// Sends these bytes in response to the first bytes of every connection, then closes it.
    pub async fn responding(config: ServerConfig, response: impl Into<Vec<u8>>) -> Self {
        let response = Arc::new(response.into());
        Self::start(config, move |mut stream| {
            let response = response.clone();
            async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(&response).await;
                let _ = stream.shutdown().await;
            }
        })
        .await
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }
}
