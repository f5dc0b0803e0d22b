//! The envelope of a value: what is stored beside it says how a plugin gives back the key that opens it (upstream:
//! `apiserver/pkg/storage/value/encrypt/envelope/kmsv2`). Pure.

use std::collections::BTreeMap;

use api_rules::format::{dns1123_label, dns1123_subdomain};
use aws_lc_rs::digest;
use bytes::Bytes;
use prost::Message as _;
use protos::kms::{EncryptResponse, EncryptedDekSourceType, EncryptedObject};

use super::super::cipher::Cipher;

/// Bytes of a key's name.
const MAX_KEY_ID: usize = 1024;
/// Bytes of what the plugin sealed.
const MAX_SOURCE: usize = 1024;
/// Bytes of all annotations, names and values.
const MAX_ANNOTATIONS: usize = 32 * 1024;
/// What new values are sealed with: a key of their own, made from the plugin's seed.
const SEED: EncryptedDekSourceType = EncryptedDekSourceType::HkdfSha256XnonceAesGcmSeed;

/// What a source of keys is kept under.
pub(super) type SourceId = [u8; 32];

/// What the plugin gave for a new seed, in the form in which it goes with every value.
///
/// # Errors
/// The plugin's answer breaks the protocol.
pub(super) fn of_answer(answer: EncryptResponse) -> Result<EncryptedObject, String> {
    let object = EncryptedObject {
        key_id: answer.key_id,
        encrypted_dek_source: answer.ciphertext,
        annotations: answer.annotations,
        encrypted_dek_source_type: SEED.into(),
        // Any that is not empty.
        encrypted_data: Bytes::from_static(&[0]),
    };
    check(&object)?;
    Ok(EncryptedObject { encrypted_data: Bytes::new(), ..object })
}

/// Reads a value behind its prefix.
///
/// # Errors
/// It is no envelope.
pub(super) fn decode(sealed: Bytes) -> Result<EncryptedObject, String> {
    let object = EncryptedObject::decode(sealed).map_err(|error| error.to_string())?;
    check(&object)?;
    Ok(object)
}

/// An envelope with sealed data in it, behind a prefix.
pub(super) fn encode(prefix: &str, source: &EncryptedObject, data: Vec<u8>) -> Bytes {
    let object = EncryptedObject { encrypted_data: data.into(), ..source.clone() };
    let mut out = Vec::with_capacity(prefix.len() + object.encoded_len());
    out.extend_from_slice(prefix.as_bytes());
    out.extend_from_slice(&object.encode_to_vec());
    out.into()
}

/// Whether a value is sealed as new ones are: with the key of the moment, and in the way of the moment.
pub(super) fn is_current(object: &EncryptedObject, source: &EncryptedObject) -> bool {
    object.key_id == source.key_id && object.encrypted_dek_source_type == source.encrypted_dek_source_type
}

/// The cipher of what the plugin opened.
///
/// # Errors
/// The plugin gave something that is no key or seed.
pub(super) fn cipher(object: &EncryptedObject, plain: &[u8]) -> Result<Cipher, String> {
    if object.encrypted_dek_source_type == i32::from(SEED) {
        return Cipher::seed(plain)
            .ok_or_else(|| format!("invalid seed length {} used for key generation", plain.len()));
    }
    Cipher::gcm(plain).ok_or_else(|| format!("crypto/aes: invalid key size {}", plain.len()))
}

