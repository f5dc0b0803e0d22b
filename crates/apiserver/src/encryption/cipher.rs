//! The providers: how values are sealed. Each value begins with the provider's name and that of the key.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{
    self, DecryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::{hmac, rand};
use bytes::Bytes;
use crypto_secretbox::aead::AeadInPlace;
use crypto_secretbox::{KeyInit, XSalsa20Poly1305};
use std::sync::Arc;

use super::kms::Kms;

const GCM_NONCE: usize = 12;
const CBC_IV: usize = 16;
const BOX_NONCE: usize = 24;
const BOX_TAG: usize = 16;
/// Bytes of a seed, at least.
const MIN_SEED: usize = 32;
/// Bytes that make a key of a seed, before each value.
const INFO: usize = 32;

/// One provider with its keys: the first seals, all open.
pub(super) enum Provider {
    Identity,
    Keys {
        prefix: &'static str,
        keys: Vec<(String, Cipher)>,
    },
    /// A plugin holds the keys.
    Kms(Arc<Kms>),
}

/// A key with its algorithm.
pub(super) enum Cipher {
    /// AES-GCM with a random nonce; the storage key is authenticated too.
    Gcm(LessSafeKey),
    /// AES-CBC with PKCS #7 padding, which authenticates nothing.
    Cbc(Box<(PaddedBlockEncryptingKey, PaddedBlockDecryptingKey)>),
    /// XSalsa20 and Poly1305.
    Secretbox(XSalsa20Poly1305),
    /// AES-GCM with a key of its own for each value, made from a seed and from what stands before the value (HKDF's
    /// second step, RFC 5869, 2.3).
    Seed(Box<hmac::Key>),
}

impl Cipher {
    /// A key of 16, 24 or 32 bytes.
    pub fn gcm(secret: &[u8]) -> Option<Self> {
        let algorithm = match secret.len() {
            16 => &aead::AES_128_GCM,
            24 => &aead::AES_192_GCM,
            32 => &aead::AES_256_GCM,
            _ => return None,
        };
        UnboundKey::new(algorithm, secret).ok().map(|key| Self::Gcm(LessSafeKey::new(key)))
    }

    /// A key of 16, 24 or 32 bytes.
    pub fn cbc(secret: &[u8]) -> Option<Self> {
        let algorithm = match secret.len() {
            16 => &cipher::AES_128,
            24 => &cipher::AES_192,
            32 => &cipher::AES_256,
            _ => return None,
        };
        let key = || UnboundCipherKey::new(algorithm, secret).ok();
        let sealing = PaddedBlockEncryptingKey::cbc_pkcs7(key()?).ok()?;
        Some(Self::Cbc(Box::new((sealing, PaddedBlockDecryptingKey::cbc_pkcs7(key()?).ok()?))))
    }

    /// A key of 32 bytes.
    pub fn secretbox(secret: &[u8]) -> Option<Self> {
        XSalsa20Poly1305::new_from_slice(secret).ok().map(Self::Secretbox)
    }

