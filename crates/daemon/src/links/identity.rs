//! Who a node is on the wire: one Ed25519 key, shown as a raw public key (RFC 7250).
//!
//! A node's id *is* its public key, so there is nothing to certify: TLS proves that the other side
//! holds the secret half of the key it shows, and [`peer`] reads the id from it. Whether that id
//! may do anything is decided afterwards, by the list of members. The same `KeyProof` verifies
//! both directions.

use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{AlwaysResolvesClientRawPublicKeys, Resumption};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring as provider};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use std::fmt;
use std::sync::Arc;
use wire::NodeId;

/// The DER of a SubjectPublicKeyInfo that holds an Ed25519 key, up to the 32 bytes of the key
/// (RFC 8410, section 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];

/// A node key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The system gave no randomness.
    #[error("no key could be made: the system's random source failed")]
    Random,
    /// The stored key is not one.
    #[error("the node key is damaged (expected an Ed25519 key in PKCS#8 form)")]
    Damaged,
    /// TLS refused the configuration.
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] Error),
}

/// A node's key and what TLS makes of it.
#[derive(Clone)]
pub struct Identity {
    node: NodeId,
    /// To accept with.
    pub server: Arc<ServerConfig>,
    /// To dial with.
    pub client: Arc<ClientConfig>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.node)
    }
}

/// Makes a new secret key, as PKCS#8 DER.
pub fn generate() -> Result<Vec<u8>, IdentityError> {
    let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
    Ok(document
        .map_err(|_| IdentityError::Random)?
        .as_ref()
        .to_vec())
}

impl Identity {
    /// Sets TLS up for a secret key in PKCS#8 DER.
    pub fn new(pkcs8: &[u8]) -> Result<Identity, IdentityError> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| IdentityError::Damaged)?;
        let public = pair.public_key().as_ref();
        let node = NodeId(public.try_into().map_err(|_| IdentityError::Damaged)?);

        let provider = Arc::new(provider::default_provider());
        let key = provider::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8))?;
        let shown = Arc::new(CertifiedKey::new(vec![spki(node).into()], key));
        let proof = Arc::new(KeyProof::new(&provider));

        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(proof.clone())
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                shown.clone(),
            )));
        // Links live long; resumption would only add state that authenticates.
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(proof)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(shown)));
        client.resumption = Resumption::disabled();
        client.enable_sni = false;
        Ok(Identity {
            node,
            server: Arc::new(server),
            client: Arc::new(client),
        })
    }

    /// The node's id.
    pub fn node(&self) -> NodeId {
        self.node
    }
}

/// The id of the other side of a finished handshake, from the key it has shown and proved.
pub fn peer(shown: Option<&[CertificateDer<'_>]>) -> Option<NodeId> {
    match shown {
        Some([key]) => node_of(key),
        _ => None,
    }
}

fn spki(node: NodeId) -> Vec<u8> {
    [&SPKI_PREFIX[..], &node.0[..]].concat()
}

fn node_of(spki: &[u8]) -> Option<NodeId> {
    let key = spki.strip_prefix(&SPKI_PREFIX)?;
    key.try_into().ok().map(NodeId)
}

/// Accepts every well-formed Ed25519 key whose holder signs the handshake with it.
#[derive(Debug)]
struct KeyProof(WebPkiSupportedAlgorithms);

impl KeyProof {
    fn new(provider: &CryptoProvider) -> KeyProof {
        KeyProof(provider.signature_verification_algorithms)
    }

    fn form(&self, key: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), Error> {
        match node_of(key) {
            Some(_) if more.is_empty() => Ok(()),
            _ => Err(CertificateError::BadEncoding.into()),
        }
    }

    fn signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        rustls::crypto::verify_tls13_signature_with_raw_key(message, &key, signature, &self.0)
    }
}

const TLS12: Error = Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered);

impl ServerCertVerifier for KeyProof {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.form(end_entity, intermediates)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for KeyProof {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.form(end_entity, intermediates)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(TLS12)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    fn identity() -> Identity {
        Identity::new(&generate().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn both_sides_learn_the_id_of_the_other() {
        let (a, b) = (identity(), identity());
        let (near, far) = tokio::io::duplex(1 << 16);
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let dial = TlsConnector::from(a.client.clone()).connect(name, near);
        let accept = TlsAcceptor::from(b.server.clone()).accept(far);
        let (dialled, accepted) = tokio::join!(dial, accept);
        let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
        assert_eq!(peer(dialled.get_ref().1.peer_certificates()), Some(b.node));
        assert_eq!(peer(accepted.get_ref().1.peer_certificates()), Some(a.node));
    }

    #[tokio::test]
    async fn who_shows_a_key_without_its_secret_half_is_refused() {
        // A impersonates B: shows B's public key, signs with its own.
        let (b, server) = (identity(), identity());
        let secret = generate().unwrap();
        let key = provider::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(&secret[..])).unwrap();
        let shown = Arc::new(CertifiedKey::new(vec![spki(b.node).into()], key));
        let mut client = (*b.client).clone();
        client.client_auth_cert_resolver = Arc::new(AlwaysResolvesClientRawPublicKeys::new(shown));
        let (near, far) = tokio::io::duplex(1 << 16);
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let dial = TlsConnector::from(Arc::new(client)).connect(name, near);
        let accept = TlsAcceptor::from(server.server.clone()).accept(far);
        let (_, accepted) = tokio::join!(dial, accept);
        assert!(accepted.is_err());
    }

    #[test]
    fn a_damaged_key_is_refused() {
        let mut key = generate().unwrap();
        key.truncate(40);
        assert!(matches!(Identity::new(&key), Err(IdentityError::Damaged)));
    }

    #[test]
    fn the_secret_is_not_printed() {
        let secret = generate().unwrap();
        let identity = Identity::new(&secret).unwrap();
        assert_eq!(
            format!("{identity:?}"),
            format!("Identity({})", identity.node())
        );
    }
}
