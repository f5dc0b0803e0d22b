//! How tokens are signed (RFC 7518, section 3), and what key files hold: the PEM forms that Go's JWT library takes.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, ParsedPublicKey, RsaEncoding,
    RsaKeyPair, VerificationAlgorithm,
};

/// A way to sign.
#[derive(Debug)]
pub(crate) struct Method {
    /// Its name in the heads of tokens and in `--auth-token`.
    pub name: &'static str,
    scheme: Scheme,
}

#[derive(Debug)]
enum Scheme {
    /// With a secret that both sides have.
    Hmac(hmac::Algorithm),
    Rsa(&'static dyn RsaEncoding, &'static dyn VerificationAlgorithm),
    Ec(&'static EcdsaSigningAlgorithm, &'static dyn VerificationAlgorithm),
    Ed,
}

macro_rules! method {
    ($name:literal, $scheme:expr) => {
        Method { name: $name, scheme: $scheme }
    };
}

static METHODS: &[Method] = {
    use Scheme::{Ec, Ed, Hmac, Rsa};
    use signature::*;
    &[
        method!("HS256", Hmac(hmac::HMAC_SHA256)),
        method!("HS384", Hmac(hmac::HMAC_SHA384)),
        method!("HS512", Hmac(hmac::HMAC_SHA512)),
        method!("RS256", Rsa(&RSA_PKCS1_SHA256, &RSA_PKCS1_2048_8192_SHA256)),
        method!("RS384", Rsa(&RSA_PKCS1_SHA384, &RSA_PKCS1_2048_8192_SHA384)),
        method!("RS512", Rsa(&RSA_PKCS1_SHA512, &RSA_PKCS1_2048_8192_SHA512)),
        method!("PS256", Rsa(&RSA_PSS_SHA256, &RSA_PSS_2048_8192_SHA256)),
        method!("PS384", Rsa(&RSA_PSS_SHA384, &RSA_PSS_2048_8192_SHA384)),
        method!("PS512", Rsa(&RSA_PSS_SHA512, &RSA_PSS_2048_8192_SHA512)),
        method!("ES256", Ec(&ECDSA_P256_SHA256_FIXED_SIGNING, &ECDSA_P256_SHA256_FIXED)),
        method!("ES384", Ec(&ECDSA_P384_SHA384_FIXED_SIGNING, &ECDSA_P384_SHA384_FIXED)),
        method!("ES512", Ec(&ECDSA_P521_SHA512_FIXED_SIGNING, &ECDSA_P521_SHA512_FIXED)),
        method!("EdDSA", Ed),
    ]
};

/// Signs.
pub(crate) enum Signer {
    Hmac(Box<hmac::Key>),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// Checks signatures.
pub(crate) enum Checker {
    Hmac(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl Method {
    pub fn named(name: &str) -> Option<&'static Self> {
        METHODS.iter().find(|method| method.name == name)
    }

    /// Whether both sides have the same key.
    pub fn is_secret(&self) -> bool {
        matches!(self.scheme, Scheme::Hmac(_))
    }

    /// What signs, of a file: a secret as it is, or a private key (PKCS#8, PKCS#1 or SEC 1, in PEM).
    ///
    /// # Errors
    /// It is none of these, or not of this method.
    pub fn signer(&self, file: &[u8]) -> Result<Signer, String> {
        let der = || contents(file);
        let signer = match self.scheme {
            Scheme::Hmac(algorithm) => return Ok(Signer::Hmac(Box::new(hmac::Key::new(algorithm, file)))),
            Scheme::Rsa(encoding, _) => RsaKeyPair::from_pkcs8(&der()?)
                .or(RsaKeyPair::from_der(&der()?))
                .map(|pair| Signer::Rsa(pair, encoding)),
            Scheme::Ec(algorithm, _) => {
                EcdsaKeyPair::from_private_key_der(algorithm, &der()?).map(Signer::Ec)
            }
            Scheme::Ed => Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der()?).map(Signer::Ed),
        };
        signer.map_err(|error| self.unfit(error))
    }

    /// What checks, of a file: a public key (PKIX, PKCS#1 or a certificate, in PEM).
    ///
    /// # Errors
    /// It is none of these, or not of this method.
    pub fn checker(&self, file: &[u8]) -> Result<Checker, String> {
        let der = contents(file)?;
        self.public(&der).or_else(|error| {
            let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|_| error)?;
            self.public(certificate.public_key().raw)
        })
    }

    /// What checks the signatures of one that signs.
    ///
    /// # Errors
    /// Its key cannot be used for that.
    pub fn checker_of(&self, signer: &Signer) -> Result<Checker, String> {
        match signer {
            Signer::Hmac(key) => Ok(Checker::Hmac(key.clone())),
            Signer::Rsa(pair, _) => self.public(pair.public_key().as_ref()),
            Signer::Ec(pair) => self.public(pair.public_key().as_ref()),
            Signer::Ed(pair) => self.public(pair.public_key().as_ref()),
        }
    }

    fn public(&self, public: &[u8]) -> Result<Checker, String> {
        let algorithm = match self.scheme {
            Scheme::Hmac(_) => return Err("a secret has no public key".to_owned()),
            Scheme::Rsa(_, algorithm) | Scheme::Ec(_, algorithm) => algorithm,
            Scheme::Ed => &signature::ED25519,
        };
        ParsedPublicKey::new(algorithm, public).map(Checker::Public).map_err(|error| self.unfit(error))
    }

    fn unfit(&self, error: impl std::fmt::Display) -> String {
        format!("it holds no key for {}: {error}", self.name)
    }
}

/// What the first block of a PEM file holds, whatever its label says, as in Go.
fn contents(pem: &[u8]) -> Result<Vec<u8>, String> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem).map_err(|error| error.to_string())?;
    Ok(block.contents)
}

impl Signer {
    /// The signature of a message; `None` if the key cannot make it.
    pub fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Hmac(key) => Some(hmac::sign(key, message).as_ref().to_vec()),
            Self::Rsa(pair, encoding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*encoding, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Self::Ec(pair) => Some(pair.sign(&random, message).ok()?.as_ref().to_vec()),
            Self::Ed(pair) => Some(pair.sign(message).as_ref().to_vec()),
        }
    }
}

impl Checker {
    /// Whether a signature is that of a message.
    pub fn is_good(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Hmac(key) => hmac::verify(key, message, signature).is_ok(),
            Self::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_sign_and_check() {
        for name in ["HS256", "HS384", "HS512"] {
            let method = Method::named(name).expect("a method");
            let signer = method.signer(b"secret").expect("a secret");
            let checker = method.checker_of(&signer).expect("the same");
            let signature = signer.sign(b"message").expect("signed");
            assert!(checker.is_good(b"message", &signature) && !checker.is_good(b"massage", &signature));
        }
        assert!(Method::named("none").is_none());
    }
}