    /// A seed of 32 bytes or more.
    pub fn seed(secret: &[u8]) -> Option<Self> {
        (secret.len() >= MIN_SEED).then(|| Self::Seed(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret))))
    }

    /// Appends the sealed value to `out`.
    pub fn seal(&self, key: &[u8], value: &[u8], out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Gcm(cipher) => {
                let nonce: [u8; GCM_NONCE] = random()?;
                let mut text = value.to_vec();
                let nonce_of_call = Nonce::assume_unique_for_key(nonce);
                cipher.seal_in_place_append_tag(nonce_of_call, Aad::from(key), &mut text).ok()?;
                out.extend_from_slice(&nonce);
                out.extend_from_slice(&text);
            }
            Self::Cbc(keys) => {
                let mut text = value.to_vec();
                let DecryptionContext::Iv128(iv) = keys.0.encrypt(&mut text).ok()? else { return None };
                out.extend_from_slice(iv.as_ref());
                out.extend_from_slice(&text);
            }
            Self::Secretbox(cipher) => {
                let nonce: [u8; BOX_NONCE] = random()?;
                let mut text = value.to_vec();
                let tag = cipher.encrypt_in_place_detached(&nonce.into(), b"", &mut text).ok()?;
                out.extend_from_slice(&nonce);
                out.extend_from_slice(&tag);
                out.extend_from_slice(&text);
            }
            Self::Seed(seed) => {
                let info: [u8; INFO] = random()?;
                out.extend_from_slice(&info);
                derived(seed, &info)?.seal(key, value, out)?;
            }
        }
        Some(())
    }

    pub fn open(&self, key: &[u8], sealed: &[u8]) -> Option<Bytes> {
        match self {
            Self::Gcm(cipher) => {
                let (nonce, text) = sealed.split_first_chunk::<GCM_NONCE>()?;
                let mut text = text.to_vec();
                let nonce = Nonce::assume_unique_for_key(*nonce);
                let len = cipher.open_in_place(nonce, Aad::from(key), &mut text).ok()?.len();
                text.truncate(len);
                Some(text.into())
            }
            Self::Cbc(keys) => {
                let (iv, text) = sealed.split_first_chunk::<CBC_IV>()?;
                let mut text = text.to_vec();
                let context = DecryptionContext::Iv128(FixedLength::from(iv));
                let len = keys.1.decrypt(&mut text, context).ok()?.len();
                text.truncate(len);
                Some(text.into())
            }
            Self::Secretbox(cipher) => {
                let (nonce, rest) = sealed.split_first_chunk::<BOX_NONCE>()?;
                let (tag, text) = rest.split_first_chunk::<BOX_TAG>()?;
                let mut text = text.to_vec();
                cipher.decrypt_in_place_detached(nonce.into(), b"", &mut text, tag.into()).ok()?;
                Some(text.into())
            }
            Self::Seed(seed) => {
                let (info, sealed) = sealed.split_first_chunk::<INFO>()?;
                derived(seed, info)?.open(key, sealed)
            }
        }
    }
}

/// The key that a seed gives for some bytes: one block of HKDF's output, which is a whole key.
fn derived(seed: &hmac::Key, info: &[u8; INFO]) -> Option<Cipher> {
    let mut block = hmac::Context::with_key(seed);
    block.update(info);
    block.update(&[1]);
    Cipher::gcm(block.sign().as_ref())
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).ok()?;
    Some(bytes)
}

impl Provider {
    pub fn seal(&self, key: &[u8], value: Bytes) -> Result<Bytes, String> {
        let (prefix, keys) = match self {
            Self::Identity => return Ok(value),
            Self::Kms(kms) => return kms.seal(key, &value),
            Self::Keys { prefix, keys } => (prefix, keys),
        };
        let (name, cipher) = keys.first().ok_or("there is no key")?;
        let mut out = Vec::with_capacity(prefix.len() + name.len() + value.len() + 64);
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(name.as_bytes());
        out.push(b':');
        cipher.seal(key, &value, &mut out).ok_or("the value cannot be sealed")?;
        Ok(out.into())
    }

    /// None for what another provider sealed.
    pub fn open(&self, key: &[u8], stored: &Bytes) -> Option<Result<Bytes, String>> {
        let (prefix, keys) = match self {
            Self::Identity => return None,
            Self::Kms(kms) => return kms.open(key, stored),
            Self::Keys { prefix, keys } => (prefix, keys),
        };
        let rest = stored.strip_prefix(prefix.as_bytes())?;
        let named = |name: &str| rest.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b":"));
        let mut found = None;
        for (name, cipher) in keys {
            let Some(sealed) = named(name) else { continue };
            match cipher.open(key, sealed) {
                Some(value) => return Some(Ok(value)),
                None => found = Some(Err(format!("the value cannot be opened with key {name}"))),
            }
        }
        found
    }

    /// Whether a value is stored as this provider would store it now.
    pub fn is_current(&self, stored: &Bytes) -> bool {
        match self {
            Self::Kms(kms) => kms.is_current(stored),
            Self::Identity => !stored.starts_with(super::SEALED),
            Self::Keys { prefix, keys } => {
                let rest = stored.strip_prefix(prefix.as_bytes());
                let first = keys.first().map_or("", |(name, _)| name);
                rest.and_then(|rest| rest.strip_prefix(first.as_bytes()))
                    .is_some_and(|rest| rest.first() == Some(&b':'))
            }
        }
    }
}
