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
use serde_json::{Map, Value};

use crate::config::{Jwt, Role};

/// Tolerated clock difference, in seconds.
const LEEWAY: i64 = 60;

/// Verifies tokens.
pub(crate) struct Tokens {
    keys: Vec<(DecodingKey, Validation)>,
    role_claim: Option<String>,
}

/// The claims that usher uses.
#[derive(Deserialize)]
pub(crate) struct Claims {
    /// Subject of the mail.
    pub(crate) sub: String,
    /// Expiry, in seconds since 1970 (RFC 7519 section 2, NumericDate).
    exp: f64,
    /// The highest role that it names.
    #[serde(skip)]
    pub(crate) role: Option<Role>,
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
        Self { keys: keys.collect(), role_claim: jwt.role_claim.clone() }
    }

    /// The claims of a token; `None` if it is invalid.
    pub(crate) fn claims(&self, token: &str) -> Option<Claims> {
        let algorithm = decode_header(token).ok()?.alg;
        let (key, validation) =
            self.keys.iter().find(|(_, validation)| validation.algorithms.contains(&algorithm))?;
        let all = decode::<Map<String, Value>>(token, key, validation).ok()?.claims;
        let all = Value::Object(all);
        let role = self.role_claim.as_deref().and_then(|claim| role(&all, claim));
        Some(Claims { role, ..serde_json::from_value(all).ok()? })
    }

    /// The claim that must name a role.
    pub(crate) fn role_claim(&self) -> Option<&str> {
        self.role_claim.as_deref()
    }
}

/// The highest role in a claim: a name, several between blanks, or a list. A claim that begins with `/` is
/// a JSON pointer (RFC 6901).
fn role(claims: &Value, claim: &str) -> Option<Role> {
    let named = if claim.starts_with('/') { claims.pointer(claim) } else { claims.get(claim) };
    let names: Vec<&str> = match named? {
        Value::String(names) => names.split_whitespace().collect(),
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    names.into_iter().filter_map(Role::from_name).max()
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
