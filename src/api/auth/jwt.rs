//! JSON Web Tokens, verified with ring: the algorithms of jsonwebtoken's own features would add two
//! more crypto providers.

use jiff::Timestamp;
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Validation,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    decode, decode_header,
    errors::{ErrorKind, Result},
    signature::{self, Verifier},
};
use ring::{hmac, signature as rsa};
use serde::Deserialize;

use crate::config::Jwt;

/// Tolerated clock difference, in seconds.
const LEEWAY: i64 = 60;

/// Verifies tokens.
pub(crate) struct Tokens {
    keys: Vec<(DecodingKey, Validation)>,
}

/// The claims that usher uses.
#[derive(Deserialize)]
pub(crate) struct Claims {
    /// Subject of the mail.
    pub(crate) sub: String,
    /// Expiry, in seconds since 1970 (RFC 7519 section 2, NumericDate).
    exp: f64,
}

impl Claims {
    /// Expiry with the tolerated clock difference.
    pub(crate) fn until(&self) -> Timestamp {
        // The cast and the sum saturate, and so does the timestamp.
        #[allow(clippy::cast_possible_truncation)]
        let seconds = (self.exp as i64).saturating_add(LEEWAY);
        Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
    }
}

impl Tokens {
    /// The settings are validated.
    pub(crate) fn new(jwt: &Jwt) -> Self {
        // Already installed when this runs again, as in tests.
        let _ = PROVIDER.install_default();
        let secret = jwt
            .secret
            .as_ref()
            .map(|secret| (DecodingKey::from_secret(secret.expose().as_bytes()), Algorithm::HS256));
        let public_key = jwt.public_key.as_ref().and_then(|key| {
            DecodingKey::from_rsa_pem(key.expose().as_bytes()).ok().zip(Some(Algorithm::RS256))
        });
        let keys = [secret, public_key].into_iter().flatten();
        let keys = keys.map(|(key, algorithm)| {
            let mut validation = Validation::new(algorithm);
            validation.set_issuer(&[&jwt.issuer]);
            validation.set_audience(&[&jwt.audience]);
            validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
            validation.validate_nbf = true;
            validation.leeway = LEEWAY.unsigned_abs();
            (key, validation)
        });
        Self { keys: keys.collect() }
    }

    /// The claims of a token; `None` if it is invalid.
    pub(crate) fn claims(&self, token: &str) -> Option<Claims> {
        let algorithm = decode_header(token).ok()?.alg;
        let (key, validation) =
            self.keys.iter().find(|(_, validation)| validation.algorithms.contains(&algorithm))?;
        decode::<Claims>(token, key, validation).ok().map(|token| token.claims)
    }
}

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: no_signer,
    verifier_factory: verifier,
    key_utils: KeyUtils::new_unimplemented(),
};

fn no_signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Err(ErrorKind::InvalidAlgorithm.into())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    let bytes = key.try_get_as_bytes()?;
    match algorithm {
        Algorithm::HS256 => Ok(Box::new(Hs256(hmac::Key::new(hmac::HMAC_SHA256, bytes)))),
        Algorithm::RS256 => Ok(Box::new(Rs256(bytes.to_vec()))),
        _ => Err(ErrorKind::InvalidAlgorithm.into()),
    }
}

struct Hs256(hmac::Key);

/// The public key in DER (PKCS #1).
struct Rs256(Vec<u8>);

impl Verifier<Vec<u8>> for Hs256 {
    fn verify(
        &self,
        message: &[u8],
        signature: &Vec<u8>,
    ) -> std::result::Result<(), signature::Error> {
        hmac::verify(&self.0, message, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl Verifier<Vec<u8>> for Rs256 {
    fn verify(
        &self,
        message: &[u8],
        signature: &Vec<u8>,
    ) -> std::result::Result<(), signature::Error> {
        let key = rsa::UnparsedPublicKey::new(&rsa::RSA_PKCS1_2048_8192_SHA256, &self.0);
        key.verify(message, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Rs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::RS256
    }
}
