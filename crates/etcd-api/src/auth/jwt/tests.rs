//! Keys in the forms that `openssl` writes them in (`testdata/keys`).

use std::path::PathBuf;
use std::time::Duration;

use super::super::signing::Method;
use super::*;

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn key(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/keys")).join(name)
}

fn open(method: &str, private: Option<PathBuf>, public: Option<PathBuf>) -> Result<Jwt, AuthOptionsError> {
    let method = Method::named(method).expect("a method");
    let ttl = Duration::from_secs(60);
    Jwt::open(JwtOptions { method, public_key: public, private_key: private, ttl })
}

/// A token with these claims, signed by the key that another signs with.
fn signed(jwt: &Jwt, claims: &str) -> String {
    let head = Head { alg: jwt.options.method.name.to_owned(), typ: String::new() };
    let signed = format!("{}.{}", encoded(&head).expect("JSON"), URL_SAFE_NO_PAD.encode(claims));
    let signature = jwt.keys.load().signer.as_ref().expect("a key").sign(signed.as_bytes()).expect("signed");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn keys_are_read_in_every_form_that_go_reads() {
    let rsa: &[&str] = &["rsa.pkcs1.key", "rsa.pkcs8.key", "rsa.pkix.pub", "rsa.pkcs1.pub", "rsa.crt"];
    let ec256: &[&str] = &["ec256.sec1.key", "ec256.pkcs8.key", "ec256.pkix.pub", "ec256.crt"];
    let ec384: &[&str] = &["ec384.sec1.key", "ec384.pkcs8.key", "ec384.pkix.pub", "ec384.crt"];
    let ec521: &[&str] = &["ec521.sec1.key", "ec521.pkcs8.key", "ec521.pkix.pub", "ec521.crt"];
    let ed: &[&str] = &["ed.pkcs8.key", "ed.pkix.pub", "ed.crt"];
    let methods = [
        (&["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..], rsa),
        (&["ES256"], ec256),
        (&["ES384"], ec384),
        (&["ES512"], ec521),
        (&["EdDSA"], ed),
    ];
    for (method, files) in
        methods.iter().flat_map(|(names, files)| names.iter().map(move |name| (name, files)))
    {
        let (private, public): (Vec<&str>, Vec<&str>) = files.iter().partition(|file| file.ends_with(".key"));
        for private in &private {
            let alone = open(method, Some(key(private)), None);
            let alone = alone.unwrap_or_else(|error| panic!("{method} {private}: {error}"));
            let token = alone.sign("alice", 7, NOW).expect("a token");
            for public in &public {
                let reads = |private: Option<&str>| {
                    let jwt = open(method, private.map(key), Some(key(public)));
                    let jwt = jwt.unwrap_or_else(|error| panic!("{method} {public}: {error}"));
                    let caller = jwt.verify(&token, NOW).expect("it is good");
                    assert_eq!((caller.user.as_str(), caller.revision), ("alice", 7));
                    jwt
                };
                reads(Some(private));
                let verifies = reads(None);
                assert!(verifies.sign("alice", 7, NOW).is_none(), "it has no private key");
            }
        }
    }
}

#[test]
fn keys_that_do_not_fit_are_refused() {
    let refused = |method, private: Option<&str>, public: Option<&str>| {
        open(method, private.map(key), public.map(key)).err().expect("refused").to_string()
    };
    assert_eq!(refused("RS256", None, None), "auth: missing key data");
    assert_eq!(refused("HS256", None, Some("rsa.pkix.pub")), "auth: missing key data");
    let other = tempfile::NamedTempFile::new().expect("a file");
    let pair = rcgen::KeyPair::generate().expect("a key");
    fs::write(&other, pair.public_key_pem()).expect("written");
    let mismatch = open("ES256", Some(key("ec256.sec1.key")), Some(other.path().to_owned()));
    assert!(matches!(mismatch.err(), Some(AuthOptionsError::KeyMismatch)));
    for (method, private) in
        [("ES256", "ec384.sec1.key"), ("RS256", "ec256.pkcs8.key"), ("EdDSA", "rsa.pkcs1.key")]
    {
        assert!(refused(method, Some(private), None).contains("it holds no key for"), "{method} {private}");
    }
    assert!(refused("ES512", None, Some("ec256.crt")).contains("it holds no key for ES512"));
    assert!(refused("RS256", Some("nothing"), None).contains("nothing"));
}

#[test]
fn tokens_are_read_as_go_reads_them() {
    let secret = tempfile::NamedTempFile::new().expect("a file");
    fs::write(&secret, "secret").expect("written");
    let jwt = open("HS256", Some(secret.path().to_owned()), None).expect("a secret");
    let seconds = NOW.millis() / 1000;
    let is_good = |claims: &str| jwt.verify(&signed(&jwt, claims), NOW);
    let caller = is_good(r#"{"username":"u","revision":3.0,"aud":"x"}"#).expect("it never ends");
    assert_eq!((caller.user.as_str(), caller.revision), ("u", 3));
    let timed = |name: &str, at: i64| is_good(&format!(r#"{{"username":"u","revision":1,"{name}":{at}}}"#));
    assert!(timed("exp", seconds + 1).is_some() && timed("exp", seconds).is_none());
    assert!(timed("nbf", seconds).is_some() && timed("nbf", seconds + 1).is_none());
    assert!(is_good(r#"{"username":"u"}"#).is_none() && is_good(r#"{"revision":1}"#).is_none());
    let token = jwt.sign("u", 1, NOW).expect("a token");
    assert!(jwt.verify(&token, NOW).is_some());
    let end = Timestamp::from_millis(NOW.millis() + 60_000);
    assert!(jwt.verify(&token, end).is_none(), "after its time");
    let (signed, _) = token.rsplit_once('.').expect("three parts");
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
    let (_, claims) = signed.split_once('.').expect("two parts");
    for wrong in
        [format!("{signed}."), format!("{signed}.AAAA"), format!("{none}.{claims}."), signed.to_owned()]
    {
        assert!(jwt.verify(&wrong, NOW).is_none(), "{wrong}");
    }
}

#[test]
fn a_key_file_that_changes_is_read_again() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    // Each time another minute, however coarse the times of files are.
    let write = |text: &str, minute: u64| {
        fs::write(&file, text).expect("written");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(60 * minute);
        fs::File::options().write(true).open(&file).expect("opened").set_modified(time).expect("set");
    };
    write("first", 1);
    let jwt = open("HS256", Some(file.path().to_owned()), None).expect("a secret");
    let first = jwt.sign("u", 1, NOW).expect("a token");
    jwt.refresh();
    assert!(jwt.verify(&first, NOW).is_some());
    write("second", 2);
    assert!(jwt.verify(&first, NOW).is_some(), "nobody has looked");
    jwt.refresh();
    assert!(jwt.verify(&first, NOW).is_none());
    let second = jwt.sign("u", 1, NOW).expect("a token");
    fs::remove_file(&file).expect("removed");
    jwt.refresh();
    assert!(jwt.verify(&second, NOW).is_some(), "what cannot be read leaves the key");
}