/// What tells the source of a value's key from all others.
pub(super) fn source_id(object: &EncryptedObject) -> SourceId {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut part = |bytes: &[u8]| {
        hash.update(&(bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(&object.encrypted_dek_source_type.to_be_bytes());
    part(&object.encrypted_dek_source);
    part(object.key_id.as_bytes());
    for (name, value) in &object.annotations {
        part(name.as_bytes());
        part(value);
    }
    let mut id = SourceId::default();
    id.copy_from_slice(hash.finish().as_ref());
    id
}

/// A key's name as it may be told: as a hash.
pub(super) fn key_id_hash(key_id: &str) -> String {
    if key_id.is_empty() {
        return String::new();
    }
    let hash = digest::digest(&digest::SHA256, key_id.as_bytes());
    hash.as_ref().iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Checks a key's name.
///
/// # Errors
/// It is empty or too long.
pub(super) fn check_key_id(key_id: &str) -> Result<(), String> {
    match key_id.len() {
        0 => Err("keyID is empty".to_owned()),
        length if length > MAX_KEY_ID => {
            Err(format!("keyID is {length} bytes, which exceeds the max size of {MAX_KEY_ID}"))
        }
        _ => Ok(()),
    }
}

fn check(object: &EncryptedObject) -> Result<(), String> {
    let kind = object.encrypted_dek_source_type;
    if EncryptedDekSourceType::try_from(kind).is_err() {
        return Err(format!("unknown encryptedDEKSourceType: {kind}"));
    }
    if object.encrypted_data.is_empty() {
        return Err("encrypted data is empty".to_owned());
    }
    let source = match object.encrypted_dek_source.len() {
        0 => Err("encrypted DEK source is empty".to_owned()),
        length if length > MAX_SOURCE => {
            Err(format!("encrypted DEK source is {length} bytes, which exceeds the max size of {MAX_SOURCE}"))
        }
        _ => Ok(()),
    };
    source.map_err(|error| format!("failed to validate encrypted DEK source: {error}"))?;
    check_key_id(&object.key_id).map_err(|error| format!("failed to validate key id: {error}"))?;
    let annotations = check_annotations(&object.annotations);
    annotations.map_err(|error| format!("failed to validate annotations: {error}"))
}

fn check_annotations(annotations: &BTreeMap<String, Bytes>) -> Result<(), String> {
    let mut errors: Vec<String> = annotations.keys().filter_map(|name| fault_of_name(name)).collect();
    let total: usize = annotations.iter().map(|(name, value)| name.len() + value.len()).sum();
    if total > MAX_ANNOTATIONS {
        errors.push(format!(
            "total size of annotations is {total}, which exceeds the max size of {MAX_ANNOTATIONS}"
        ));
    }
    super::all_of(errors)
}

/// What keeps a name from being a fully qualified domain name.
fn fault_of_name(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("annotations: Required value".to_owned());
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let invalid = |value: &str, what: String| Some(format!("annotations: Invalid value: {value:?}: {what}"));
    let faults = dns1123_subdomain(name);
    if !faults.is_empty() {
        return invalid(name, faults.join(","));
    }
    if !name.contains('.') {
        let text = "should be a domain with at least two segments separated by dots";
        return invalid(name, text.to_owned());
    }
    let label = name.split('.').find(|label| !dns1123_label(label).is_empty())?;
    invalid(label, dns1123_label(label).join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> EncryptResponse {
        EncryptResponse {
            ciphertext: Bytes::from_static(b"sealed"),
            key_id: "1".into(),
            annotations: [("a.example".to_owned(), Bytes::from_static(b"x"))].into(),
        }
    }

    fn fault(change: impl FnOnce(&mut EncryptResponse)) -> String {
        let mut answer = answer();
        change(&mut answer);
        of_answer(answer).err().unwrap_or_default()
    }

    #[test]
    fn answers_that_break_the_protocol_are_told_as_upstream_does() {
        assert_eq!(fault(|_| ()), "");
        assert_eq!(
            fault(|answer| answer.ciphertext = Bytes::new()),
            "failed to validate encrypted DEK source: encrypted DEK source is empty"
        );
        assert_eq!(
            fault(|answer| answer.ciphertext = vec![0; 1025].into()),
            "failed to validate encrypted DEK source: encrypted DEK source is 1025 bytes, which exceeds the max size of 1024"
        );
        assert_eq!(
            fault(|answer| answer.key_id = String::new()),
            "failed to validate key id: keyID is empty"
        );
        assert_eq!(
            fault(|answer| answer.key_id = "k".repeat(1025)),
            "failed to validate key id: keyID is 1025 bytes, which exceeds the max size of 1024"
        );
        let annotated =
            |name: &str| fault(|answer| drop(answer.annotations.insert(name.to_owned(), Bytes::new())));
        assert!(annotated("plain").contains("at least two segments"));
        assert!(annotated("A.example").contains("annotations: Invalid value: \"A.example\""));
        assert!(annotated("").contains("Required value"));
        assert_eq!(annotated("b.example."), "");
        let large = |answer: &mut EncryptResponse| {
            drop(answer.annotations.insert("b.example".into(), vec![0; 32 * 1024].into()));
        };
        assert!(fault(large).contains("total size of annotations is 32787"), "{}", fault(large));
    }

    #[test]
    fn envelopes_are_read_back_and_damaged_ones_refused() {
        let source = of_answer(answer()).unwrap();
        let stored = encode("k8s:enc:kms:v2:p:", &source, vec![7; 60]);
        let sealed = stored.slice("k8s:enc:kms:v2:p:".len()..);
        let read = decode(sealed.clone()).unwrap();
        assert_eq!(read.encrypted_data, vec![7; 60]);
        assert!(is_current(&read, &source) && source_id(&read) == source_id(&source));
        for cut in 0..sealed.len() {
            drop(decode(sealed.slice(..cut)));
        }
        assert_eq!(decode(Bytes::new()).unwrap_err(), "encrypted data is empty");
        let strange = EncryptedObject { encrypted_dek_source_type: 2, ..read.clone() };
        assert_eq!(decode(strange.encode_to_vec().into()).unwrap_err(), "unknown encryptedDEKSourceType: 2");
        let other = EncryptedObject { annotations: BTreeMap::new(), ..read };
        assert_ne!(source_id(&other), source_id(&source));
    }

    #[test]
    fn key_ids_are_told_as_hashes() {
        let of_1 = "sha256:6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b";
        assert_eq!((key_id_hash("1").as_str(), key_id_hash("").as_str()), (of_1, ""));
    }
}
